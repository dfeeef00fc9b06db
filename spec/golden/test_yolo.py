"""Golden values of YOLO.  Redmon et al. 2015, arXiv:1506.02640; Redmon & Farhadi 2018, arXiv:1804.02767."""

import pytest
import torch

from impl.models.yolo import (
    YOLO,
    Darknet53,
    YOLOv3,
    box_iou,
    decode_anchors,
    grid_targets,
    mean_average_precision,
    non_max_suppression,
    prior_grid,
    yolo_loss,
    yolov3_loss,
)
from spec import cost
from spec.cases.yolo import yolo
from spec.golden import load
from spec.laws import random

pytestmark = pytest.mark.item("yolo")


def test_iou_agrees_with_transformers():
    """IoU of 6 × 5 pairs of boxes.

    Source: values of transformers' box_iou.
    """
    golden = load("yolo")
    golden.check("iou", box_iou(golden["first"][:, None], golden["second"]))


def test_iou_of_two_squares_that_share_a_corner():
    """(0, 0, 2, 2) and (1, 1, 3, 3) share 1 of 7.

    Source: by hand.
    """
    found = box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3]))
    assert abs(found.item() - 1 / 7) < 1e-7, f"expected 1/7, found {found}"


def test_network_gives_the_numbers_of_its_library_parts():
    """Predictions of three convolutions, a pool between them and two linear layers.

    Source: Redmon et al. 2015, figure 3; values of torch.nn.functional.
    """
    golden = load("yolo")
    model = yolo().double().eval()
    model.load_state_dict(golden.state_dict("v1"))
    golden.check("grid", model(golden["images"]))


def test_loss_of_the_grid_and_its_gradient():
    """Eq. 3 for two images with three objects, and its gradient.

    Source: Redmon et al. 2015, eq. 3; values of torch's mse_loss with transformers' IoU.
    """
    golden = load("yolo")
    predictions = golden["predictions"].requires_grad_()
    loss = yolo_loss(predictions, grid_targets(golden["objects"], golden["classes"], 3))
    golden.check("grid_loss", loss)
    golden.check("grid_gradient", torch.autograd.grad(loss.sum(), predictions)[0])


def test_boxes_and_loss_of_priors():
    """Decoded boxes of four priors, the loss of two images with a positive prior each, and its gradient.

    Source: Redmon & Farhadi 2018, §2.1 and §2.2; values of torch's cross entropies and squares.
    """
    golden = load("yolo")
    t = golden["t"].requires_grad_()
    golden.check("decoded", decode_anchors(t[..., :4], golden["priors"]))
    loss = yolov3_loss(t, golden["targets"], golden["ignored"])
    golden.check("prior_loss", loss)
    golden.check("prior_gradient", torch.autograd.grad(loss.sum(), t)[0])


def test_average_precision_is_that_of_coco():
    """mAP over ten thresholds from ½ to 0.95, and at ½ alone, of three images.

    Source: Lin et al. 2014, arXiv:1405.0312; values of pycocotools.
    """
    golden = load("yolo")
    found, truths = [], []
    for n in range(3):
        mine, theirs = golden["found.image"] == n, golden["truths.image"] == n
        found.append((golden["found"][mine], golden["found.score"][mine], golden["found.class"][mine]))
        truths.append((golden["truths"][theirs], golden["truths.class"][theirs]))
    thresholds = [0.5 + 0.05 * k for k in range(10)]
    means = [mean_average_precision(found, truths, thresholds), mean_average_precision(found, truths)]
    golden.check("map", torch.stack(means))


def test_eleven_recalls_of_pascal_by_hand():
    """Two objects, detections right, wrong, right: precision 1 at recalls to ½, 2/3 beyond: (6 + 5 · 2/3)/11.

    Source: Everingham et al. 2010, §4.2.
    """
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 6, 6], [3, 0, 5, 2]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)
    label = torch.zeros(3, dtype=torch.int64)
    found = mean_average_precision([(boxes, scores, label)], [(boxes[[0, 2]], label[:2])], points=11)
    assert abs(found.item() - (6 + 10 / 3) / 11) < 1e-12, f"expected {(6 + 10 / 3) / 11}, found {found}"


def test_suppression_by_hand():
    """Of four boxes in a row, each half over the next, the second highest falls to the highest and frees the third.

    Source: by hand: neighbours have an IoU of 1/3.
    """
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [3, 0, 5, 2]])
    found = non_max_suppression(boxes, torch.tensor([0.9, 0.8, 0.7, 0.95]), 0.3)
    assert found.tolist() == [3, 0], f"expected boxes 3 and 0, found {found}"
    found = non_max_suppression(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.3)
    assert found.tolist() == [0, 2], f"expected boxes 0 and 2, found {found}"


def _count(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_of_the_papers_networks():
    """24 convolutions and 2 layers have 271,703,550 parameters, YOLOv3 of 80 classes 61,949,149, its trunk 40,584,928.

    Source: Redmon et al. 2015, figure 3; Redmon & Farhadi 2018, table 1: with 1,000 classes 41,609,928.
    """
    with torch.device("meta"):
        model, third, trunk = YOLO(), YOLOv3(), Darknet53()
    found = _count(model), _count(third), _count(trunk)
    assert found == (271_703_550, 61_949_149, 40_584_928), f"found {found}"
    convolutions = [p for p in model.parameters() if p.dim() == 4]
    assert len(convolutions) == 24, f"expected 24 convolutions, found {len(convolutions)}"


def test_predictions_of_the_papers_networks():
    """448² pixels give 7 × 7 × 30 values; 416² give 10,647 rows of 85, for 65.86 billion operations, and 608² 22,743.

    Source: Redmon et al. 2015, §2; Redmon & Farhadi 2018, §2.3, and the authors' page: 65.86 Bn.
    """
    images = [random(1, 3, size, size).to("meta") for size in (448, 416)]
    with torch.device("meta"):
        model, third = YOLO().eval(), YOLOv3().eval()
    found = tuple(model(images[0]).shape), tuple(third(images[1]).shape)
    assert found == ((1, 7, 7, 30), (1, 10_647, 85)), f"found {found}"
    assert len(prior_grid(416, 416)) == 10_647 and len(prior_grid(608, 608)) == 22_743
    operations = cost.flops(third, images[1])
    assert operations == 65_864_075_264, f"expected 65.864 billion operations, found {operations}"
