"""Arithmetic of quantized numbers in integers alone: products add up in int32, and one integer multiplication with a
shift replaces the real factor between two grids.

    Σ (q₁ − Z₁)(q₂ − Z₂) = Σ q₁q₂ − Z₁ Σ q₂ − Z₂ Σ q₁ + K Z₁Z₂        Jacob et al. 2017, arXiv:1712.05877, eq. 7
    M = S₁S₂/S₃ = 2⁻ⁿ M₀,   M₀ in [½, 1) as an int32 M₀·2³¹                                             eq. 5 and 6

Convention: the shift rounds to nearest, halves up; one rounding, where gemmlowp's two instructions round twice.
"""

import torch
from jaxtyping import Float, Integer
from torch import Tensor


def integer_matmul(
    left: Integer[Tensor, "*batch k"],
    left_zero_point: Integer[Tensor, ""],
    right: Integer[Tensor, "k n"],
    right_zero_point: Integer[Tensor, "*n"],
) -> Integer[Tensor, "*batch n"]:
    """Σ (q₁ − Z₁)(q₂ − Z₂) over the last dimension of q₁ and the first of q₂, in int32.

    Args:
        left, right: q₁ and q₂.
        left_zero_point: Z₁.
        right_zero_point: Z₂, one or one per column.

    Raises:
        ValueError: sizes that do not fit.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 7.
    """
    if left.shape[-1:] != right.shape[:1]:
        raise ValueError(f"expected {left.shape[-1]} rows on the right, got shape {tuple(right.shape)}")
    left, right = left.to(torch.int32), right.to(torch.int32)
    correction = left_zero_point * (right.sum(0, dtype=torch.int32) - len(right) * right_zero_point)
    rows = left.sum(-1, keepdim=True, dtype=torch.int32)
    return left @ right - correction - right_zero_point * rows


def fixed_point(multiplier: Float[Tensor, "*n"]) -> tuple[Integer[Tensor, "*n"], Integer[Tensor, "*n"]]:
    """M₀·2³¹ and n of M = 2⁻ⁿ M₀, both int32.

    Args:
        multiplier: M > 0. Below 2⁻³² it has fewer digits: n stops at 31.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 6.
    """
    multiplier = multiplier.double()
    _, exponent = torch.frexp(multiplier)
    shift = (-exponent).clamp(max=31)
    mantissa = torch.ldexp(multiplier, 31 + shift).round().long()
    carry = mantissa == 2**31  # M₀ rounded up to 1, which an int32 cannot hold
    return torch.where(carry, 2**30, mantissa).to(torch.int32), (shift - carry.int()).to(torch.int32)


def rescale(
    accumulator: Integer[Tensor, "*shape n"], mantissa: Integer[Tensor, "*n"], shift: Integer[Tensor, "*n"]
) -> Integer[Tensor, "*shape n"]:
    """round(2⁻ⁿ M₀ · accumulator) in integers: a 64-bit product and a rounding shift to the right.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 2.2.
    """
    places = shift.long() + 31
    half = torch.ones_like(places) << (places - 1)
    return ((accumulator.long() * mantissa + half) >> places).to(torch.int32)
