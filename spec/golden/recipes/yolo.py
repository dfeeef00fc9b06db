"""Golden values of YOLO."""

import contextlib
import io

import numpy as np

from spec.golden import Recipe, recipe

_GRID, _BOXES, _CLASSES = 3, 2, 4


@recipe(
    "yolo",
    oracle="pycocotools' COCOeval; transformers' box_iou; torch.nn.functional's conv2d, mse_loss and cross entropies",
    second="NumPy: windows pixel by pixel, equation 3 cell by cell, precision rank by rank",
    needs=("torch", "transformers", "pycocotools", "numpy"),
)
def yolo(recipe: Recipe) -> None:
    """IoU of all pairs, a network of 3 convolutions, both losses with gradients, decoded boxes, average precision."""
    draw = np.random.default_rng(0)
    _overlaps(recipe, draw)
    _network(recipe, draw)
    _grid_loss(recipe, draw)
    _prior_loss(recipe, draw)
    _precision(recipe, draw)


def _iou(a, b):
    sides = [max(min(a[2 + k], b[2 + k]) - max(a[k], b[k]), 0.0) for k in (0, 1)]
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return sides[0] * sides[1] / (areas[0] + areas[1] - sides[0] * sides[1])


def _boxes(draw, count):
    low = draw.integers(0, 40, (count, 2))
    return np.concatenate([low, low + draw.integers(8, 30, (count, 2))], axis=1) / 4


def _overlaps(recipe, draw):
    import torch
    from transformers.loss.loss_for_object_detection import box_iou

    first, second = recipe.given("first", _boxes(draw, 6)), recipe.given("second", _boxes(draw, 5))
    found = box_iou(torch.from_numpy(first), torch.from_numpy(second))[0]
    recipe.expect("iou", found, second=[[_iou(a, b) for b in second] for a in first])


def _network(recipe, draw):
    """Stages ((3, 4, 2),), ((1, 2, 1), (3, 3, 1)), images 2 × 4 × 8, 5 hidden values, 2 × 2 cells of 3 boxes."""
    import torch
    from torch.nn import functional

    def given(name, *shape):
        return recipe.given(name, draw.integers(-12, 13, shape) / 16)

    shapes = {"stages.0.0": (4, 2, 3, 3), "stages.1.0": (2, 4, 1, 1), "stages.1.1": (3, 2, 3, 3)}
    shapes |= {"hidden": (5, 6), "output": (72, 5)}
    w = {}
    for name, shape in shapes.items():
        w[f"{name}.weight"] = given(f"v1.{name}.weight", *shape)
        w[f"{name}.bias"] = given(f"v1.{name}.bias", shape[0])
    images = given("images", 2, 2, 4, 8)
    t = {name: torch.from_numpy(value) for name, value in w.items()}

    def layer(x, name, stride=1):
        y = functional.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], stride, t[f"{name}.weight"].shape[2] // 2)
        return functional.leaky_relu(y, 0.1)

    x = functional.max_pool2d(layer(torch.from_numpy(images), "stages.0.0", 2), 2)
    x = layer(layer(x, "stages.1.0"), "stages.1.1").flatten(1)
    x = functional.leaky_relu(functional.linear(x, t["hidden.weight"], t["hidden.bias"]), 0.1)
    oracle = functional.linear(x, t["output.weight"], t["output.bias"]).view(2, 2, 2, 18)

    def leaky(x):
        return np.where(x > 0, x, 0.1 * x)

    def windows(x, name, stride=1):
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        k = weight.shape[2]
        x = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
        rows = [
            [
                np.einsum("nckl,ockl->no", x[:, :, i : i + k, j : j + k], weight) + bias
                for j in range(0, x.shape[3] - k + 1, stride)
            ]
            for i in range(0, x.shape[2] - k + 1, stride)
        ]
        return leaky(np.array(rows).transpose(2, 3, 0, 1))

    x = windows(images, "stages.0.0", 2)
    x = np.maximum.reduce([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    x = windows(windows(x, "stages.1.0"), "stages.1.1").reshape(2, 6)
    x = leaky(x @ w["hidden.weight"].T + w["hidden.bias"])
    second = (x @ w["output.weight"].T + w["output.bias"]).reshape(2, 2, 2, 18)
    recipe.expect("grid", oracle, second=second)


def _grid_loss(recipe, draw):
    """Eq. 3 for two images with three objects, S = 3, B = 2: losses, their gradient, and the decoded boxes."""
    import torch
    from torch.nn import functional
    from transformers.loss.loss_for_object_detection import box_iou

    predictions = recipe.given("predictions", draw.integers(1, 16, (2, _GRID, _GRID, 14)) / 16)
    objects = recipe.given("objects", np.array([[[3, 9, 4, 9], [12, 2, 6, 3]], [[7, 7, 9, 4], [0, 0, 1, 1]]]) / 16)
    classes = recipe.given("classes", np.eye(5)[[[2, 0], [3, 4]]][:, :, :4])
    leaf = torch.from_numpy(predictions).requires_grad_()
    boxes, scores = leaf[..., :10].reshape(2, 9, 2, 5), leaf[..., 10:].reshape(2, 9, 4)
    losses, second, slopes = [], [], np.zeros_like(predictions)
    for n in range(2):
        loss = 0.5 * boxes[n, :, :, 4].square().sum()
        value = 0.5 * (predictions[n, :, :, [4, 9]] ** 2).sum()
        slopes[n, :, :, [4, 9]] = predictions[n, :, :, [4, 9]]
        for (x, y, w, h), one_hot in zip(objects[n], classes[n]):
            if not one_hot.any():
                continue
            i, j = int(3 * y), int(3 * x)
            mine = boxes[n, 3 * i + j]
            place = (mine[:, :2] + torch.tensor([j, i])) / 3
            low, high = place - mine[:, 2:4] ** 2 / 2, place + mine[:, 2:4] ** 2 / 2
            truth = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
            overlap = box_iou(torch.cat([low, high], 1).detach(), truth)[0][:, 0]
            best = overlap.argmax()
            goal = torch.tensor([3 * x - j, 3 * y - i, w**0.5, h**0.5])
            loss = loss + 5 * functional.mse_loss(mine[best, :4], goal, reduction="sum")
            loss = loss + (mine[best, 4] - overlap[best]) ** 2 - 0.5 * mine[best, 4] ** 2
            loss = loss + functional.mse_loss(scores[n, 3 * i + j], torch.from_numpy(one_hot), reduction="sum")

            cell = predictions[n, i, j]
            corners = []
            for b in (0, 1):
                px, py, rw, rh = cell[5 * b : 5 * b + 4]
                px, py = (px + j) / 3, (py + i) / 3
                corners.append((px - rw**2 / 2, py - rh**2 / 2, px + rw**2 / 2, py + rh**2 / 2))
            ious = [_iou(c, truth[0].numpy()) for c in corners]
            b = int(ious[1] > ious[0])
            gap = cell[5 * b : 5 * b + 4] - goal.numpy()
            value += 5 * (gap**2).sum() + (cell[5 * b + 4] - ious[b]) ** 2 - 0.5 * cell[5 * b + 4] ** 2
            value += ((cell[10:] - one_hot) ** 2).sum()
            slopes[n, i, j, 5 * b : 5 * b + 4] = 10 * gap
            slopes[n, i, j, 5 * b + 4] = 2 * (cell[5 * b + 4] - ious[b])
            slopes[n, i, j, 10:] = 2 * (cell[10:] - one_hot)
        losses.append(loss)
        second.append(value)
    losses = torch.stack(losses)
    recipe.expect("grid_loss", losses.detach(), second=second)
    recipe.expect("grid_gradient", torch.autograd.grad(losses.sum(), leaf)[0], second=slopes)


def _prior_loss(recipe, draw):
    """Boxes that four priors decode to, and the loss of YOLOv3: a positive, an ignored and two negative priors."""
    import torch
    from torch.nn import functional

    priors = recipe.given(
        "priors", np.array([[0, 0, 40, 24, 32], [32, 64, 20, 44, 32], [16, 0, 12, 20, 16], [8, 24, 5, 12, 8.0]])
    )
    t = recipe.given("t", draw.integers(-32, 33, (2, 4, 8)) / 16)
    targets = np.zeros((2, 4, 8))
    targets[0, 1] = [0.25, 0.75, -0.5, 0.375, 1, 0, 1, 1]
    targets[1, 3] = [0.5, 0.125, 0.25, -0.125, 1, 1, 0, 0]
    targets = recipe.given("targets", targets)
    ignored = recipe.given("ignored", np.array([[False, False, True, False], [True, False, False, False]]))
    sigmoid = 1 / (1 + np.exp(-t))
    p, leaf = torch.from_numpy(priors), torch.from_numpy(t).requires_grad_()
    decoded = torch.cat([p[:, :2] + torch.sigmoid(leaf[..., :2]) * p[:, 4:], p[:, 2:4] * torch.exp(leaf[..., 2:4])], -1)
    numbers = np.stack([priors[:, k] + sigmoid[..., k] * priors[:, 4] for k in (0, 1)], -1)
    recipe.expect(
        "decoded", decoded.detach(), second=np.concatenate([numbers, priors[:, 2:4] * np.e ** t[..., 2:4]], -1)
    )
    goal = torch.from_numpy(targets)
    entropy = functional.binary_cross_entropy_with_logits(leaf, goal, reduction="none")
    squares = functional.mse_loss(leaf, goal, reduction="none") / 2
    positive = goal[..., 4] == 1
    parts = entropy[..., [0, 1, 5, 6, 7]].sum(-1) + squares[..., 2:4].sum(-1)
    losses = (parts * positive + entropy[..., 4] * ~torch.from_numpy(ignored)).sum(1)
    logs = -targets * np.log(sigmoid) - (1 - targets) * np.log1p(-sigmoid)
    slopes = sigmoid - targets
    slopes[..., 2:4] = (t - targets)[..., 2:4]
    slopes *= targets[..., 4:5]
    slopes[..., 4] = (sigmoid - targets)[..., 4] * ~ignored
    logs[..., 2:4] = ((t - targets) ** 2 / 2)[..., 2:4]
    second = (logs[..., [0, 1, 2, 3, 5, 6, 7]].sum(-1) * targets[..., 4] + logs[..., 4] * ~ignored).sum(1)
    recipe.expect("prior_loss", losses.detach(), second=second)
    recipe.expect("prior_gradient", torch.autograd.grad(losses.sum(), leaf)[0], second=slopes)


def _precision(recipe, draw):
    """mAP at ½, and over ½ to 0.95, of 20 detections in three images with 12 objects of three classes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths = recipe.given("truths", np.concatenate([_boxes(draw, 5), _boxes(draw, 4), _boxes(draw, 3)]))
    of = recipe.given("truths.image", np.repeat([0, 1, 2], [5, 4, 3]))
    label = recipe.given("truths.class", draw.integers(0, 3, 12))
    again = draw.integers(0, 12, 20)
    moved = truths[again] + draw.integers(-4, 5, (20, 4)) / 8
    found = recipe.given("found", moved)
    image = recipe.given("found.image", of[again])
    named = recipe.given("found.class", np.where(draw.random(20) < 0.85, label[again], draw.integers(0, 3, 20)))
    score = recipe.given("found.score", (1 + draw.permutation(20)) / 32)

    def rows(boxes, images, classes):
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            box = [x1, y1, x2 - x1, y2 - y1]
            yield {"id": k + 1, "image_id": int(images[k]) + 1, "category_id": int(classes[k]) + 1, "bbox": box,
                   "area": box[2] * box[3], "iscrowd": 0}  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": k} for k in (1, 2, 3)],
            "categories": [{"id": k} for k in (1, 2, 3)],
            "annotations": list(rows(truths, of, label)),
            "info": {},
        }
        coco.createIndex()
        results = [row | {"score": float(s)} for row, s in zip(rows(found, image, named), score)]
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()

    thresholds = np.linspace(0.5, 0.95, 10)
    means = []
    for threshold in thresholds:
        values = []
        for c in range(3):
            taken, flags = set(), []
            for k in sorted(np.flatnonzero(named == c), key=lambda k: -score[k]):
                rivals = [m for m in range(12) if label[m] == c and of[m] == image[k] and m not in taken]
                overlaps = [_iou(found[k], truths[m]) for m in rivals]
                flags.append(bool(rivals) and max(overlaps) >= threshold)
                if flags[-1]:
                    taken.add(rivals[int(np.argmax(overlaps))])
            hits, objects = np.cumsum(flags), int((label == c).sum())
            best = [
                max([h / (k + 1) for k, h in enumerate(hits) if 100 * h >= r * objects], default=0.0)
                for r in range(101)
            ]
            values.append(np.mean(best))
        means.append(np.mean(values))
    recipe.expect("map", np.array(judge.stats[:2]), second=np.array([np.mean(means), means[0]]))
