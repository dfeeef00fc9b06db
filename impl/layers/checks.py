"""Argument checks, each once: they raise ValueError with what was expected and what came."""

from collections.abc import Sequence
from math import isfinite

from torch import Tensor


def check_sizes(**sizes: int) -> None:
    """Each is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} >= 1, got {size}")


def check_not_negative(**values: float) -> None:
    """Each is at least 0, and no NaN."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"expected {name} >= 0, got {value}")


def check_finite(**values: float) -> None:
    """None is infinite or NaN."""
    for name, value in values.items():
        if not isfinite(value):
            raise ValueError(f"expected a finite {name}, got {value}")


def check_dropout(p: float) -> None:
    """A probability below 1."""
    if not 0 <= p < 1:
        raise ValueError(f"expected a probability of dropout in [0, 1), got {p}")


def check_channels(input: Tensor, channels: int) -> None:
    """An input of shape (N, channels, …)."""
    if input.dim() < 2 or input.shape[1] != channels:
        raise ValueError(f"expected {channels} channels in dimension 1, got shape {tuple(input.shape)}")


def check_tokens(name: str, tokens: Tensor, width: int) -> None:
    """Tokens of shape (batch, tokens, width)."""
    if tokens.dim() != 3 or tokens.shape[-1] != width:
        raise ValueError(f"expected {name} of shape (batch, tokens, {width}), got {tuple(tokens.shape)}")


def check_floating(input: Tensor) -> None:
    """An input of floating point, neither integer nor complex."""
    if not input.is_floating_point():
        raise ValueError(f"expected an input of floating point, got {input.dtype}")


def check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    """At least one of each, and groups that share both kinds of channels evenly."""
    check_sizes(in_channels=in_channels, out_channels=out_channels, groups=groups)
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"expected channels that {groups} groups share evenly, got {in_channels} and {out_channels}")


def check_space(input: Tensor, dimensions: int, channels: int | None = None) -> None:
    """An input (B, C, space) of so many dimensions of space, none of size 0, and of so many channels, if given."""
    if input.dim() != 2 + dimensions or 0 in input.shape[2:]:
        raise ValueError(f"expected {2 + dimensions} dimensions, none but the first empty, got {tuple(input.shape)}")
    if channels is not None:
        check_channels(input, channels)


def per_dimension(name: str, value: int | Sequence[int], dimensions: int, least: int = 1) -> tuple[int, ...]:
    """One integer for each dimension, from one for all or one for each; ValueError below `least`."""
    found = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(found) != dimensions or any(not isinstance(size, int) or size < least for size in found):
        raise ValueError(f"expected {name} of 1 or {dimensions} integers >= {least}, got {value}")
    return found


def per_side(name: str, value: int | Sequence[int | Sequence[int]], dimensions: int) -> tuple[tuple[int, int], ...]:
    """(before, after) of each dimension, from one integer for all, or for each dimension an integer or a pair."""
    sides = (value,) * dimensions if isinstance(value, int) else tuple(value)
    if len(sides) != dimensions:
        raise ValueError(f"expected {name} of 1 or {dimensions} dimensions, got {value}")
    return tuple(per_dimension(name, side, 2, least=0) for side in sides)


def check_last(input: Tensor, width: int) -> None:
    """A last dimension of the given width."""
    if input.dim() < 1 or input.shape[-1] != width:
        raise ValueError(f"expected a last dimension of {width}, got shape {tuple(input.shape)}")


def check_fractions(**values: float) -> None:
    """Each is in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"expected 0 <= {name} < 1, got {value}")
