"""What layers that slide a window share: checked arguments, sizes, and margins around the input."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sizes(name: str, value: int | Sequence[int], dimensions: int, least: int = 1) -> tuple[int, ...]:
    """One integer for each dimension, from one for all or one for each; ValueError below `least`."""
    found = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(found) != dimensions or any(not isinstance(size, int) or size < least for size in found):
        raise ValueError(f"expected {name} of 1 or {dimensions} integers >= {least}, got {value}")
    return found


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """At least one of each, and groups that share the channels evenly."""
    for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
        if size < 1:
            raise ValueError(f"expected {name} >= 1, got {size}")
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"expected channels that {groups} groups share evenly, got {in_channels} and {out_channels}")


def check_input(input: Tensor, dimensions: int, channels: int | None = None) -> None:
    """(B, C, space) of the given number of space dimensions, none of them empty, and of channels, if given."""
    if input.dim() != 2 + dimensions or 0 in input.shape[2:]:
        raise ValueError(f"expected {2 + dimensions} dimensions, none but the first empty, got {tuple(input.shape)}")
    if channels is not None and input.shape[1] != channels:
        raise ValueError(f"expected {channels} channels in dimension 1, got shape {tuple(input.shape)}")


def positions(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How many positions a window has along each side, ⌊(H − l(k − 1) − 1)/s⌋ + 1; ValueError if it never does."""
    found = [(n - extent) // s + 1 for n, extent, s in zip(size, extents(kernel, dilation), stride)]
    if min(found) < 1:
        raise ValueError(f"expected a padded input of {extents(kernel, dilation)} or more, got {tuple(size)}")
    return found


def extents(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """From the first tap to the last, l(k − 1) + 1."""
    return [step * (k - 1) + 1 for k, step in zip(kernel, dilation)]


def indices(size, count, kernel, stride, dilation, device) -> Tensor:
    """s·p + l·t as an index into a flattened input of `size`, for `count` positions a side: (taps · positions,)."""
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    for n, p, k, s, step in zip(size, count, kernel, stride, dilation):
        along = step * torch.arange(k, device=device)[:, None] + s * torch.arange(p, device=device)
        index = (index[:, None, :, None] * n + along[:, None]).flatten(2).flatten(0, 1)
    return index.flatten()


MARGINS = ("zeros", "reflect", "replicate", "circular")


def pad(input: Tensor, margins: Sequence[tuple[int, int]], mode: str = "zeros", value: float = 0.0) -> Tensor:
    """Adds margins to the last dimensions.

    Args:
        margins: (before, after) of each padded dimension, in order.
        mode: "zeros" adds `value`; "reflect" mirrors at the edge without repeating it; "replicate" repeats the edge;
            "circular" continues at the opposite end.

    Raises:
        ValueError: a mirror image or a period that is shorter than its margin.
    """
    if not any(map(any, margins)):
        return input
    if mode == "zeros":
        return torch.constant_pad_nd(input, [side for pair in reversed(margins) for side in pair], value)
    for dim, (before, after) in zip(range(-len(margins), 0), margins):
        size = input.shape[dim]
        longest = {"reflect": size - 1, "circular": size, "replicate": max(before, after)}[mode]
        if max(before, after) > longest:
            raise ValueError(f"expected margins of at most {longest} in mode {mode}, got {(before, after)}")
        index = torch.arange(-before, size + after, device=input.device)
        if mode == "reflect":
            index = size - 1 - (size - 1 - index.abs()).abs()
        elif mode == "circular":
            index = index % size
        input = input.index_select(dim, index.clamp(0, size - 1))
    return input
