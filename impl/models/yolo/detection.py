"""From overlapping boxes to detections, and from detections to average precision.

    suppression   of boxes of one class, in order of their scores, each removes the later ones with IoU > threshold
    match         in order of scores, each box takes the free object with the highest IoU, if that is >= threshold
    precision     p_k = (matched of the first k) / k,   recall r_k = (matched of the first k) / objects
    AP            the mean over recalls r = 0 … 1 of max {p_k : r_k >= r}, 0 where no r_k reaches r
    mAP           the mean of AP over classes that have objects, and over thresholds

Everingham et al. 2010, IJCV 88, §4.2: 11 recalls, threshold ½; Lin et al. 2014, arXiv:1405.0312: 101, ½ to 0.95.

Convention: a box that no free object overlaps is wrong, as in COCO's evaluation; there is no limit of boxes an image.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...layers.boxes import box_iou
from ...layers.checks import check_sizes


def non_max_suppression(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, " n"],
    threshold: float = 0.5,
    classes: Int[Tensor, " n"] | None = None,
) -> Int[Tensor, " k"]:
    """Indices of the boxes that remain, the highest score first.

    Args:
        boxes: corners.
        scores: of equal ones the first box is first.
        threshold: a box is removed if its IoU with one that remains, of a score that is not lower, is larger.
        classes: boxes of different classes do not remove one another; if None, all are of one class.

    Raises:
        ValueError: a threshold outside [0, 1], other shapes.
    """
    _check(boxes, scores, threshold)
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        removed = box_iou(boxes[best], boxes[left]) > threshold
        if classes is not None:
            removed &= classes[left] == classes[best]
        left = left[~removed]
    return torch.stack(kept) if kept else left


def detections(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, "n c"],
    score_threshold: float = 0.05,
    threshold: float = 0.5,
) -> tuple[Float[Tensor, "k 4"], Float[Tensor, " k"], Int[Tensor, " k"]]:
    """Boxes, scores and classes that remain of an image's predictions, the highest score first.

    Args:
        boxes: corners.
        scores: of each box for each class; a box may be detected as several.
        score_threshold: only scores above it count.
        threshold: of `non_max_suppression`, which is within each class.

    Raises:
        ValueError: a threshold outside [0, 1], other shapes.
    """
    box, label = (scores > score_threshold).nonzero(as_tuple=True)
    chosen = scores[box, label]
    kept = non_max_suppression(boxes[box], chosen, threshold, label)
    return boxes[box][kept], chosen[kept], label[kept]


def true_positives(
    boxes: Float[Tensor, "n 4"], truths: Float[Tensor, "m 4"], threshold: float = 0.5
) -> Bool[Tensor, " n"]:
    """Which boxes match an object that no box before them has matched.

    Args:
        boxes: corners, the highest score first.
        truths: corners of the objects.
        threshold: least IoU of a match.
    """
    overlap = box_iou(boxes[:, None], truths)  # (n, m)
    found = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for k in range(len(boxes) if len(truths) else 0):
        best, which = overlap[k].max(0)
        if best >= threshold:
            found[k] = True
            overlap[:, which] = -1  # taken
    return found


def average_precision(
    scores: Float[Tensor, " n"], matched: Bool[Tensor, " n"], objects: int, points: int = 101
) -> Float[Tensor, ""]:
    """AP = 1/points Σ_r max {p_k : r_k >= r} of one class.

    Args:
        scores: of all detections, in all images.
        matched: whether each matches an object.
        objects: how many there are.
        points: recalls, evenly from 0 to 1.

    Raises:
        ValueError: no object, fewer than 2 points.

    Source: Everingham et al. 2010, §4.2.
    """
    check_sizes(objects=objects)
    if points < 2:
        raise ValueError(f"expected points >= 2, got {points}")
    hits = matched[scores.argsort(descending=True, stable=True)].cumsum(0)
    precision = hits.to(scores.dtype) / torch.arange(1, len(hits) + 1, device=hits.device)
    # r_k >= r, as hits/objects >= i/(points − 1), in whole numbers
    reached = hits * (points - 1) >= torch.arange(points, device=hits.device)[:, None] * objects
    at_recall = torch.where(reached, precision, 0)
    return torch.cat([at_recall, at_recall.new_zeros(points, 1)], dim=1).amax(1).mean()


def mean_average_precision(
    found: Sequence[tuple[Tensor, Tensor, Tensor]],
    truths: Sequence[tuple[Tensor, Tensor]],
    thresholds: Sequence[float] = (0.5,),
    points: int = 101,
) -> Float[Tensor, ""]:
    """The mean of `average_precision` over the classes that have objects, and over thresholds of the IoU.

    Args:
        found: for each image the corners (k, 4), scores (k,) and classes (k,) of its detections.
        truths: for each image the corners (m, 4) and classes (m,) of its objects.
        thresholds: least IoU of a match.
        points: of `average_precision`: 11 for PASCAL VOC 2007, 101 for COCO.

    Raises:
        ValueError: other numbers of images in the two, or no object in any.
    """
    present = torch.cat([classes for _, classes in truths]).unique() if truths else torch.empty(0)
    if len(found) != len(truths) or not len(present):
        raise ValueError(f"expected objects, and detections in as many images, got {len(found)} and {len(truths)}")
    values = []
    for threshold in thresholds:
        for label in present:
            scores, matched, objects = [], [], 0
            for (boxes, confidence, classes), (true_boxes, true_classes) in zip(found, truths):
                order = confidence[classes == label].argsort(descending=True, stable=True)
                mine = true_boxes[true_classes == label]
                scores.append(confidence[classes == label][order])
                matched.append(true_positives(boxes[classes == label][order], mine, threshold))
                objects += len(mine)
            values.append(average_precision(torch.cat(scores), torch.cat(matched), objects, points))
    return torch.stack(values).mean()


def _check(boxes: Tensor, scores: Tensor, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold in [0, 1], got {threshold}")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"expected boxes (n, 4) and n scores, got {tuple(boxes.shape)}, {tuple(scores.shape)}")
