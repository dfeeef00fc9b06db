"""Frozen values from independent sources: `load(item)` for the specs, `recipe` for their generators.

A value lies in `<item>.npz`; where it came from, how far two derivations of it disagree, and the tolerance that
follows, in `provenance.toml`. Both are written by `python -m tools golden --update`, never by hand.
"""

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spec import laws

FOLDER = Path(__file__).parent
# What a given array may be allowed at most: a routine that is further off than this is not the same routine.
MOST_ULPS = 8


class GoldenError(AssertionError):
    """A golden file is missing, was changed by hand, or holds something else than plain arrays."""


@dataclass
class Recipe:
    """Collects what a recipe function gives and expects."""

    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    ulps: dict[str, int] = field(default_factory=dict)

    def given(self, name: str, array, ulps: int = 0) -> np.ndarray:
        """Freeze an input or a weight; returns it as an array.

        Args:
            ulps: by how many units in the last place each element may differ where another processor derives it.
                0 is for what every processor gets alike: written-out numbers, draws of a NumPy generator, sums and
                products of two elements, correctly rounded values (mpmath, fractions). An exponential, a sum, a
                matrix product or an eigenvalue is computed along another path on another processor, so better derive
                it exactly; where that is impossible it may have a few units, at most 8.

        Raises:
            ValueError: ulps is negative or above 8.
        """
        if not 0 <= ulps <= MOST_ULPS:
            raise ValueError(f"{name}: expected 0 to {MOST_ULPS} units in the last place, found {ulps}")
        self.inputs[name] = _array(array)
        self.ulps[name] = ulps
        return self.inputs[name]

    def fill(self, model, draw, prefix: str = "", scale: int = 16, but: tuple[str, ...] = ()) -> None:
        """Freeze weights for a library's module, whole numbers from −12 to 11 over `scale`, and load them into it.

        Args:
            draw: NumPy's generator of the numbers.
            prefix: of the frozen names, before those of the module's state.
            but: what stays as it is: whatever has one of these in its name, and what is not of floating point.
        """
        state = model.state_dict()
        for name, tensor in state.items():
            if tensor.is_floating_point() and not any(part in name for part in but):
                numbers = self.given(prefix + name, draw.integers(-12, 12, tuple(tensor.shape)) / scale)
                state[name] = torch.from_numpy(np.array(numbers))
        model.load_state_dict(state)

    def expect(self, name: str, value, second=None) -> None:
        """Freeze the oracle's value and, where one exists, note a second, independent derivation of it."""
        self.values[name] = _array(value)
        if second is not None:
            self.seconds[name] = _array(second)


@dataclass(frozen=True)
class Source:
    """What `@recipe` registers: the reviewed generator of one item's frozen arrays."""

    item: str
    oracle: str
    second: str | None
    needs: tuple[str, ...]
    generate: Callable[[Recipe], None]


RECIPES: dict[str, Source] = {}


def recipe(item: str, *, oracle: str, second: str | None = None, needs: tuple[str, ...] = ("torch",)):
    """Register the generator of an item's golden values.

    Args:
        oracle: where the values come from: "torch.nn.SiLU".
        second: the independent derivation that confirms them: "mpmath, 30 digits".
        needs: distributions that the recipe imports; their versions go into the provenance.
    """

    def register(generate):
        if item in RECIPES:
            raise ValueError(f"expected one recipe for {item}, found a second: {generate.__qualname__}")
        RECIPES[item] = Source(item, oracle, second, needs, generate)
        return generate

    return register


class Golden:
    """The frozen arrays of one item: inputs by attribute, expected values through `check`."""

    def __init__(self, arrays: dict[str, np.ndarray], tolerances: dict[str, float]):
        self._arrays = arrays
        self._tolerances = tolerances

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._arrays:
            raise GoldenError(f"expected one of {sorted(self._arrays)}, found {name!r}")
        return torch.from_numpy(self._arrays[name].copy())

    def state_dict(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose names start with `prefix` and a dot, for `load_state_dict`."""
        found = {n.removeprefix(prefix + "."): self[n] for n in self._arrays if n.startswith(prefix + ".")}
        if not found:
            raise GoldenError(f"expected arrays named {prefix}.…, found {sorted(self._arrays)}")
        return found

    def check(self, name: str, actual: Tensor) -> None:
        """`actual` is the frozen value within the tolerance that its provenance earned."""
        if name not in self._tolerances:
            raise GoldenError(f"expected one of {sorted(self._tolerances)}, found {name!r}")
        tolerance = self._tolerances[name]
        laws.assert_close(
            actual, self[name], rtol=tolerance, atol=tolerance, because="see provenance.toml", what=f"golden {name}"
        )


@cache
def load(item: str) -> Golden:
    """The golden values of an item.

    Raises:
        GoldenError: no file, a pickle inside, or contents that differ from what the provenance recorded.
    """
    return read(item, FOLDER)


def read(item: str, folder: Path) -> Golden:
    """`load`, from another folder."""
    file, record = folder / f"{item}.npz", folder / "provenance.toml"
    if not file.is_file() or not record.is_file():
        raise GoldenError(f"expected golden values in {file.name} with provenance, found none: run `tools golden`")
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except Exception as error:  # a torn zip, a pickle, a foreign file: each is the same news to the reader
        raise GoldenError(f"{file.name}: expected plain arrays, found something else: {error}") from error
    entry = tomllib.loads(record.read_text(encoding="utf-8")).get(item)
    if entry is None:
        raise GoldenError(f"provenance.toml: expected an entry for {item}, found none")
    if digest(arrays) != entry["digest"]:
        raise GoldenError(f"{file.name}: expected the contents {entry['digest']}, found {digest(arrays)}: edited?")
    return Golden(arrays, {name: value["tolerance"] for name, value in entry["values"].items()})


def digest(arrays: dict[str, np.ndarray]) -> str:
    """A hash of names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        total.update(f"{name}|{a.dtype.str}|{a.shape}|".encode() + a.tobytes())
    return total.hexdigest()[:16]


def _array(value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fib":
        raise TypeError(f"expected numbers or booleans, found dtype {array.dtype}")
    return array
