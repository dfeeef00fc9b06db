"""Boxes: their two forms, how far two overlap, and how far apart two are that do not.

Rezatofighi, Tsoi, Gwak, Sadeghian, Reid & Savarese 2019, arXiv:1902.09630, §3, Alg. 1.

    corners (x₀, y₀, x₁, y₁)  ↔  centre and size (c_x, c_y, w, h) = ((x₀ + x₁)/2, (y₀ + y₁)/2, x₁ − x₀, y₁ − y₀)
    IoU(A, B)  = |A ∩ B| / |A ∪ B|
    GIoU(A, B) = IoU(A, B) − |C ∖ (A ∪ B)| / |C|,   C the smallest box around both

Convention: a box is the last dimension, and the others broadcast: `a[:, None]` with `b` gives every pair. A side whose
ends are in the wrong order has length 0; where a union or C has no area, its ratio is 0. Areas are in float32 or wider.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_last
from .numerics import at_least_float32


def to_corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(c_x, c_y, w, h) → (c_x − w/2, c_y − h/2, c_x + w/2, c_y + h/2).

    Raises:
        ValueError: a last dimension other than 4.
    """
    check_last(boxes, 4)
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """(x₀, y₀, x₁, y₁) → ((x₀ + x₁)/2, (y₀ + y₁)/2, x₁ − x₀, y₁ − y₀).

    Raises:
        ValueError: a last dimension other than 4.
    """
    check_last(boxes, 4)
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def box_iou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*#n"]:
    """IoU = |A ∩ B| / |A ∪ B| of boxes as corners.

    Args:
        a, b: boxes (…, 4), whose leading dimensions broadcast.

    Raises:
        ValueError: a last dimension other than 4.

    Source: Rezatofighi et al. 2019, arXiv:1902.09630, eq. 1.
    """
    return _overlap(a, b)[0].to(a.dtype)


def generalized_box_iou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*#n"]:
    """GIoU = IoU − |C ∖ (A ∪ B)| / |C| of boxes as corners; unlike IoU it has a gradient where they are apart.

    Arguments and errors: see `box_iou`.

    Source: Rezatofighi et al. 2019, arXiv:1902.09630, Alg. 1.
    """
    dtype, (iou, union) = a.dtype, _overlap(a, b)
    a, b = at_least_float32(a), at_least_float32(b)
    around = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)  # C
    hull = _area(around)
    return (iou - _ratio(hull - union, hull)).to(dtype)


def _overlap(a, b):
    """IoU and |A ∪ B|."""
    check_last(a, 4)
    check_last(b, 4)
    a, b = at_least_float32(a), at_least_float32(b)
    both = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)  # A ∩ B
    common = _area(both)
    union = _area(a) + _area(b) - common
    return _ratio(common, union), union


def _area(boxes):
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def _ratio(part, whole):
    return torch.where(whole > 0, part, 0) / torch.where(whole > 0, whole, 1)
