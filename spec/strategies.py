"""Hypothesis strategies: small tensors whose failures shrink to numbers that a person can check by hand."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def floats(low: float = -10, high: float = 10, away_from_zero: float = 0.0):
    """Finite floats in [low, high]; with `away_from_zero`, none of smaller magnitude than that."""
    numbers = st.floats(low, high, allow_nan=False, allow_infinity=False, allow_subnormal=False)
    return numbers.filter(lambda v: abs(v) >= away_from_zero) if away_from_zero else numbers


def sizes(low: int = 1, high: int = 4):
    return st.integers(low, high)


def multiples_of(factor: int, low: int = 1, high: int = 3):
    """factor·k for k in [low, high]: widths that divide into equal groups."""
    return st.integers(low, high).map(lambda k: factor * k)


def shapes(dims: tuple[int, int] = (1, 4), side: tuple[int, int] = (1, 4)):
    """Shapes with a number of dimensions, and sides, in the given ranges."""
    return hnp.array_shapes(min_dims=dims[0], max_dims=dims[1], min_side=side[0], max_side=side[1])


@st.composite
def tensors(draw, shape=None, low: float = -10, high: float = 10, dtype=torch.float64):
    """A tensor of the given shape (a tuple, or a strategy of one), every element drawn by itself."""
    shape = draw(shapes()) if shape is None else draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    # Multiples of 1/64: exact in float32, so that an example reads and reruns the same everywhere.
    steps = hnp.arrays(np.int64, shape, elements=st.integers(math.ceil(low * 64), math.floor(high * 64)))
    return torch.from_numpy(draw(steps)).to(dtype) / 64


@st.composite
def varied(draw, shape, dtype=torch.float64):
    """A random normal tensor by seed: for claims that are empty on constant or tiny-spread data."""
    shape = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(seeds())), dtype=dtype)


def seeds():
    """Seeds for a generator; small ones first."""
    return st.integers(0, 10_000)


@st.composite
def images(draw, batch=sizes(2, 3), channels=sizes(1, 4), height=sizes(2, 5), width=sizes(2, 5), dtype=torch.float64):
    """Random normal images (B, C, H, W), never constant; each side is a strategy."""
    return draw(varied((draw(batch), draw(channels), draw(height), draw(width)), dtype))


@st.composite
def tokens(draw, batch=sizes(1, 3), length=sizes(1, 8), vocabulary: int = 11):
    """Token ids (B, T), int64, below `vocabulary`."""
    shape = (draw(batch), draw(length))
    return torch.from_numpy(draw(hnp.arrays(np.int64, shape, elements=st.integers(0, vocabulary - 1))))


@st.composite
def permutations(draw, size: int):
    """A permutation of range(size) as an index tensor."""
    return torch.tensor(draw(st.permutations(range(size))))


@st.composite
def graphs(draw, nodes=sizes(2, 7)):
    """A directed graph without self-loops: (number of nodes, edge_index (2, E), int64)."""
    count = draw(nodes)
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    return count, torch.tensor(edges).T.contiguous()


@st.composite
def gradient_sequences(draw, steps: int = 6, size: int = 3, dtype=torch.float64):
    """Scripted gradients (steps, size): sign changes, zeros, and magnitudes from 1e-5 to 5."""
    magnitudes = st.sampled_from([0.0, 1e-5, 1e-3, 0.1, 0.5, 1.0, 5.0])
    signs = st.sampled_from([-1.0, 1.0])
    rows = [[draw(magnitudes) * draw(signs) for _ in range(size)] for _ in range(steps)]
    return torch.tensor(rows, dtype=dtype)
