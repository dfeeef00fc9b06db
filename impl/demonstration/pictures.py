"""Grids of images, points and curves, written as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _pillow():
    """Its modules Image and ImageDraw."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise SystemExit("pictures are written with Pillow: pip install '.[demos]'") from None
    return Image, ImageDraw


def save_grid(images: Float[Tensor, "n c h w"], path: Path, columns: int = 10, scale: int = 4) -> None:
    """Writes images side by side, row by row, as one PNG.

    Args:
        images: grey (c = 1) or red, green, blue (c = 3), in [0, 1]; what lies outside is clamped.
        columns: images in a row.
        scale: screen pixels along each edge of a pixel.

    Raises:
        ValueError: another number of channels, no image, or NaN.
    """
    Image, _ = _pillow()
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


def save_boxes(
    images: Float[Tensor, "n c h w"],
    boxes: Sequence[Float[Tensor, "k 4"]],
    names: Sequence[Sequence[str]],
    path: Path,
    columns: int = 6,
    scale: int = 5,
) -> None:
    """Writes images side by side with a frame around each box and its name at the corner, as one PNG.

    Args:
        images, columns, scale: as of `save_grid`.
        boxes: of each image, left, top, right and bottom in pixels; what lies outside is cut off.
        names: of each image's boxes.

    Raises:
        ValueError: as `save_grid`; boxes or names of another number of images.
    """
    Image, ImageDraw = _pillow()
    if not len(images) == len(boxes) == len(names):
        raise ValueError(f"expected boxes and names of {len(images)} images, got {len(boxes)} and {len(names)}")
    save_grid(images, path, columns, scale)
    with Image.open(path) as sheet:
        image = sheet.convert("RGB")
    draw, (height, width) = ImageDraw.Draw(image), images.shape[2:]
    for n, (rows, labels) in enumerate(zip(boxes, names)):
        left, top = n % columns * (width + 1) * scale, n // columns * (height + 1) * scale
        inside = torch.minimum(rows.clamp(min=0), rows.new_tensor([width, height] * 2)) * scale
        for (x1, y1, x2, y2), label in zip(inside.round().tolist(), labels):
            frame = left + x1, top + y1, left + max(x1, x2 - 1), top + max(y1, y2 - 1)
            draw.rectangle(frame, outline="#ff7f0e")
            draw.text((frame[0] + 2, frame[1]), label, fill="#ffe119", font_size=3 * scale)
    image.save(path)


def save_points(points: Float[Tensor, "n d"], labels: Int[Tensor, " n"], path: Path, side: int = 480) -> None:
    """Draws points as dots of one colour for each label, along the two directions in which they vary most, as a PNG.

    Args:
        labels: 0 to 9.
        side: of the picture, in screen pixels.

    Raises:
        ValueError: fewer than 2 dimensions, NaN, or another number of labels than points.
    """
    Image, ImageDraw = _pillow()
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


def save_curves(curves: Mapping[str, list[float]], path: Path, width: int = 560, height: int = 160) -> None:
    """Draws each list of numbers as a curve in a strip of its own, with its name and its range, as one PNG.

    Raises:
        ValueError: a list of fewer than two numbers, or with NaN.
    """
    Image, ImageDraw = _pillow()
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
