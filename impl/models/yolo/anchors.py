"""YOLOv3: boxes as changes of prior shapes, at three scales, and a logistic classifier for each class.

Redmon & Farhadi 2018, arXiv:1804.02767. A prior is a shape p_w × p_h at a cell whose corner is c, of a grid of `stride`
pixels; a prediction is (t_x, t_y, t_w, t_h, t_o, a logit for each class):

    b_x = (σ(t_x) + c_x) · stride,   b_w = p_w e^{t_w},   likewise y and h                         §2.1
    Pr(object) = σ(t_o),   Pr(c) = σ(t_c): classes do not exclude one another                       §2.2
    three priors at each cell of three scales, strides 32, 16 and 8: 10,647 boxes of 416 × 416      §2.3
    prior i is positive for an object: the centre is in its cell, and of all nine shapes its IoU is the highest
    prior i is ignored: it is not positive, but its IoU with an object is above ½                   §2.1
    shapes by k-means with d = 1 − IoU of shapes at the same centre      Redmon & Farhadi 2016, arXiv:1612.08242, §2

Convention: boxes and priors are in pixels, predictions ordered by scale, prior, row and column. A prior's IoU is of
what t = 0 decodes to, as the text has it; the released code takes that of the prediction. The loss is a sum over
predictions, for each image; its gradient is "prediction minus truth" for t_w and t_h and, as released, σ(t_x) minus
the centre's place in the cell for t_x. The first of several objects at one prior counts.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...layers.boxes import box_iou, to_corners
from ...layers.checks import check_last, check_sizes
from ...layers.numerics import softplus
from .predictors import at_predictors

STRIDES = (32, 16, 8)
# §2.3, three shapes for each stride, width × height.
ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)

Predictions = Float[Tensor, "n p v"]


def prior_grid(
    height: int,
    width: int,
    anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
    strides: Sequence[int] = STRIDES,
) -> Float[Tensor, "p 5"]:
    """All priors of an image: the corner of the cell (x, y), the shape (w, h) and the stride, in pixels.

    Args:
        height, width: of the image.
        anchors: for each stride its shapes (w, h).
        strides: pixels along a side of a cell, a divisor of height and width.

    Raises:
        ValueError: a size below 1, a stride that does not divide it, shapes of another number of strides.
    """
    check_sizes(height=height, width=width)
    if len(anchors) != len(strides) or any(height % stride or width % stride for stride in strides):
        raise ValueError(f"expected shapes for each of {strides}, divisors of {height} and {width}, got {anchors}")
    found = []
    for shapes, stride in zip(anchors, strides):
        y, x = torch.meshgrid(torch.arange(0, height, stride), torch.arange(0, width, stride), indexing="ij")
        cells = torch.stack([x, y], dim=-1).flatten(0, 1).to(torch.get_default_dtype())
        for shape in shapes:
            found.append(torch.cat([cells, cells.new_tensor([*shape, stride]).expand(len(cells), -1)], dim=1))
    return torch.cat(found)


def decode_anchors(t: Float[Tensor, "*n p 4"], priors: Float[Tensor, "p 5"]) -> Float[Tensor, "*n p 4"]:
    """b = ((σ(t_x) + c_x) · stride, …, p_w e^{t_w}, …): boxes (x, y, w, h) in pixels, in the cells of their priors.

    Raises:
        ValueError: other last dimensions.

    Source: Redmon & Farhadi 2018, §2.1.
    """
    corner, shape, stride = _parts(t, priors)
    return torch.cat([corner + t[..., :2].sigmoid() * stride, shape * t[..., 2:].exp()], dim=-1)


def encode_anchors(boxes: Float[Tensor, "*n p 4"], priors: Float[Tensor, "p 5"]) -> Float[Tensor, "*n p 4"]:
    """t = (σ⁻¹((b_x − c_x)/stride), …, ln(b_w/p_w), …): the inverse of `decode_anchors`.

    A centre at the border of its cell has t = ±∞.

    Raises:
        ValueError: other last dimensions.

    Source: Redmon & Farhadi 2018, §2.1: by inverting the equations.
    """
    corner, shape, stride = _parts(boxes, priors)
    inside = (boxes[..., :2] - corner) / stride
    return torch.cat([inside.log() - (-inside).log1p(), (boxes[..., 2:] / shape).log()], dim=-1)


def anchor_targets(
    boxes: Float[Tensor, "n m 4"],
    classes: Float[Tensor, "n m c"],
    priors: Float[Tensor, "p 5"],
    ignore_threshold: float = 0.5,
) -> tuple[Float[Tensor, "n p 5+c"], Bool[Tensor, "n p"]]:
    """What each prior is to predict, and which are ignored where there is no object for them.

    Args:
        boxes: (x, y, w, h) of objects, in pixels.
        classes: 1 for each of an object's classes, else 0; a row of zeros is padding, no object.
        priors: of `prior_grid`.
        ignore_threshold: priors that overlap an object by more, without being positive, are ignored.

    Returns:
        (x, y, t_w, t_h, 1, classes) at positive priors, x and y as the centre's place in the cell, from 0 to 1, and
        zeros at all others; True at priors that are ignored.

    Raises:
        ValueError: boxes, classes or priors of other shapes.

    Source: Redmon & Farhadi 2018, §2.1.
    """
    if boxes.dim() != 3 or classes.dim() != 3 or boxes.shape != (*classes.shape[:2], 4):
        raise ValueError(f"expected (n, m, 4) and (n, m, classes), got {tuple(boxes.shape)}, {tuple(classes.shape)}")
    check_last(priors, 5)
    real = (classes != 0).any(-1)
    corner, shape, end = priors[:, :2], priors[:, 2:4], priors[:, :2] + priors[:, 4:]
    place, size = boxes[:, :, None, :2], boxes[:, :, None, 2:]  # (n, m, 1, 2)
    inside = ((place >= corner) & ((place < end) | (end == end.amax(0)))).all(-1)  # at the image's end the last cell
    shapes = box_iou(_centred(size), _centred(shape))  # (n, m, p)
    best = shapes.masked_fill(~inside, -1).argmax(-1)  # (n, m)
    mine = priors[best]
    rows = [(boxes[..., :2] - mine[..., :2]) / mine[..., 4:]]
    rows += [(torch.where(real[..., None], boxes[..., 2:], 1) / mine[..., 2:4]).log()]
    rows += [torch.ones_like(boxes[..., :1]), classes]
    targets = at_predictors(torch.cat(rows, dim=-1), best, real, len(priors))
    whole = to_corners(decode_anchors(torch.zeros_like(priors[:, :4]), priors))
    overlap = box_iou(to_corners(boxes)[:, :, None], whole)
    near = ((overlap > ignore_threshold) & real[..., None]).any(1)
    return targets, near & (targets[..., 4] == 0)


def yolov3_loss(predictions: Predictions, targets: Predictions, ignored: Bool[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Errors of place and size and cross entropies of the classes at positive priors, and of objectness at all others.

    Args:
        predictions: (N, P, 5 + classes), of a `YOLOv3`.
        targets, ignored: of `anchor_targets`; ignored priors have no loss.

    Raises:
        ValueError: targets of another shape than the predictions, ignored of another than (N, P).

    Source: Redmon & Farhadi 2018, §2.1 and §2.2.
    """
    if predictions.shape != targets.shape or predictions.dim() != 3 or ignored.shape != predictions.shape[:2]:
        shapes = [tuple(t.shape) for t in (predictions, targets, ignored)]
        raise ValueError(f"expected twice (n, p, 5 + classes) and (n, p), got {shapes}")
    is_object = targets[..., 4]
    entropies = softplus(predictions) - targets * predictions  # −y ln σ(t) − (1 − y) ln(1 − σ(t))
    size = (predictions[..., 2:4] - targets[..., 2:4]).square().sum(-1) / 2
    of_object = entropies[..., :2].sum(-1) + size + entropies[..., 5:].sum(-1)
    return (is_object * of_object + torch.where(ignored, 0, entropies[..., 4])).sum(-1)


def anchor_clusters(
    sizes: Float[Tensor, "n 2"], anchors: Float[Tensor, "k 2"], steps: int = 100
) -> Float[Tensor, "k 2"]:
    """k-means of box sizes (w, h) with the distance 1 − IoU: each shape becomes the mean of the sizes nearest to it.

    Args:
        sizes: of the boxes of a data set.
        anchors: shapes to begin with; one that is nearest to none is unchanged.
        steps: how often.

    Raises:
        ValueError: steps below 1, other shapes than (n, 2) and (k, 2).

    Source: Redmon & Farhadi 2016, arXiv:1612.08242, §2, "Dimension Clusters".
    """
    check_sizes(steps=steps)
    if sizes.dim() != 2 or anchors.dim() != 2 or sizes.shape[1] != 2 or anchors.shape[1] != 2:
        raise ValueError(f"expected (n, 2) and (k, 2), got {tuple(sizes.shape)} and {tuple(anchors.shape)}")
    i = torch.arange(len(anchors), device=sizes.device)
    for _ in range(steps):
        nearest = box_iou(_centred(sizes[:, None]), _centred(anchors)).argmax(1)
        member = (nearest[:, None] == i).to(sizes.dtype)  # (n, k)
        count = member.sum(0)[:, None]
        anchors = torch.where(count > 0, member.T @ sizes / count.clamp(min=1), anchors)
    return anchors


def _parts(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Corner, shape and stride of the priors, for boxes of as many."""
    check_last(boxes, 4)
    check_last(priors, 5)
    return priors[:, :2], priors[:, 2:4], priors[:, 4:]


def _centred(size: Tensor) -> Tensor:
    """Boxes of these sizes, all around one centre."""
    return torch.cat([-size / 2, size / 2], dim=-1)
