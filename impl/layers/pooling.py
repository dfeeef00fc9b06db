"""Pooling: one value for each window of each channel, its maximum or its mean.

    max       y[c, p] = max_t x[c, s·p + l·t − padding]                   Boureau, Ponce & LeCun 2010 (ICML), §1
    average   y[c, p] = 1/n Σ_t x[c, s·p + t − padding]
    adaptive  bins from ⌊i·H/n⌋ to ⌈(i + 1)·H/n⌉: n of them for any H     Lin, Chen & Yan 2013, arXiv:1312.4400, §3.2
                                                                          for n = 1, the global average

Convention: margins never win a maximum, but count as zeros in an average (count_include_pad), as in torch.nn.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_space, per_dimension
from .numerics import at_least_float32
from .windows import pad, windows


class _Pool2d(nn.Module):
    """Checked arguments, and the windows as (B, C, taps, H', W')."""

    def __init__(self, kernel_size, stride, padding, dilation):
        super().__init__()
        self.kernel_size = per_dimension("kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else per_dimension("stride", stride, 2)
        self.padding = per_dimension("padding", padding, 2, least=0)
        self.dilation = per_dimension("dilation", dilation, 2)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size)):
            raise ValueError(f"expected padding of at most half the kernel {self.kernel_size}, got {self.padding}")

    def _windows(self, input, value):
        check_space(input, 2)
        x = pad(input, [(p, p) for p in self.padding], value=value)
        return windows(x, self.kernel_size, self.stride, self.dilation)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest element of each window; of equal ones the first gets the gradient.

    Args:
        kernel_size, dilation: one integer for both dimensions, or (height, width).
        stride: likewise; by default the kernel's size, so that windows neither overlap nor leave gaps.
        padding: likewise; −∞ added at each end, at most half the kernel.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or smaller than the window.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
    ):
        super().__init__(kernel_size, stride, padding, dilation)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c p q"]:
        return self._windows(input, value=-torch.inf).max(2).values


class AvgPool2d(_Pool2d):
    """The mean of each window.

    Args:
        kernel_size, stride, padding: as for `MaxPool2d`, with zeros at the ends.
        count_include_pad: if True, the sum is divided by the size of the window; if False, by how much of it lies in
            the input.

    Raises:
        ValueError: as `MaxPool2d`.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, dilation=1)
        self.count_include_pad = count_include_pad

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c p q"]:
        mean = self._windows(input, value=0.0).mean(2)
        if self.count_include_pad:
            return mean
        ones = input.new_ones(1, 1, *input.shape[2:])
        return mean / self._windows(ones, value=0.0).mean(2)  # the share inside the input


class AdaptiveAvgPool2d(nn.Module):
    """The mean of each of n × m bins, whatever the size of the input; its sum is in float32 or wider.

    Bin i of n along a height H is [⌊i·H/n⌋, ⌈(i + 1)·H/n⌉).

    Args:
        output_size: n and m, or one integer for both.

    Raises:
        ValueError: a size below 1; an input of other dimensions or without a pixel.
    """

    def __init__(self, output_size: int | Sequence[int]):
        super().__init__()
        self.output_size = per_dimension("output_size", output_size, 2)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n m"]:
        check_space(input, 2)
        means = at_least_float32(input)
        for dim, count in zip((2, 3), self.output_size):
            means = _bin_means(means, dim, count)
        return means.to(input.dtype)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _bin_means(x: Tensor, dim: int, count: int) -> Tensor:
    """The means over `count` bins of a dimension; bin i is [⌊i·size/count⌋, ⌈(i + 1)·size/count⌉)."""
    size = x.shape[dim]
    if size % count == 0:
        return x.unflatten(dim, (count, -1)).mean(dim + 1)
    i = torch.arange(count, device=x.device)[:, None]
    start, end = i * size // count, -(-(i + 1) * size // count)
    index = start + torch.arange(size // count + 2, device=x.device)  # as many as the longest bin may have
    elements = x.index_select(dim, index.clamp(max=size - 1).flatten()).unflatten(dim, index.shape)
    of_others = [1] * (x.dim() - dim - 1)
    inside = (index < end).view(*index.shape, *of_others)
    return torch.where(inside, elements, 0).sum(dim + 1) / (end - start).view(count, *of_others)
