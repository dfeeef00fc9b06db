"""Argument checks, each once: they raise ValueError with what was expected and what came."""

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


def check_fractions(**values: float) -> None:
    """Each is in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"expected 0 <= {name} < 1, got {value}")
