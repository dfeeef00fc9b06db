"""Pooling: one number for each window of each channel, its maximum or its mean.

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

from ._window import check_input, pad, places, sizes, windows


class _Pool2d(nn.Module):
    """Checked arguments, and the windows as (B, C, taps, H', W')."""

    def __init__(self, kernel_size, stride, padding, dilation):
        super().__init__()
        self.kernel_size = sizes("kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else sizes("stride", stride, 2)
        self.padding = sizes("padding", padding, 2, least=0)
        self.dilation = sizes("dilation", dilation, 2)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size)):
            raise ValueError(f"expected padding of at most half the kernel {self.kernel_size}, got {self.padding}")

    def _windows(self, input, value):
        check_input(input, 2)
        x = pad(input, [(p, p) for p in self.padding], value=value)
        places(x.shape[2:], self.kernel_size, self.stride, self.dilation)  # it raises if there are none
        return windows(x, self.kernel_size, self.stride, self.dilation).flatten(2, 3)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(_Pool2d):
    """The largest number of each window; of equal ones the first gets the gradient.

    Args:
        kernel_size, dilation: one number for both dimensions, or (height, width).
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
        count_include_pad: divide by the size of the window, or only by how much of it lies in the input?

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
        inside = self._windows(input.new_ones(1, 1, *input.shape[2:]), value=0.0).mean(2)  # share of each window
        return mean / inside


class AdaptiveAvgPool2d(nn.Module):
    """The mean of each of n × m bins, whatever the size of the input.

    Args:
        output_size: n and m, or one number for both.

    Raises:
        ValueError: a size below 1; an input of other dimensions or without a pixel.
    """

    def __init__(self, output_size: int | Sequence[int]):
        super().__init__()
        self.output_size = sizes("output_size", output_size, 2)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c n m"]:
        check_input(input, 2)
        rows, columns = (_bins(size, n, input) for size, n in zip(input.shape[2:], self.output_size))
        return rows @ input @ columns.mT

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _bins(size: int, count: int, like: Tensor) -> Tensor:
    """(count, size): row i holds 1/length on bin i, which is [⌊i·size/count⌋, ⌈(i + 1)·size/count⌉)."""
    index, place = torch.arange(count, device=like.device)[:, None], torch.arange(size, device=like.device)
    start, end = index * size // count, -(-(index + 1) * size // count)
    return ((start <= place) & (place < end)).to(like.dtype) / (end - start)
