"""Upsampling: an image at another size, from the nearest pixel or, bilinearly, from the four around each position.

    nearest    y[i] = x[⌊i/r⌋],  r = n/H for a size n, or the scale factor itself
    bilinear   u = (i + ½)/r − ½, or i·(H − 1)/(n − 1) with aligned corners
               y[i] = (1 − λ) x[⌊u⌋] + λ x[⌊u⌋ + 1],  λ = u − ⌊u⌋, along rows and then along columns
                                                              Odena, Dumoulin & Olah 2016 (Distill), resize-convolution

Convention: pixels are squares, so their centres lie at halves; positions beyond the outer centres take the outer pixel.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_space, per_dimension


class Upsample(nn.Module):
    """(B, C, H, W) → (B, C, n, m). It may shrink as well, without a filter before it.

    Args:
        size: n and m, or one integer for both; or else
        scale_factor: r, one for both or (height, width): n = ⌊r·H⌋.
        mode: "nearest" or "bilinear".
        align_corners: of "bilinear": if True, the centres of the outer pixels stay where they are.

    Raises:
        ValueError: both or neither of size and scale_factor, one out of range, another mode, align_corners with
            "nearest"; an input of other dimensions or without a pixel, or an output without one.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ):
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ValueError(f"expected size or scale_factor, got {size} and {scale_factor}")
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"expected mode nearest or bilinear, got {mode!r}")
        if mode == "nearest" and align_corners is not None:
            raise ValueError(f"expected align_corners with mode bilinear only, got {align_corners}")
        self.size = None if size is None else per_dimension("size", size, 2)
        self.scale_factor = scale_factor
        if scale_factor is not None:
            self.scale_factor = (scale_factor,) * 2 if isinstance(scale_factor, int | float) else tuple(scale_factor)
            if len(self.scale_factor) != 2 or min(self.scale_factor) <= 0:
                raise ValueError(f"expected scale_factor as 1 or 2 numbers > 0, got {scale_factor}")
        self.mode, self.align_corners = mode, align_corners

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n m"]:
        check_space(input, 2)
        for dim in (2, 3):
            input = self._resized(input, dim)
        return input

    def _resized(self, x, dim):
        source = x.shape[dim]
        if self.size is None:
            ratio = self.scale_factor[dim - 2]
            target, shrink = math.floor(source * ratio), (1, ratio)
        else:
            target = self.size[dim - 2]
            shrink = source, target
        if target < 1:
            raise ValueError(f"expected an output of at least 1 pixel a side, got {ratio} of {source}")
        # In float64 and the division last: i/r must not fall short of a whole number by rounding.
        i = torch.arange(target, device=x.device, dtype=torch.float64)
        if self.mode == "nearest":
            return x.index_select(dim, (i * shrink[0] / shrink[1]).long().clamp(max=source - 1))
        if self.align_corners:
            u = i * (source - 1) / max(target - 1, 1)
        else:
            u = _centres(i, source, *shrink)
        return _interpolate(x, u, dim)

    def extra_repr(self) -> str:
        return f"size={self.size}, scale_factor={self.scale_factor}, mode={self.mode!r}"


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) → (B, C, n, m) as by `Upsample(size, mode="bilinear")`, for where a size is known late."""
    for dim, target in zip((2, 3), size):
        i = torch.arange(target, device=x.device, dtype=torch.float64)
        x = _interpolate(x, _centres(i, x.shape[dim], x.shape[dim], target), dim)
    return x


def _centres(i: Tensor, source: int, numerator: float, denominator: float) -> Tensor:
    """Where the centres of pixels i lie among `source` pixels that are numerator/denominator as many."""
    return ((i + 0.5) * numerator / denominator - 0.5).clamp(0, source - 1)


def _interpolate(x: Tensor, u: Tensor, dim: int) -> Tensor:
    """x at the places u along a dimension, 0 <= u <= its size − 1, linearly between its neighbours."""
    low = u.long()
    share = (u - low).to(x.dtype).reshape(-1, *(1 for _ in x.shape[dim + 1 :]))  # λ
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=x.shape[dim] - 1)), share)
