"""What the commands that train a small model on real data share: digits, training that resumes, pictures.

    python -m impl.models.NAME --out FOLDER

trains, says how far it is, and writes pictures to FOLDER. It is seeded; interrupted and called again with the same
folder it goes on where it stopped, with the numbers of an uninterrupted run. Needs `pip install '.[demos]'`.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from .layers.convolution import Conv2d
from .layers.normalization import BatchNorm2d
from .layers.reinforcement import ReplayBuffer
from .optim.adamw import AdamW

__all__ = [
    "Encoder",
    "Environments",
    "Memory",
    "accuracy_of_a_probe",
    "arguments",
    "digits",
    "name_digits_along_a_graph",
    "nearest_neighbors",
    "save_curves",
    "save_grid",
    "save_points",
    "train",
]


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


def save_grid(images: Float[Tensor, "n c h w"], path: Path, columns: int = 10, scale: int = 4) -> None:
    """Writes images side by side, row by row, as one PNG.

    Args:
        images: grey (c = 1) or red, green, blue (c = 3), in [0, 1]; what lies outside is clamped.
        columns: images in a row.
        scale: screen pixels along each edge of a pixel.

    Raises:
        ValueError: another number of channels, no image, or NaN.
    """
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit("pictures are written with Pillow: pip install '.[demos]'") from None
    n, channels, height, width = images.shape
    if channels not in (1, 3) or not n or images.isnan().any():
        found = f"{tuple(images.shape)}{' with NaN' if images.isnan().any() else ''}"
        raise ValueError(f"expected (1 or more, 1 or 3, height, width) images without NaN, got {found}")
    rows = -(-n // columns)
    sheet = torch.ones(rows * columns, 3, height + 1, width + 1)  # a white line of one pixel between neighbours
    sheet[:n, :, :height, :width] = images.detach().cpu().clamp(0, 1)
    sheet = sheet.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (H, W, 3)
    sheet = sheet.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    Image.fromarray((255 * sheet).round().byte().numpy()).save(path)


def save_curves(curves: Mapping[str, list[float]], path: Path, width: int = 560, height: int = 160) -> None:
    """Draws each list of numbers as a curve in a strip of its own, with its name and its range, as one PNG.

    Raises:
        ValueError: a list of fewer than two numbers, or with NaN.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise SystemExit("pictures are written with Pillow: pip install '.[demos]'") from None
    image = Image.new("RGB", (width, height * len(curves)), "white")
    draw = ImageDraw.Draw(image)
    for strip, (name, values) in enumerate(curves.items()):
        if len(values) < 2 or any(v != v for v in values):
            raise ValueError(f"expected two numbers or more without NaN for {name}, got {values}")
        low, high, top = min(values), max(values), strip * height
        draw.text((6, top + 4), f"{name}: {low:.4g} to {high:.4g}", fill="black")
        places = [
            (
                6 + (width - 12) * k / (len(values) - 1),
                top + height - 8 - (height - 32) * (v - low) / ((high - low) or 1),
            )
            for k, v in enumerate(values)
        ]
        draw.line(places, fill="#1f77b4", width=2)
        draw.line((0, top + height - 1, width, top + height - 1), fill="#c0c0c0")
    image.save(path)


class Environments:
    """Copies of one of gymnasium's classic control environments that run side by side, stop and go on.

    `step` is that of gymnasium.vector in the mode SAME_STEP: where an episode ends, the observation is the first of the
    next one and `info["final_obs"]` has its last. The state goes into a checkpoint, which gymnasium's own does not.

    Args:
        name: "CartPole-v1", "Pendulum-v1", …
        count: of copies.
        seed: of their first states.

    Attributes:
        observations: (count, o), what the environments are at.
        returns: of every episode that has ended, in order.
    """

    def __init__(self, name: str, count: int, seed: int):
        try:
            import gymnasium
        except ImportError:
            raise SystemExit("the environments come with gymnasium: pip install '.[demos]'") from None
        self.all = [gymnasium.make(name) for _ in range(count)]
        self.observations = [e.reset(seed=seed + k)[0] for k, e in enumerate(self.all)]
        self.returns, self.running = [], [0.0] * count

    def step(self, actions):
        """Observations, rewards, terminated, truncated, and a dictionary with "final_obs"; one row for each copy."""
        rows = [e.step(action) for e, action in zip(self.all, actions)]
        final = [row[0] for row in rows]
        self.observations = list(final)
        for k, (_, reward, terminated, truncated, _) in enumerate(rows):
            self.running[k] += float(reward)
            if terminated or truncated:
                self.returns.append(self.running[k])
                self.running[k], self.observations[k] = 0.0, self.all[k].reset()[0]
        rewards, terminated, truncated = ([row[k] for row in rows] for k in (1, 2, 3))
        return self.observations, rewards, terminated, truncated, {"final_obs": final}

    def state_dict(self) -> dict:
        """Everything that the next steps depend on, as plain numbers."""
        copies = []
        for e, seen in zip(self.all, self.observations):
            inner = e.unwrapped
            random = inner.np_random.bit_generator.state
            words = {name: str(value) for name, value in random["state"].items()}  # 128 bits each
            copies.append(
                {
                    "state": [float(x) for x in inner.state],
                    "seen": [float(x) for x in seen],
                    "elapsed": int(e.get_wrapper_attr("_elapsed_steps")),
                    "random": words | {"has_uint32": str(random["has_uint32"]), "uinteger": str(random["uinteger"])},
                }
            )
        return {"copies": copies, "returns": list(self.returns), "running": list(self.running)}

    def load_state_dict(self, saved: dict) -> None:
        """Goes on where `state_dict` was taken."""
        import numpy

        self.returns, self.running = list(saved["returns"]), list(saved["running"])
        for k, (e, copy) in enumerate(zip(self.all, saved["copies"])):
            e.reset()
            words = {name: int(value) for name, value in copy["random"].items()}
            state = {"state": words["state"], "inc": words["inc"]}
            e.unwrapped.np_random.bit_generator.state = {
                "bit_generator": "PCG64",
                "state": state,
                "has_uint32": words["has_uint32"],
                "uinteger": words["uinteger"],
            }
            e.unwrapped.state = numpy.array(copy["state"])
            e.set_wrapper_attr("_elapsed_steps", copy["elapsed"])
            self.observations[k] = numpy.array(copy["seen"], dtype=numpy.float32)


class Memory(ReplayBuffer):
    """A replay buffer that goes into a checkpoint."""

    def state_dict(self) -> dict:
        return {"count": self.count, "columns": list(self.columns)}

    def load_state_dict(self, saved: dict) -> None:
        self.count, self.columns = saved["count"], tuple(saved["columns"])


def nearest_neighbors(x: Float[Tensor, "n ..."], k: int) -> Int[Tensor, "2 e"]:
    """Edges to each of n points from the k others that are nearest to it: row 0 the neighbours, row 1 the point.

    Raises:
        ValueError: k below 1, or as large as n.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"expected 1 <= k < {len(x)} neighbours, got {k}")
    near = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(torch.inf).topk(k, largest=False).indices
    return torch.stack([near.flatten(), torch.arange(len(x)).repeat_interleave(k)])


def save_points(points: Float[Tensor, "n d"], labels: Int[Tensor, " n"], path: Path, side: int = 480) -> None:
    """Draws points as dots of one colour for each label, along the two directions in which they vary most, as a PNG.

    Args:
        labels: 0 to 9.
        side: of the picture, in screen pixels.

    Raises:
        ValueError: fewer than 2 dimensions, NaN, or another number of labels than points.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise SystemExit("pictures are written with Pillow: pip install '.[demos]'") from None
    if points.dim() != 2 or points.shape[1] < 2 or points.isnan().any() or labels.shape != points.shape[:1]:
        found = f"{tuple(points.shape)}{' with NaN' if points.isnan().any() else ''} and {labels.numel()} labels"
        raise ValueError(f"expected (n, 2 or more) points without NaN and n labels, got {found}")
    centred = points.detach().double() - points.detach().double().mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    flat = flat / flat.abs().amax().clamp(min=1e-12)  # in [−1, 1]
    colours = [
        "#1f77b4",
        "#ff7f0e",
        "#2ca02c",
        "#d62728",
        "#9467bd",
        "#8c564b",
        "#e377c2",
        "#7f7f7f",
        "#bcbd22",
        "#17becf",
    ]
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for (x, y), label in zip(((flat + 1) / 2 * (side - 9) + 4).tolist(), labels.tolist()):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colours[label])
    image.save(path)


def name_digits_along_a_graph(
    name: str, description: str, make: Callable[[], nn.Module], given: list[str] | None
) -> None:
    """A command: from ten labelled digits of each kind a model names the others, along a graph of similar ones.

    Args:
        name, description, given: as of `arguments`.
        make: a model of (n, 64) nodes and (2, E) edges, to (n, 10) logits.
    """
    chosen = arguments(name, description, 300, given)
    images, labels = digits()
    x, edges = images.flatten(1), nearest_neighbors(images, 8)
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    known = torch.cat([order[labels[order] == digit][:10] for digit in range(10)])
    torch.manual_seed(chosen.seed)
    model = make()
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=5e-4)

    def step():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))  # dropout's, from what is saved
        log_p = model.train()(x, edges)[known].log_softmax(1)
        loss = -log_p.gather(1, labels[known, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        logits = model.eval()(x, edges)
    unknown = torch.ones(len(labels), dtype=torch.bool).index_fill(0, known, False)
    right = (logits.argmax(1) == labels)[unknown].double().mean().item()
    save_points(logits, labels, chosen.out / "logits.png")
    print(f"{right:.3f} of the digits without a label named rightly; {chosen.out / 'logits.png'} shows their logits")


def accuracy_of_a_probe(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], known: Int[Tensor, " k"], new: Int[Tensor, " m"]
) -> float:
    """How well features tell the classes: the share of the new digits that ridge regression on the known ones names.

    Args:
        x: features of all digits; each is scaled to mean 0 and variance 1.
        known, new: numbers of the digits whose labels are learned from, and of those that are named.
    """
    x = x.double()
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    classes = torch.eye(10, dtype=x.dtype)[labels[known]]
    kernel = x[known] @ x[known].T + 10 * torch.eye(len(known), dtype=x.dtype)
    weights = x[known].T @ torch.linalg.solve(kernel, classes)
    return ((x[new] @ weights).argmax(1) == labels[new]).double().mean().item()


class Encoder(nn.Module):
    """64 features of a digit: three convolutions with batch normalization and ReLU, and the mean over the image."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 32, 1), (32, 64, 2), (64, 64, 2))
        self.convolutions = nn.ModuleList(Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.norms = nn.ModuleList(BatchNorm2d(width) for _, width, _ in sizes)

    def forward(self, x):
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x)).relu()
        return x.mean((2, 3))
