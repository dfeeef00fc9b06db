"""YOLO on canvases of digits.  Redmon et al. 2015, arXiv:1506.02640; Redmon & Farhadi 2018, arXiv:1804.02767."""

import pytest
import torch

from impl.models.yolo import (
    YOLO,
    anchor_targets,
    box_iou,
    decode_anchors,
    decode_grid,
    detections,
    grid_targets,
    mean_average_precision,
    non_max_suppression,
    to_corners,
    yolo_loss,
    yolov3_loss,
)
from spec.cases.yolo import priors
from spec.data import digits

pytestmark = pytest.mark.item("yolo")

STAGES = (((3, 16, 1),), ((3, 32, 1),), ((3, 32, 1),))


def canvases(x, labels, n, generator, side=24):
    """One or two digits, 8 to 12 pixels wide and high, that do not overlap; their boxes, and one-hot classes."""
    images, boxes, classes = torch.zeros(n, 1, side, side), torch.zeros(n, 2, 4), torch.zeros(n, 2, 10)
    for i in range(n):
        for j in range(1 + int(torch.randint(2, (), generator=generator))):
            k = int(torch.randint(len(x), (), generator=generator))
            h, w = torch.randint(8, 13, (2,), generator=generator).tolist()
            top, left = (int(torch.randint(side - s + 1, (), generator=generator)) for s in (h, w))
            place = images[i, 0, top : top + h, left : left + w]
            if not place.any():
                digit = x[k].view(1, 1, 8, 8)
                place += torch.nn.functional.interpolate(digit, (h, w), mode="bilinear")[0, 0]
                boxes[i, j] = torch.tensor([left + w / 2, top + h / 2, w, h]) / side
                classes[i, j, labels[k]] = 1
    return images, boxes, classes


def precision(seed, steps=150, lr=2e-3):
    """AP of 11 recalls at IoU ½ on new canvases, any digit being right."""
    x, labels, new, new_labels = digits()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = YOLO(24, 4, 2, 10, STAGES, 128, 0.0, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, 2 * (steps - step) / steps)
        images, boxes, classes = canvases(x, labels, 32, generator)
        loss = yolo_loss(model(images), grid_targets(boxes, classes, 4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, boxes, classes = canvases(new, new_labels, 100, generator)
    with torch.no_grad():
        found, scores = decode_grid(model.eval()(images))
    results = [detections(b, s.sum(1, keepdim=True)) for b, s in zip(found, scores)]
    truths = [to_corners(b[c.any(-1)]) for b, c in zip(boxes, classes)]
    return mean_average_precision(results, [(t, torch.zeros(len(t)).long()) for t in truths], points=11).item()


def test_digits_are_found_on_a_canvas():
    """A grid of 4 × 4 cells finds new digits with an average precision above 0.7, after 4,800 canvases.

    Measured on 3 seeds: 0.90. Wrong: 0.32 to 0.48 with λ_noobj = 0, 0.09 to 0.19 with x and y of the targets exchanged,
    0.00 where the targets are w and h, not their roots.

    Source: Redmon et al. 2015, §2: detection as regression, from pixels to boxes.
    """
    found = precision(0)
    assert found > 0.7, f"expected an average precision above 0.7, found {found:.3f}"


def found_by_descent(seed):
    """Free predictions under YOLOv3's loss: how many are detected, the least IoU of an object, and right class sets."""
    p, generator = priors(torch.float32), torch.Generator().manual_seed(seed)
    values = torch.rand(4, 7, generator=generator)
    corner = torch.tensor([[0.0, 0], [0, 32], [16, 32], [16, 0]])
    sizes = torch.tensor([[13.0, 22], [8, 7], [22, 11], [5, 11]]) * (0.8 + 0.4 * values[:, 2:4])
    boxes = torch.cat([corner + 4 + 8 * values[:, :2], sizes], dim=1)[None]
    classes = (values[:, 4:] > 0.5).float()[None]
    classes[..., 0] = torch.where(classes.any(-1), classes[..., 0], 1)
    targets, ignored = anchor_targets(boxes, classes, p)
    t = torch.zeros(1, len(p), 8, requires_grad=True)
    optimizer = torch.optim.Adam([t], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        yolov3_loss(t, targets, ignored).sum().backward()
        optimizer.step()
    t = t.detach()[0]
    found, score = to_corners(decode_anchors(t[:, :4], p)), t[:, 4].sigmoid()
    kept = non_max_suppression(found, score)
    kept = kept[score[kept] > 0.6]  # an ignored prior stays at ½
    overlap = box_iou(to_corners(boxes[0])[:, None], found[kept])
    named = (t[kept, 5:] > 0) == classes[0, overlap.argmax(0)].bool()
    return len(kept), overlap.amax(1).min().item(), named.all().item()


def test_descent_on_the_loss_of_yolov3_finds_objects_with_all_their_classes():
    """Free predictions under the loss become the four objects, IoU above 0.95, each with its set of classes.

    Measured on 8 seeds: 4 objects, IoU 0.9996 or more. Wrong: IoU 0.13 with targets of sizes without the logarithm, and
    other classes for an object that has several where one alone is taught.

    Source: Redmon & Farhadi 2018, §2.1 and §2.2.
    """
    count, overlap, named = found_by_descent(0)
    assert count == 4 and named, f"expected four objects with their classes, found {count}, {named}"
    assert overlap > 0.95, f"expected each object with an IoU above 0.95, found {overlap:.3f}"
