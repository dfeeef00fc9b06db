"""Arguments of a command, the digits it learns from, and training that goes on where it was interrupted."""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor


def arguments(name: str, description: str, steps: int, given: list[str] | None = None) -> argparse.Namespace:
    """`--out`, `--steps` and `--seed` of the command `python -m impl.models.<name>`."""
    parser = argparse.ArgumentParser(prog=f"python -m impl.models.{name}", description=description)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="pictures and the checkpoint go here")
    parser.add_argument("--steps", type=int, default=steps, help="steps of training in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the samples (default %(default)s)")
    found = parser.parse_args(given)
    if found.steps < 1:
        parser.error(f"expected --steps of 1 or more, got {found.steps}")
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def digits() -> tuple[Float[Tensor, "n 1 8 8"], Int[Tensor, " n"]]:
    """scikit-learn's 1,797 handwritten digits with grey values in [0, 1], and what they show."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("the digits come with scikit-learn: pip install '.[demos]'") from None
    found = load_digits()
    return torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target).long()


def train(
    step: Callable[[], Mapping[str, float]],
    parts: Mapping[str, object],
    steps: int,
    generator: Generator,
    folder: Path,
    every: int = 100,
    report: Callable[[str], object] = print,
) -> None:
    """Calls `step` until it was called `steps` times in all, counting those of an interrupted run with that folder.

    Args:
        step: one step of training; returns what to report, by name: {"loss": 0.52}.
        parts: everything that a step changes, by name: models, optimizers, whatever has `state_dict` and
            `load_state_dict`.
        generator: all randomness of `step`; its state is part of the checkpoint.
        folder: has `checkpoint.pt`, written whole every `every` steps and at the end: never half a file.
        every: steps between two reports.

    Raises:
        ValueError: a checkpoint of more steps than asked for, or of other parts.
    """
    path, first = folder / "checkpoint.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first = saved["step"]
        if set(saved["parts"]) != set(parts) or first > steps:
            found = f"{sorted(saved['parts'])} after {first} steps"
            raise ValueError(f"expected {path} to hold {sorted(parts)} after {steps} steps at most, got {found}")
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        generator.set_state(saved["generator"])
        report(f"going on from step {first} of {path}")
    start = time.monotonic()
    for number in range(first + 1, steps + 1):
        values = step()
        if number % every == 0 or number == steps:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            left = (time.monotonic() - start) / (number - first) * (steps - number)
            report(f"step {number} of {steps}: {shown}; {left:.0f} s left")
            state = {name: part.state_dict() for name, part in parts.items()}
            written = path.with_suffix(".new")
            torch.save({"step": number, "parts": state, "generator": generator.get_state()}, written)
            os.replace(written, path)
