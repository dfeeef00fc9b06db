"""Angles of rotary embeddings: how fast each pair of features turns, and how that is slowed down for longer texts.

    θ_i = base^(−2i/d), i = 0 … d/2 − 1                              Su et al. 2021, arXiv:2104.09864, eq. 15
    position interpolation   θ_i / s                                 Chen et al. 2023, arXiv:2306.15595, eq. 4
    NTK-aware                base ← base · s^(d/(d − 2)): θ_0 stays, the last is θ/s
                                                                     Peng et al. 2023, arXiv:2309.00071, §3.1, eq. 16
    Llama 3.1                θ/s for slow pairs, θ for fast ones, a mixture between
                                                                     Dubey et al. 2024, arXiv:2407.21783, §3.4.2

Convention: i counts from 0, so that the first pair turns by one radian a position. All are float64: at position 10⁵
float32 would keep only two digits after the point of an angle.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_frequencies(dim: int, base: float = 10000.0) -> Float[Tensor, " half"]:
    """θ_i = base^(−2i/dim), radians a position.  Raises ValueError for an odd or too small dim, and base <= 0."""
    if dim < 2 or dim % 2:
        raise ValueError(f"expected an even number of features, 2 or more, got {dim}")
    if not base > 0:
        raise ValueError(f"expected base > 0, got {base}")
    return base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def interpolated_frequencies(frequencies: Float[Tensor, " half"], scale: float) -> Float[Tensor, " half"]:
    """θ/s: a text s times as long as those of training has no larger angles.  Raises ValueError for scale < 1.

    Source: Chen et al. 2023, arXiv:2306.15595, eq. 4.
    """
    return frequencies / _checked(scale)


def ntk_frequencies(dim: int, scale: float, base: float = 10000.0) -> Float[Tensor, " half"]:
    """θ of the base · s^(d/(d − 2)): the fastest is unchanged, the slowest is θ/s, the others lie between.

    Raises:
        ValueError: scale < 1, dim odd or below 4.

    Source: Peng et al. 2023, arXiv:2309.00071, eq. 16.
    """
    if dim < 4:
        raise ValueError(f"expected 4 features or more, a fastest pair and a slowest, got {dim}")
    return rotary_frequencies(dim, base * _checked(scale) ** (dim / (dim - 2)))


def llama3_frequencies(
    frequencies: Float[Tensor, " half"],
    scale: float = 8.0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_max_position: int = 8192,
) -> Float[Tensor, " half"]:
    """θ for pairs that turn more than `high_freq_factor` times in the length of training, θ/s for those that turn less
    than `low_freq_factor` times, and (1 − γ) θ/s + γ θ between, where γ grows from 0 to 1 with the number of turns.

    Raises:
        ValueError: scale < 1, or factors that do not grow.

    Source: Dubey et al. 2024 (Llama 3), arXiv:2407.21783, §3.4.2; the released code of Llama 3.1.
    """
    if not 0 < low_freq_factor < high_freq_factor:
        found = f"{low_freq_factor} and {high_freq_factor}"
        raise ValueError(f"expected 0 < low_freq_factor < high_freq_factor, got {found}")
    turns = original_max_position * frequencies / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)  # γ
    return torch.lerp(frequencies / _checked(scale), frequencies, kept)


def _checked(scale):
    if not scale >= 1:
        raise ValueError(f"expected scale >= 1, got {scale}")
    return scale


def rotate(x: Tensor, angles: Tensor, interleaved: bool) -> Tensor:
    """(a cos − b sin, a sin + b cos) for every pair (a, b) of x and its angle; layouts as in `RotaryEmbedding`."""
    dim = -1 if interleaved else -2  # of the two members of a pair
    pairs = x.unflatten(-1, (-1, 2) if interleaved else (2, -1))
    # Flattened here: the result of a custom function must not be a view, or it could not be changed in place.
    return _Rotate.apply(pairs, angles.cos(), angles.sin(), dim).flatten(-2)


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back: Rᵀ = R(−angle)."""

    @staticmethod
    def forward(ctx, pairs, cos, sin, dim):
        ctx.save_for_backward(cos, sin)
        ctx.dim = dim
        wide = torch.promote_types(pairs.dtype, torch.float32)
        cos, sin = cos.to(wide), sin.to(wide)
        a, b = pairs.to(wide).unbind(dim)
        first, second = (a * cos).addcmul_(b, sin, value=-1), (a * sin).addcmul_(b, cos)
        return torch.stack([first, second], dim).to(pairs.dtype)

    @staticmethod
    def backward(ctx, d_rotated):
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(d_rotated, cos, -sin, ctx.dim), None, None, None
