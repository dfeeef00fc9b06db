"""Uniform grids: an integer q represents the real number r = S (q − Z).

    q = clamp(round(r/S) + Z, q_min, q_max)                          Jacob et al. 2017, arXiv:1712.05877, eq. 1 and 12
    affine:     S = (b − a)/(q_max − q_min),  Z = q_min − round(a/S),   q in 0 … 2ᵇⁱᵗˢ − 1              eq. 13
    symmetric:  S = max(−a, b)/q_max,         Z = 0,                    q in ±(2ᵇⁱᵗˢ⁻¹ − 1)             section 3.1

The range [a, b] always includes 0, which is then a point of the grid: padding and ReLU's zeros cost no error.

Convention: rounds half to even, and Z joins after the rounding, as in torch and ONNX; a symmetric grid leaves out the
lowest integer (−128), so that −r is as exact as r; S is at least the float32 epsilon, as in torch's observers.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps


class Grid(NamedTuple):
    """What r = S (q − Z) needs: one S and Z, or one of each per channel along `axis`.

    Attributes:
        scale: S, of shape () or (channels,); that of a range is at least 2⁻²³.
        zero_point: Z, int32, of the same shape.
        quant_min, quant_max: the first and the last integer.
        axis: the dimension of the channels.
    """

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int
    axis: int = 0


def quantize(
    input: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*channels"],
    zero_point: Integer[Tensor, "*channels"],
    quant_min: int = 0,
    quant_max: int = 255,
    axis: int = 0,
) -> Integer[Tensor, "*shape"]:
    """q = clamp(round(r/S) + Z, q_min, q_max), in the first of uint8, int8, int16, int32 that holds q_min … q_max.

    r/S is computed in the wider of their two types.

    Args:
        input: r.
        scale, zero_point: S and Z, of shape (), or (channels,) with channels the size of `axis`.

    Raises:
        ValueError: S <= 0, Z no integer, q_min >= q_max, or another number of channels than the size of `axis`.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 1.
    """
    check_grid(input, scale, zero_point, quant_min, quant_max, axis)
    q = (input / along(scale, input, axis)).round_().add_(along(zero_point, input, axis))
    return q.clamp_(quant_min, quant_max).to(_storage(quant_min, quant_max))


def dequantize(
    input: Integer[Tensor, "*shape"],
    scale: Float[Tensor, "*channels"],
    zero_point: Integer[Tensor, "*channels"],
    axis: int = 0,
) -> Float[Tensor, "*shape"]:
    """r = S (q − Z), in the type of S.

    Raises:
        ValueError: q or Z no integers, or another number of channels than the size of `axis`.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 1.
    """
    if input.is_floating_point():
        raise ValueError(f"expected integers to dequantize, got {input.dtype}")
    check_channels(input, scale, zero_point, axis)
    # Z in the wider type first: 3 − 200 is no uint8.
    return (input.to(torch.int32) - along(zero_point, input, axis)) * along(scale, input, axis)


def integer_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """q_min and q_max."""
    check_bits(bits)
    half = 2 ** (bits - 1) - 1
    return (-half, half) if symmetric else (0, 2**bits - 1)


def grid_of_range(low: Tensor, high: Tensor, bits: int, symmetric: bool, axis: int = 0) -> Grid:
    """The grid over [low, high], widened to include 0."""
    quant_min, quant_max = integer_range(bits, symmetric)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        scale = (torch.maximum(-low, high) / quant_max).clamp(min=EPSILON)
        zero_point = torch.zeros_like(scale)
    else:
        scale = ((high - low) / (quant_max - quant_min)).clamp(min=EPSILON)
        zero_point = quant_min - (low / scale).round()
    return Grid(scale, zero_point.to(torch.int32), quant_min, quant_max, axis)


def weight_grid(weight: Float[Tensor, "d_out ..."], bits: int = 8, per_channel: bool = True) -> Grid:
    """The symmetric grid over a weight's own range, one for each output or one for all; it carries no gradient.

    Raises:
        ValueError: bits outside 2 to 16.
    """
    largest = weight.detach().abs()
    largest = largest.flatten(1).amax(1) if per_channel else largest.amax()
    return grid_of_range(-largest, largest, bits, symmetric=True)


def along(values: Tensor, input: Tensor, axis: int) -> Tensor:
    """One value, or one per channel, with as many dimensions as the input: a float32 S then widens a bfloat16 r."""
    shape = [1] * input.dim()
    if values.dim():
        shape[axis] = -1
    return values.reshape(shape)


def readable(values: Tensor) -> bool:
    """False where values are not known: on the meta device, while a graph is captured, and under vmap."""
    if values.is_meta or torch.compiler.is_compiling():
        return False
    try:
        values.reshape(-1)[:1].tolist()
    except RuntimeError:  # vmap's tensors refuse
        return False
    return True


def check_bits(bits: int, most: int = 16) -> None:
    """From 2 to 16, or to fewer."""
    if not 2 <= bits <= most:
        raise ValueError(f"expected bits from 2 to {most}, got {bits}")


def check_grid(input, scale, zero_point, quant_min, quant_max, axis):
    """Raise ValueError unless these make a grid for the input."""
    if quant_min >= quant_max:
        raise ValueError(f"expected quant_min < quant_max, got {quant_min} and {quant_max}")
    check_channels(input, scale, zero_point, axis)
    if readable(scale) and not (scale > 0).all():
        raise ValueError(f"expected scale > 0, got {scale.min().item()}")


def check_channels(input, scale, zero_point, axis):
    if zero_point.is_floating_point():
        raise ValueError(f"expected an integer zero_point, got {zero_point.dtype}")
    if scale.dim() and not (-input.dim() <= axis < input.dim() and scale.shape == (input.shape[axis],)):
        shape = tuple(input.shape)
        raise ValueError(f"expected one scale per channel along dimension {axis} of {shape}, got {tuple(scale.shape)}")


def _storage(quant_min: int, quant_max: int) -> torch.dtype:
    fits = (t for t in (torch.uint8, torch.int8, torch.int16) if _holds(t, quant_min, quant_max))
    return next(fits, torch.int32)


def _holds(dtype, low, high):
    return torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max
