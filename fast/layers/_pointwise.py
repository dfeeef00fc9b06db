"""Elementwise functions with written-out derivatives, in as few passes over memory as plain tensor operations allow.

    y = f(x, a, …)      dx = dy · ∂f/∂x      da = Σ dy · ∂f/∂a, over the elements that a was broadcast to

Autograd differentiates a formula step by step: it keeps every intermediate and walks over memory once a step. Here a
derivative is one formula, which states the choice at a kink. A function whose value and derivative share their costly
part computes both at once and keeps the derivative, so that the backward pass is one product.

Convention: no mask, `where` or `trunc`. A mask that follows noise defeats a processor's branch prediction, and `trunc`
is not vectorised: either takes up to a hundred times as long as a product.
"""

from collections.abc import Callable
from itertools import zip_longest
from math import inf, nextafter, pi, sqrt

import torch
from torch import Tensor
from torch.autograd import Function

from ._opaque import erfc


class Pointwise(Function):
    """(value, gradients, x, a, …) → value(x, a, …)."""

    @staticmethod
    def forward(ctx, value, gradients, *arguments):
        ctx.save_for_backward(*(a for a in arguments if isinstance(a, Tensor)))
        ctx.constants = [a for a in arguments if not isinstance(a, Tensor)]
        ctx.gradients = gradients
        return value(*arguments)

    @staticmethod
    def backward(ctx, dy):
        arguments = (*ctx.saved_tensors, *ctx.constants)
        found = [
            gradient(dy, *arguments).sum_to_size(argument.shape) if needed else None
            for argument, gradient, needed in zip_longest(arguments, ctx.gradients, ctx.needs_input_grad[2:])
        ]
        return None, None, *found


def pointwise(value: Callable[..., Tensor], *gradients: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function `value` with the derivatives in `gradients`; all take the same tensors, then constants.

    Args:
        value: f(x, a, …). It runs without a graph, so it may work in place on its own temporaries.
        gradients: (dy, x, a, …) → dx, then da, …; constants need none. A second derivative goes through them by
            autograd: they begin at the arguments, never at a result of `value`, which is a constant to autograd.
    """
    return lambda *arguments: Pointwise.apply(value, gradients, *arguments)


# Elements of a block: value, derivative and input of one stay in the cache from the first step of `both` to the last.
BLOCK = 1 << 18


class Kept(Function):
    """(value and derivative, derivative, x, …) → value(x, …); the derivative is kept for the backward pass."""

    @staticmethod
    def forward(ctx, both, derivative, x, *constants):
        value, found = torch.empty_like(x), torch.empty_like(x)
        for block in _blocks(x, value, found):
            both(*block, *constants)
        ctx.save_for_backward(x, found)
        ctx.derivative, ctx.constants = derivative, constants
        return value

    @staticmethod
    def backward(ctx, dy):
        x, found = ctx.saved_tensors
        # What forward computed is a constant to autograd: the derivative of a derivative begins at x.
        dx = dy * (ctx.derivative(x, *ctx.constants) if torch.is_grad_enabled() else found)
        return None, None, dx, *[None] * len(ctx.constants)


def kept(both: Callable, derivative: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function, of x and constants, that computes its derivative along with its value.

    Args:
        both: (x, value, derivative, …) writes the last two, which it is given as memory and may use in between.
        derivative: (x, …) → the derivative by differentiable steps.
    """
    return lambda x, *constants: Kept.apply(both, derivative, x, *constants)


def _blocks(*tensors):
    """The tensors' elements in blocks, where they lie one after another; the compiler makes blocks of its own."""
    if torch.compiler.is_compiling() or not all(t.is_contiguous() for t in tensors):
        return [tensors]
    return zip(*(t.view(-1).split(BLOCK) for t in tensors))


# ---------------------------------------------------------------- rectifiers; at 0 their derivative is that of the left


def positive(x):
    """1 where x > 0, else 0, in the dtype of x; its derivative is 0."""
    return x.sign().clamp_(min=0)


def slope(x, a, out=None):
    """1 where x > 0, else the constant a, both exact."""
    if 0 <= a <= 1:
        return torch.sign(x, out=out).clamp_(min=a)
    right = positive(x)
    return torch.sub(right, right - 1, alpha=a, out=out)


def leaky(x, value, derivative, a):
    """max(0, x) + a min(0, x), and its slope."""
    torch.mul(x, slope(x, a, out=derivative), out=value)


leaky_rectifier = kept(leaky, slope)

# The same where a is a tensor that learns.
parametric_rectifier = pointwise(
    lambda x, a: x.clamp(max=0).mul_(a).add_(x.relu()),
    lambda dy, x, a: torch.lerp(dy * a, dy, positive(x)),
    lambda dy, x, a: dy * x.clamp(max=0),
)


def exponential(x, value, derivative, alpha):
    """max(0, x) + α (e^min(0, x) − 1), and 1 where x > 0, else α e^x.

    expm1 keeps the digits that e^x − 1 loses near 0; the clamp keeps e^x finite on the side that does not need it.
    """
    below = torch.clamp(x, max=0, out=derivative).expm1_()
    torch.clamp(x, min=0, out=value).add_(below, alpha=alpha)
    derivative.add_(1)
    if alpha != 1:
        right = positive(x)
        derivative.sub_(right).mul_(alpha).add_(right)  # exactly 1 where x > 0


def exponential_derivative(x, alpha):
    right = positive(x)
    return right + alpha * (x.clamp(max=0).exp() - right)


exponential_rectifier = kept(exponential, exponential_derivative)


# --------------------------------------------------------------------------------------------------- x Φ(x) and x σ(x)


def normal_cdf(x):
    return x.mul(-sqrt(1 / 2)).erfc_().mul_(1 / 2)  # ½ erfc(−x/√2): ½ (1 + erf(x/√2)) has no digits far to the left


def gaussian(x, value, derivative):
    """x Φ(x), and Φ(x) + x φ(x) with φ = Φ′ = e^(−x²/2)/√(2π), Φ as in `normal_cdf`."""
    if torch.compiler.is_compiling():  # it makes the steps out of place into one pass
        cdf = erfc(x * -sqrt(1 / 2)) / 2
        derivative.copy_(cdf + x * (x.square() / -2).exp() / sqrt(2 * pi))
        value.copy_(cdf * x)
        return
    scaled = torch.mul(x, -sqrt(1 / 2), out=value)
    density = torch.addcmul(x.new_zeros(()), scaled, scaled, value=-1, out=derivative).exp_()
    cdf = scaled.erfc_().mul_(1 / 2)
    torch.addcmul(cdf, density, x, value=1 / sqrt(2 * pi), out=derivative)
    cdf.mul_(x)


gaussian_gate = kept(gaussian, lambda x: normal_cdf(x) + x * (x.square() / -2).exp() / sqrt(2 * pi))


def tanh_gaussian(x, value, derivative):
    """x σ(u) with u = √(8/π) (x + 0.044715 x³), and σ(u) + x σ(u) (1 − σ(u)) u′; beyond ±30 σ(u) is 0 or 1."""
    z, one = x.clamp(-30, 30), x.new_ones(())
    s = torch.addcmul(one, z, z, value=0.044715, out=derivative).mul_(z).mul_(sqrt(8 / pi)).sigmoid_()
    torch.mul(s, x, out=value)
    rate = torch.addcmul(one, z, z, value=3 * 0.044715, out=z).mul_(1 - s).mul_(value)
    s.add_(rate, alpha=sqrt(8 / pi))


def tanh_gaussian_derivative(x):
    x = x.clamp(-30, 30)
    s = torch.sigmoid(sqrt(8 / pi) * x * (1 + 0.044715 * x * x))
    return s + sqrt(8 / pi) * x * s * (1 - s) * (1 + 3 * 0.044715 * x * x)


tanh_gaussian_gate = kept(tanh_gaussian, tanh_gaussian_derivative)


def logistic(x, value, derivative):
    """x σ(x), and σ(x) + x σ(x) (1 − σ(x)), which lies x σ(x) of the way from σ(x) to 1."""
    s = torch.sigmoid(x, out=derivative)
    torch.mul(s, x, out=value)
    s.lerp_(x.new_ones(()).expand_as(x), value)


logistic_gate = kept(logistic, lambda x: x.sigmoid() * (1 + x * (-x).sigmoid()))


# --------------------------------------------------------------------- ReLU6(x + 3) / 6, alone and as a gate; 0 at ±3

# A sixth rounded up: the fused x/6 + 1/2 is then exactly 0 at −3, or below, and clamped, and exactly 1 at 3.
SIXTH = nextafter(1 / 6, inf)


def ramp(x, out=None):
    """ReLU6(x + 3)/6."""
    return torch.add(x.new_full((), 1 / 2), x, alpha=SIXTH, out=out).clamp_(0, 1)


def ramp_derivative(x, out=None):
    """1/6 for |x| < 3, else 0: 9 − x² scaled so that its least positive value is above 1/6."""
    scale = 1 / torch.finfo(x.dtype).eps
    return torch.addcmul(x.new_full((), 9 * scale), x, x, value=-scale, out=out).clamp_(0, 1 / 6)


hard_sigmoid = pointwise(ramp, lambda dy, x: ramp_derivative(x).mul_(dy))


def hard_swish(x, value, derivative):
    """x r(x), and r(x) + x r′(x), r the ramp."""
    r, rate = ramp(x, out=value), ramp_derivative(x, out=derivative)
    torch.addcmul(r, x, rate, out=derivative)
    r.mul_(x)


hard_gate = kept(hard_swish, lambda x: ramp(x) + x * ramp_derivative(x))
