"""Windows: what lies under a kernel at every position of it, and margins around the input.

a window reads x[s·p + l·t] at its position p, for every tap t; s is the stride, l the dilation
⌊(H − l·(k − 1) − 1)/s⌋ + 1 positions along a side of H elements    Dumoulin & Visin 2016, arXiv:1603.07285, eq. 15
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import per_side
from .numerics import at_least_float32


def extents(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """From the first tap to the last, l(k − 1) + 1."""
    return [step * (k - 1) + 1 for k, step in zip(kernel, dilation)]


def positions(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How many positions a window has along each side of the input; ValueError if it does not fit."""
    found = [(n - extent) // s + 1 for n, extent, s in zip(size, extents(kernel, dilation), stride)]
    if min(found) < 1:
        raise ValueError(f"expected a padded input of {extents(kernel, dilation)} or more, got {tuple(size)}")
    return found


def indices(size, count, kernel, stride, dilation, device) -> Tensor:
    """s·p + l·t as an index into a flattened input of `size`, for `count` positions a side: (taps, positions)."""
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    for n, p, k, s, step in zip(size, count, kernel, stride, dilation):
        along = step * torch.arange(k, device=device)[:, None] + s * torch.arange(p, device=device)
        index = (index[:, None, :, None] * n + along[:, None]).flatten(2).flatten(0, 1)
    return index


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """x (B, C, space) as (B, C, taps, *positions): what lies under each tap at each position."""
    count = positions(x.shape[2:], kernel, stride, dilation)
    index = indices(x.shape[2:], count, kernel, stride, dilation, x.device)
    # Where windows overlap, the gradient to x is a sum; half precision would round it at every term.
    found = at_least_float32(x).flatten(2).gather(2, index.flatten().expand(*x.shape[:2], -1))
    return found.unflatten(2, (len(index), *count)).to(x.dtype)


def margins(padding: int | Sequence | str, kernel: Sequence[int], dilation: Sequence[int]) -> Sequence[tuple[int, int]]:
    """(before, after) of each dimension; "same" keeps the size at stride 1, the odd one at the end; "valid" is 0."""
    same = [((n - 1) // 2, n // 2) for n in extents(kernel, dilation)]
    return same if padding == "same" else per_side("padding", 0 if padding == "valid" else padding, len(kernel))


def pad(input: Tensor, margins: Sequence[tuple[int, int]], mode: str = "zeros", value: float = 0.0) -> Tensor:
    """Adds margins to the last dimensions.

    Args:
        margins: (before, after) of each padded dimension, in order; negative ones cut off, in mode "zeros".
        mode: "zeros" adds `value`; "reflect" mirrors at the edge without repeating it; "replicate" repeats the edge;
            "circular" continues at the opposite end.

    Raises:
        ValueError: a mirror image or a period that is shorter than its margin.
    """
    if mode == "zeros":
        return torch.constant_pad_nd(input, [side for pair in reversed(margins) for side in pair], value)
    for dim, (before, after) in zip(range(-len(margins), 0), margins):
        last = input.shape[dim] - 1
        most = {"reflect": last, "replicate": max(before, after), "circular": last + 1}[mode]
        if max(before, after) > most:
            raise ValueError(f"expected margins of at most {most} in mode {mode}, got {(before, after)}")
        i = torch.arange(-before, last + 1 + after, device=input.device)
        index = {"reflect": last - (last - i.abs()).abs(), "replicate": i.clamp(0, last), "circular": i % (last + 1)}
        input = input.index_select(dim, index[mode])
    return input
