"""Elementwise functions whose gradient is written out instead of left to autograd.

    y = f(x, a, …)      dx = dy · ∂f/∂x      da = Σ dy · ∂f/∂a, over the elements that a was broadcast to

Autograd differentiates a formula step by step: it keeps every intermediate, walks over memory once a step, and where a
kink lies it adds up what each step happens to choose. Here only the arguments are kept and each gradient is one
formula, so the choice at a kink is stated.
"""

from collections.abc import Callable
from itertools import zip_longest
from math import pi, sqrt

import torch
from torch import Tensor
from torch.autograd import Function


class Pointwise(Function):
    """(value, gradients, x, a, …) → value(x, a, …)."""

    @staticmethod
    def forward(ctx, value, gradients, *arguments):
        ctx.save_for_backward(*(a for a in arguments if isinstance(a, Tensor)))
        ctx.numbers = [a for a in arguments if not isinstance(a, Tensor)]
        ctx.gradients = gradients
        return value(*arguments)

    @staticmethod
    def backward(ctx, dy):
        arguments = (*ctx.saved_tensors, *ctx.numbers)
        found = [
            gradient(dy, *arguments).sum_to_size(argument.shape) if needed else None
            for argument, gradient, needed in zip_longest(arguments, ctx.gradients, ctx.needs_input_grad[2:])
        ]
        return None, None, *found


def pointwise(value: Callable[..., Tensor], *gradients: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function `value` with the derivatives in `gradients`; all take the same tensors, then numbers.

    Args:
        value: f(x, a, …). It runs without a graph, so it may work in place on its own temporaries.
        gradients: (dy, x, a, …) → dx, then da, …; numbers need none. A second derivative goes through them by autograd:
            they start from the arguments, never from a result of `value`, which is a constant to autograd.
    """
    return lambda *arguments: Pointwise.apply(value, gradients, *arguments)


def positive(x):
    """1 where x > 0, else 0, in the dtype of x; its derivative is 0.

    A mask that follows noise defeats a processor's branch prediction: `where` takes ten times as long.
    """
    return x.sign().clamp_(min=0)


# ------------------------------------------------------------------------------- rectifiers, with the left slope at 0

# max(0, x) + a min(0, x)
rectifier = pointwise(
    lambda x, a: x.clamp(max=0).mul_(a).add_(x.clamp(min=0)),
    lambda dy, x, a: torch.lerp(dy * a, dy, positive(x)),
    lambda dy, x, a: dy * x.clamp(max=0),
)

# max(0, x) + α (e^min(0, x) − 1). expm1 keeps the digits that e^x − 1 loses near 0; the clamp keeps e^x finite on the
# side that does not need it.
exponential_rectifier = pointwise(
    lambda x, alpha: x.clamp(min=0).add_(x.clamp(max=0).expm1_(), alpha=alpha),
    lambda dy, x, alpha: torch.lerp(dy * x.clamp(max=0).exp() * alpha, dy, positive(x)),
)


# ------------------------------------------------------------------------------------------------------- x Φ(x)


def normal_cdf(x):
    return x.mul(-sqrt(1 / 2)).erfc_().mul_(1 / 2)  # ½ erfc(−x/√2): ½ (1 + erf(x/√2)) has no digits far to the left


def bell(x):
    return x.square().mul_(-1 / 2).exp_()


# Φ′ = e^(−x²/2) / √(2π)
gaussian_gate = pointwise(
    lambda x: normal_cdf(x).mul_(x),
    lambda dy, x: dy * normal_cdf(x).addcmul_(x, bell(x), value=1 / sqrt(2 * pi)),
)


# --------------------------------------------------------------------- ReLU6(x + 3) / 6, alone and as a gate; 0 at ±3

hard_sigmoid = pointwise(
    lambda x: x.add(3).clamp_(0, 6).div_(6),
    lambda dy, x: dy * (3 - x.abs()).sign_().clamp_(0, 1 / 6),
)


def hard_gate_slope(x):
    t = x.div(3).clamp_(-1, 1)
    return t.sub(t.trunc(), alpha=1 / 2).add_(1 / 2)  # (2x + 3) / 6 inside, where trunc is 0; outside 0 and 1


hard_gate = pointwise(
    lambda x: x.add(3).clamp_(0, 6).mul_(x).div_(6),
    lambda dy, x: dy * hard_gate_slope(x),
)
