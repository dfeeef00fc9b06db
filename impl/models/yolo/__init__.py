"""YOLO: one network looks at the image once, and every cell of a grid predicts boxes and what is in them.

Redmon, Divvala, Girshick & Farhadi 2015, arXiv:1506.02640. Of S × S cells each predicts B boxes (x, y, √w, √h, C) and
the probabilities of the classes p(c), given that an object is there: S × S × (5B + C) values, 7 × 7 × 30.   §2

    x, y    of the centre, relative to its cell;   w, h relative to the image                             §2
    score   Pr(Class_c | Object) · Pr(Object) · IoU = p(c) · C                                            eq. 1
    loss    λ_coord Σ 1ᵢⱼᵒᵇʲ [(x − x̂)² + (y − ŷ)² + (√w − √ŵ)² + (√h − √ĥ)²]                             eq. 3
            + Σ 1ᵢⱼᵒᵇʲ (C − Ĉ)² + λ_noobj Σ 1ᵢⱼⁿᵒᵒᵇʲ (C − Ĉ)² + Σ 1ᵢᵒᵇʲ Σ_c (p(c) − p̂(c))²
    1ᵢⱼᵒᵇʲ  the object's centre is in cell i, and box j is the one of its B with the highest IoU: "responsible"
    Ĉ       the IoU of the responsible box with the object, 0 for every other box, also in the object's cell

Convention: a cell's values are its B boxes, each as (x, y, √w, √h, C), then the classes; the network predicts the roots
(§2.2). Where a cell's boxes have the same IoU the first is responsible. Ĉ is a constant: no gradient goes through the
IoU. The loss is that of each image, summed over cells. `anchors` has YOLOv3, `detection` what follows.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.activation import LeakyReLU
from ...layers.boxes import box_iou, to_centres, to_corners
from ...layers.checks import (
    check_dropout,
    check_finite,
    check_not_negative,
    check_sizes,
    check_space,
    per_dimension,
)
from ...layers.convolution import Conv2d
from ...layers.dropout import Dropout
from ...layers.initialisers import kaiming_uniform_
from ...layers.linear import Linear
from ...layers.pooling import MaxPool2d
from .anchors import (
    ANCHORS,
    STRIDES,
    anchor_clusters,
    anchor_targets,
    decode_anchors,
    encode_anchors,
    prior_grid,
    yolov3_loss,
)
from .darknet import Darknet53, YOLOv3
from .detection import average_precision, detections, mean_average_precision, non_max_suppression, true_positives
from .predictors import at_predictors

__all__ = [
    "ANCHORS",
    "STAGES",
    "STRIDES",
    "YOLO",
    "Darknet53",
    "YOLOv3",
    "anchor_clusters",
    "anchor_targets",
    "average_precision",
    "box_iou",
    "decode_anchors",
    "decode_grid",
    "detections",
    "encode_anchors",
    "grid_targets",
    "mean_average_precision",
    "non_max_suppression",
    "prior_grid",
    "to_centres",
    "to_corners",
    "true_positives",
    "yolo_loss",
    "yolov3_loss",
]

# Figure 3: kernel, channels and stride of the 24 convolutions; a 2 × 2 max pool stands between two stages.
STAGES = (
    ((7, 64, 2),),
    ((3, 192, 1),),
    ((1, 128, 1), (3, 256, 1), (1, 256, 1), (3, 512, 1)),
    (*((1, 256, 1), (3, 512, 1)) * 4, (1, 512, 1), (3, 1024, 1)),
    (*((1, 512, 1), (3, 1024, 1)) * 2, (3, 1024, 1), (3, 1024, 2), (3, 1024, 1), (3, 1024, 1)),
)

Cells = Float[Tensor, "n s s p"]


class YOLO(nn.Module):
    """Images (N, C, H, W) to the predictions of a grid (N, S, S, 5·boxes + num_classes).

    Args:
        image_size: of all images: one side, or height and width.
        grid: S.
        boxes: B.
        num_classes: number of classes.
        stages: kernel (odd), channels and stride of each convolution, stage by stage; between two stages there is a
            2 × 2 max pool, and a convolution of stride s makes of a side of n pixels one of ⌈n/s⌉.
        hidden: width of the layer between the last map and the predictions.
        dropout: probability to drop one of its values in training.
        channels: of the images.

    After every layer but the last there is a leaky ReLU, x or 0.1 x; convolutions have no normalization.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1), no stage, an image that does not last to the last stage;
            images of other channels or of another size.

    Source: Redmon et al. 2015, arXiv:1506.02640, figure 3 and eq. 2; initial weights of variance 2/fan-in, for the
    pretrained ones.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 448,
        grid: int = 7,
        boxes: int = 2,
        num_classes: int = 20,
        stages: Sequence[Sequence[Sequence[int]]] = STAGES,
        hidden: int = 4096,
        dropout: float = 0.5,
        channels: int = 3,
    ):
        super().__init__()
        check_sizes(grid=grid, boxes=boxes, num_classes=num_classes, stages=len(stages), hidden=hidden)
        check_dropout(dropout)
        self.image_size = size = per_dimension("image_size", image_size, 2)
        self.grid, self.boxes, self.num_classes = grid, boxes, num_classes
        self.stages, self.activation, self.pool = nn.ModuleList(), LeakyReLU(0.1), MaxPool2d(2)
        width = channels
        for n, stage in enumerate(stages):
            size = [side // 2 for side in size] if n else size
            self.stages.append(nn.ModuleList())
            for kernel, out, stride in stage:
                self.stages[-1].append(Conv2d(width, out, kernel, stride, padding=kernel // 2))
                kaiming_uniform_(self.stages[-1][-1].weight.data, a=0.1, nonlinearity="leaky_relu")
                width, size = out, [-(-side // stride) for side in size]
        if min(size) < 1:
            raise ValueError(f"expected images that last to the last stage, got {self.image_size}")
        self.hidden = Linear(width * size[0] * size[1], hidden)
        self.dropout = Dropout(dropout)
        self.output = Linear(hidden, grid * grid * (5 * boxes + num_classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Cells:
        check_space(images, 2)
        if images.shape[2:] != self.image_size:
            raise ValueError(f"expected images of {tuple(self.image_size)}, got shape {tuple(images.shape)}")
        x = images
        for n, stage in enumerate(self.stages):
            x = self.pool(x) if n else x
            for convolution in stage:
                x = self.activation(convolution(x))
        x = self.dropout(self.activation(self.hidden(x.flatten(1))))  # (n, hidden)
        return self.output(x).unflatten(1, (self.grid, self.grid, -1))


def grid_targets(
    boxes: Float[Tensor, "n m 4"], classes: Float[Tensor, "n m c"], grid: int
) -> Float[Tensor, "n s s 5+c"]:
    """What a perfect box and the classes are in each cell: (x, y, √w, √h, 1, p(c)), and 0 where no object's centre is.

    Args:
        boxes: (x, y, w, h) of objects, relative to the image.
        classes: 1 for an object's class, else 0; a row of zeros is padding, no object.
        grid: S.

    A centre on the border of two cells belongs to the later one, at the image's end to the last; of several objects in
    one cell the first counts.

    Raises:
        ValueError: grid below 1; boxes or classes of other shapes.

    Source: Redmon et al. 2015, §2.
    """
    check_sizes(grid=grid)
    if boxes.dim() != 3 or classes.dim() != 3 or boxes.shape != (*classes.shape[:2], 4):
        raise ValueError(f"expected (n, m, 4) and (n, m, classes), got {tuple(boxes.shape)}, {tuple(classes.shape)}")
    real = (classes != 0).any(-1)
    cell = (boxes[..., :2] * grid).floor().clamp(0, grid - 1)  # column and row
    size = torch.where(real[..., None], boxes[..., 2:], 1)
    rows = torch.cat([boxes[..., :2] * grid - cell, size.sqrt(), torch.ones_like(cell[..., :1]), classes], dim=-1)
    index = cell.long()
    return at_predictors(rows, index[..., 1] * grid + index[..., 0], real, grid * grid).unflatten(1, (grid, grid))


def yolo_loss(
    predictions: Cells,
    targets: Float[Tensor, "n s s t"],
    boxes: int = 2,
    lambda_coord: float = 5.0,
    lambda_noobj: float = 0.5,
) -> Float[Tensor, " n"]:
    """The five sums of squares of eq. 3 for each image: position, size, confidence with and without object, classes.

    Args:
        predictions: (N, S, S, 5·boxes + classes), of a `YOLO`.
        targets: (N, S, S, 5 + classes), of `grid_targets`.
        boxes: B.
        lambda_coord, lambda_noobj: weights of the coordinates and of the confidence where there is no object.

    Raises:
        ValueError: boxes below 1, a negative weight, shapes that do not fit.

    Source: Redmon et al. 2015, §2.2, eq. 3.
    """
    check_not_negative(lambda_coord=lambda_coord, lambda_noobj=lambda_noobj)
    check_finite(lambda_coord=lambda_coord, lambda_noobj=lambda_noobj)
    found, p = _split(predictions, boxes)  # (n, s, s, B, 5) and (n, s, s, classes)
    if targets.shape != (*p.shape[:3], 5 + p.shape[3]):
        raise ValueError(f"expected targets {(*p.shape[:3], 5 + p.shape[3])}, got {tuple(targets.shape)}")
    truth, p_true = _split(targets, 1)  # (n, s, s, 1, 5)
    overlap = box_iou(_corners(found), _corners(truth)).detach()  # (n, s, s, B)
    best = overlap.argmax(-1, keepdim=True) == torch.arange(boxes, device=overlap.device)
    is_object = truth[..., 4]  # (n, s, s, 1)
    responsible = best * is_object
    coordinates = (found[..., :4] - truth[..., :4]).square().sum(-1)
    confidence = found[..., 4]
    of_boxes = responsible * (lambda_coord * coordinates + (confidence - overlap).square())
    of_boxes = of_boxes + lambda_noobj * (1 - responsible) * confidence.square()
    return (of_boxes.sum(-1) + is_object[..., 0] * (p - p_true).square().sum(-1)).sum((1, 2))


def decode_grid(predictions: Cells, boxes: int = 2) -> tuple[Float[Tensor, "n k 4"], Float[Tensor, "n k c"]]:
    """The corners of all S·S·B boxes, relative to the image, and their scores p(c) · C for each class.

    Cells come row by row, each with its boxes in order: 98 boxes for S = 7 and B = 2.

    Raises:
        ValueError: boxes below 1, predictions of another shape.

    Source: Redmon et al. 2015, §2, eq. 1.
    """
    found, p = _split(predictions, boxes)
    grid = predictions.shape[1]
    i = torch.arange(grid, device=found.device)
    cell = torch.stack([i.expand(grid, -1), i[:, None].expand(-1, grid)], dim=-1)[:, :, None]  # column and row
    place = (found[..., :2] + cell) / grid
    corners = to_corners(torch.cat([place, found[..., 2:4].square()], dim=-1))
    return corners.flatten(1, 3), (found[..., 4:] * p[..., None, :]).flatten(1, 3)


def _split(cells: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Boxes (n, s, s, B, 5) and classes (n, s, s, c)."""
    check_sizes(boxes=boxes)
    if cells.dim() != 4 or cells.shape[1] != cells.shape[2] or cells.shape[3] <= 5 * boxes:
        raise ValueError(f"expected (n, s, s, more than {5 * boxes}) for {boxes} boxes, got {tuple(cells.shape)}")
    return cells[..., : 5 * boxes].unflatten(-1, (boxes, 5)), cells[..., 5 * boxes :]


def _corners(found: Tensor) -> Tensor:
    """Corners relative to the image, but for the cell's own place, which two boxes of one cell share."""
    grid = found.shape[1]
    return to_corners(torch.cat([found[..., :2] / grid, found[..., 2:4].square()], dim=-1))
