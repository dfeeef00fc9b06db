"""Rounding with a gradient: forward on the grid, backward through it.

    x̂ = S (clamp(round(x/S) + Z, q_min, q_max) − Z)      Jacob et al. 2017, arXiv:1712.05877, eq. 12
    ∂x̂/∂x = 1 inside the range, 0 outside                Bengio et al. 2013, arXiv:1308.3432, straight-through
    ∂x̂/∂S = round(x/S) − x/S inside, −Q_N or Q_P outside      Esser et al. 2019, arXiv:1902.08153, eq. 3

Convention: inside is what rounds to an integer of the range, as in torch, and the open interval (−Q_N, Q_P) for the
learned step (its eq. 5). Second derivatives are those of these formulas, in which rounding is a constant.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd import Function

from ._grid import along, check


class _StraightThrough(Function):
    """Saves the mask of what was not clipped: a constant, as far as any derivative goes."""

    @staticmethod
    def forward(ctx, input, scale, low, high):
        q = (input / scale).round_()
        clipped = q.clamp(low, high)
        ctx.save_for_backward(q == clipped)
        return clipped.mul_(scale).to(input.dtype)

    @staticmethod
    def backward(ctx, d_output):
        (inside,) = ctx.saved_tensors
        return d_output * inside, None, None, None


def fake_quantize(
    input: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*channels"],
    zero_point: Integer[Tensor, "*channels"],
    quant_min: int = 0,
    quant_max: int = 255,
    axis: int = 0,
) -> Float[Tensor, "*shape"]:
    """x̂, the number that `dequantize(quantize(x))` gives, with a straight-through gradient.

    Args:
        input: x.
        scale, zero_point: S and Z, of shape (), or (channels,) with channels the size of `axis`.

    Raises:
        ValueError: S <= 0, Z no integer, an empty range of integers, or another number of channels.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 12; Bengio et al. 2013, arXiv:1308.3432.
    """
    check(input, scale, zero_point, quant_min, quant_max, axis)
    zero_point = along(zero_point, input, axis)
    return _StraightThrough.apply(
        input, along(scale.detach(), input, axis), quant_min - zero_point, quant_max - zero_point
    )


class _LearnedStep(Function):
    """Saves x and S alone: what backward computes from them has derivatives of its own."""

    @staticmethod
    def forward(ctx, input, scale, quant_min, quant_max, gain):
        ctx.save_for_backward(input, scale)
        ctx.ends, ctx.gain = (quant_min, quant_max), gain
        return (input / scale).clamp_(quant_min, quant_max).round_().mul_(scale)

    @staticmethod
    def backward(ctx, d_output):
        input, scale = ctx.saved_tensors
        ratio = input / scale
        clipped = ratio.clamp(*ctx.ends)
        inside = (ratio > ctx.ends[0]) & (ratio < ctx.ends[1])
        slope = clipped.round_().sub_(ratio * inside)  # eq. 3
        d_scale = torch.dot(d_output.flatten(), slope.flatten()) * ctx.gain
        return d_output * inside, d_scale, None, None, None


def learned_step(
    input: Float[Tensor, "*shape"], scale: Float[Tensor, ""], quant_min: int, quant_max: int, gain: float
) -> Float[Tensor, "*shape"]:
    """x̂ with gradients for x and, times g, for the step S.

    Args:
        input: x.
        scale: S.
        quant_min, quant_max: −Q_N and Q_P.
        gain: g.

    Source: Esser et al. 2019, arXiv:1902.08153, eq. 1, 2, 3 and 5.
    """
    return _LearnedStep.apply(input, scale, quant_min, quant_max, gain)
