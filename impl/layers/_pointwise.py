"""Elementwise functions whose derivative is written out instead of left to autograd.

    y = f(x, a, …)      dx = dy · ∂f/∂x      da = Σ dy · ∂f/∂a, over the elements that a was broadcast to

Autograd differentiates a formula step by step: it keeps every intermediate, walks over memory once a step, and where a
kink lies it adds up what each step happens to choose. Here only the arguments are kept and each derivative is one
formula, so the choice at a kink is stated.
"""

from collections.abc import Callable
from itertools import zip_longest
from math import pi, sqrt

from torch import Tensor
from torch.autograd import Function


class Pointwise(Function):
    """(value, slopes, x, a, …) → value(x, a, …)."""

    @staticmethod
    def forward(ctx, value, slopes, *arguments):
        ctx.save_for_backward(*(a for a in arguments if isinstance(a, Tensor)))
        ctx.numbers = [a for a in arguments if not isinstance(a, Tensor)]
        ctx.slopes = slopes
        return value(*arguments)

    @staticmethod
    def backward(ctx, grad):
        arguments = (*ctx.saved_tensors, *ctx.numbers)
        grads = [
            (grad * slope(*arguments)).sum_to_size(argument.shape) if needed else None
            for argument, slope, needed in zip_longest(arguments, ctx.slopes, ctx.needs_input_grad[2:])
        ]
        return None, None, *grads


def pointwise(value: Callable[..., Tensor], *slopes: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function `value` with the derivatives `slopes`; both take the same tensors, then numbers.

    Args:
        value: f(x, a, …). It runs without a graph, so it may work in place on its own temporaries.
        slopes: ∂f/∂x, ∂f/∂a, … in the order of the arguments; numbers need none. A second derivative goes through them
            by autograd: they start from the arguments, never from a result of `value`, which is a constant to autograd.
    """
    return lambda *arguments: Pointwise.apply(value, slopes, *arguments)


def positive(x):
    """1 where x > 0, else 0, in the dtype of x; its derivative is 0.

    A mask that follows noise defeats a processor's branch prediction: `where` takes ten times as long.
    """
    return x.sign().clamp_(min=0)


# ------------------------------------------------------------------------------- rectifiers, with the left slope at 0


def rectifier_slope(x, a):
    right = positive(x)
    return (1 - right).mul_(a).add_(right)


# max(0, x) + a min(0, x)
rectifier = pointwise(
    lambda x, a: x.clamp(max=0).mul_(a).add_(x.clamp(min=0)),
    rectifier_slope,
    lambda x, a: x.clamp(max=0),
)

# max(0, x) + α (e^min(0, x) − 1). expm1 keeps the digits that e^x − 1 loses near 0; the clamp keeps e^x finite on the
# side that does not need it. The slope is a rectifier's whose a is α e^x.
exponential_rectifier = pointwise(
    lambda x, alpha: x.clamp(max=0).expm1_().mul_(alpha).add_(x.clamp(min=0)),
    lambda x, alpha: rectifier_slope(x, alpha * x.clamp(max=0).exp()),
)


# --------------------------------------------------------------------------------------------------- x Φ(x)


def normal_cdf(x):
    return x.mul(sqrt(1 / 2)).erf_().add_(1).mul_(1 / 2)


def normal_density(x):
    return x.square().mul_(-1 / 2).exp_().mul(1 / sqrt(2 * pi))


gaussian_gate = pointwise(
    lambda x: normal_cdf(x).mul_(x),
    lambda x: normal_cdf(x).addcmul_(x, normal_density(x)),
)


# ------------------------------------------------------------------- ReLU6(x + 3) / 6, alone and as a gate; 0 at ±3


def ramp(x):
    return x.add(3).clamp_(0, 6).div_(6)


def ramp_slope(x):
    return positive(3 - x.abs()).div_(6)


hard_sigmoid = pointwise(ramp, ramp_slope)
hard_gate = pointwise(lambda x: ramp(x).mul_(x), lambda x: ramp_slope(x).mul_(x).add_(ramp(x)))
