"""Boxes as centre and size or as corners, how much two of them overlap, and which predictor an object belongs to.

(x, y, w, h) ↔ (x − w/2, y − h/2, x + w/2, y + h/2)
IoU(A, B) = |A ∩ B| / |A ∪ B|                                           0 for two boxes without area
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...layers.checks import check_last

Boxes = Float[Tensor, "*batch 4"]


def to_corners(boxes: Boxes) -> Boxes:
    """(x, y, w, h) → (x − w/2, y − h/2, x + w/2, y + h/2)."""
    check_last(boxes, 4)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_centres(boxes: Boxes) -> Boxes:
    """(x₁, y₁, x₂, y₂) → ((x₁ + x₂)/2, (y₁ + y₂)/2, x₂ − x₁, y₂ − y₁): the inverse of `to_corners`."""
    check_last(boxes, 4)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_iou(first: Float[Tensor, "*#batch 4"], second: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "..."]:
    """IoU = |A ∩ B| / |A ∪ B| of boxes given by corners, whose other dimensions broadcast.

    Args:
        first, second: (…, 4), x₁ <= x₂ and y₁ <= y₂; `first[:, None]` and `second` give all pairs.

    Raises:
        ValueError: a last dimension other than 4.

    Convention: two boxes without area have an IoU of 0, also where they are equal.
    """
    check_last(first, 4)
    check_last(second, 4)
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    return intersection / torch.where(union > 0, union, 1)


def at_predictors(
    rows: Float[Tensor, "n m d"], predictor: Int[Tensor, "n m"], real: Bool[Tensor, "n m"], count: int
) -> Float[Tensor, "n p d"]:
    """Each object's row at its predictor and zeros elsewhere; the first of several objects keeps the predictor.

    Args:
        rows: one for each object, and for the padding where `real` is False.
        predictor: the index of the object's predictor.
        count: P, of all predictors.
    """
    same = (predictor[:, :, None] == predictor[:, None]) & real[:, None]
    first = real & ~same.tril(-1).any(-1)  # no object before it has the same predictor
    rows = torch.where(first[..., None], rows, 0)
    at = predictor[..., None].expand_as(rows)
    return rows.new_zeros(len(rows), count, rows.shape[-1]).scatter_add(1, at, rows)
