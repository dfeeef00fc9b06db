"""Properties of YOLO.  Redmon et al. 2015, arXiv:1506.02640; Redmon & Farhadi 2018, arXiv:1804.02767."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from impl.models.yolo import (
    YOLO,
    anchor_clusters,
    anchor_targets,
    average_precision,
    box_iou,
    decode_anchors,
    decode_grid,
    detections,
    encode_anchors,
    grid_targets,
    mean_average_precision,
    non_max_suppression,
    prior_grid,
    to_centres,
    to_corners,
    true_positives,
    yolo_loss,
    yolov3_loss,
)
from spec import cost, laws
from spec.cases.yolo import SHAPES, one_hot, priors, random_boxes, trunk, yolo, yolov3
from spec.laws import double, random
from spec.strategies import floats, permutations, seeds, sizes

pytestmark = pytest.mark.item("yolo")


def iou_of(a, b):
    """IoU of two boxes given by corners, in Python's numbers."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def corners_of(box):
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objects(n, m, count, seed, padding=True):
    """Boxes (n, m, 4) as centre and size relative to the image, and classes (n, m, count), some of them padding."""
    values = uniform(n, m, 5, seed=seed)
    labels = (values[..., 4] * (count + int(padding))).long() - int(padding)
    return torch.cat([values[..., :2], 0.05 + 0.6 * values[..., 2:4]], dim=-1), one_hot(labels, count)


# ---------------------------------------------------------------------------------------------- boxes


@st.composite
def whole_boxes(draw, count):
    """Corners that are whole numbers from 0 to 8, of boxes with an area."""
    rows = []
    for _ in range(count):
        x, y = draw(sizes(0, 5)), draw(sizes(0, 5))
        rows.append([x, y, x + draw(sizes(1, 3)), y + draw(sizes(1, 3))])
    return torch.tensor(rows, dtype=torch.float64).reshape(count, 4)


@given(boxes=whole_boxes(2))
def test_iou_counts_the_pixels_that_two_boxes_share(boxes):
    """IoU = |A ∩ B| / |A ∪ B|, of the sets of pixels that the boxes cover.

    Source: Redmon et al. 2015, §2.
    """
    a, b = (
        {(x, y) for x in range(int(x1), int(x2)) for y in range(int(y1), int(y2))} for x1, y1, x2, y2 in boxes.tolist()
    )
    laws.assert_close(box_iou(boxes[0], boxes[1]), torch.tensor(len(a & b) / len(a | b), dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(seed=seeds(), shift=floats(-5, 5), scale=floats(0.1, 10))
def test_iou_is_symmetric_and_knows_no_unit_and_no_origin(seed, shift, scale):
    """IoU(A, B) = IoU(B, A) = IoU(sA + t, sB + t), 1 for A = B, and 0 for two boxes without area.

    Source: its definition.
    """
    a, b = random_boxes(6, seed), random_boxes(6, seed + 1)
    found = box_iou(a[:, None], b)
    assert found.shape == (6, 6), f"expected all pairs, found {tuple(found.shape)}"
    laws.assert_close(box_iou(b[:, None], a).T, found)
    laws.assert_close(box_iou(scale * a[:, None] + shift, scale * b + shift), found, atol=1e-9, because="shifted")
    laws.assert_close(box_iou(a, a), torch.ones(6, dtype=torch.float64))
    points = a[:, [0, 1, 0, 1]]
    laws.assert_close(box_iou(points, points), torch.zeros(6, dtype=torch.float64))


@given(seed=seeds())
def test_corners_and_centres_are_inverse(seed):
    """(x, y, w, h) has the corners (x ∓ w/2, y ∓ h/2), and those have that centre and size.

    Source: the definition.
    """
    boxes = double(3, 2, 4, seed=seed)
    x, y, w, h = boxes.unbind(-1)
    laws.assert_close(to_corners(boxes), torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1))
    laws.assert_close(to_centres(to_corners(boxes)), boxes)


# ---------------------------------------------------------------------------------------------- the grid


@pytest.mark.states("equivalence")
def test_network_is_convolutions_pools_and_two_layers():
    """Convolutions, padded, each with a leaky ReLU of 0.1, 2 × 2 max pools between stages, and two linear layers.

    Source: Redmon et al. 2015, figure 3 and eq. 2.
    """
    model = laws.randomise(yolo().double()).eval()
    names = list(dict(model.named_parameters()))

    def reference(x, *values):
        w = dict(zip(names, values))

        def layer(x, name, stride=1):
            weight = w[f"{name}.weight"]
            x = functional.conv2d(x, weight, w[f"{name}.bias"], stride, padding=weight.shape[2] // 2)
            return functional.leaky_relu(x, 0.1)

        x = functional.max_pool2d(layer(x, "stages.0.0", 2), 2)
        x = layer(layer(x, "stages.1.0"), "stages.1.1").flatten(1)
        x = functional.leaky_relu(functional.linear(x, w["hidden.weight"], w["hidden.bias"]), 0.1)
        return functional.linear(x, w["output.weight"], w["output.bias"]).view(len(x), 2, 2, 18)

    def ours(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values)), (x,))

    laws.gradients_match(ours, reference, double(3, 2, 4, 8), *(p.detach() for p in model.parameters()))


@pytest.mark.states("dependence")
def test_every_cell_sees_the_whole_image():
    """Each prediction depends on each pixel: the last two layers are fully connected.

    Source: Redmon et al. 2015, §1: it sees the entire image.
    """
    model = YOLO((6, 8), 2, 1, 2, (((3, 4, 1),),), 16, 0.0, 1).double()
    rows = laws.jacobian(model, double(1, 1, 6, 8)).reshape(28, 48)
    assert (rows != 0).all(), "expected every prediction to depend on every pixel"


def test_dropout_is_between_the_two_last_layers():
    """In training a share p of the hidden values is 0 and the others are divided by 1 − p; in evaluation none is.

    Source: Redmon et al. 2015, §2.2: a dropout layer after the first connected layer.
    """
    model = YOLO(4, 1, 1, 395, (((1, 2, 1),),), 400, 0.2, 1).double()
    state = model.state_dict()
    model.load_state_dict(state | {"output.weight": torch.eye(400).double(), "output.bias": torch.zeros(400).double()})
    images = double(8, 1, 4, 4)
    laws.reseed(0)
    whole, dropped = model.eval()(images), model.train()(images)
    zero = dropped == 0
    share = zero.double().mean().item()
    assert abs(share - 0.2) < 0.03, f"expected a share of 0.2 to be dropped (σ = 0.007), found {share}"
    laws.assert_close(dropped[~zero], whole[~zero] / 0.8)


def test_initial_weights_keep_the_variance_under_the_leaky_relu():
    """Weights of a convolution have a variance of 2/((1 + 0.1²) fan-in) at first.

    Source: He et al. 2015, arXiv:1502.01852, eq. 15, in place of the pretraining of Redmon et al. 2015, §2.2.
    """
    laws.reseed(0)
    weight = YOLO(4, 1, 1, 1, (((3, 50, 1),),), 1, channels=20).state_dict()["stages.0.0.weight"].double()
    expected = torch.tensor(2 / 1.01 / 180, dtype=torch.float64)
    laws.assert_close(weight.var(), expected, rtol=0.05, because="9,000 samples")


@given(seed=seeds(), grid=sizes(1, 4), padding=st.booleans())
def test_a_cell_is_responsible_for_the_first_object_whose_centre_it_has(seed, grid, padding):
    """Cell (⌊yS⌋, ⌊xS⌋) has (xS − ⌊xS⌋, yS − ⌊yS⌋, √w, √h, 1, p(c)) of its first object; other cells are 0.

    Source: Redmon et al. 2015, §2.  Convention: rows are y; of several objects the first counts; no classes, no object.
    """
    boxes, classes = objects(2, 4, 3, seed, padding)
    expected = torch.zeros(2, grid, grid, 8, dtype=torch.float64)
    for n in range(2):
        for m in range(4):
            x, y, w, h = boxes[n, m].tolist()
            row, column = int(y * grid), int(x * grid)
            if classes[n, m].any() and expected[n, row, column, 4] == 0:
                values = [x * grid - column, y * grid - row, math.sqrt(w), math.sqrt(h), 1, *classes[n, m].tolist()]
                expected[n, row, column] = torch.tensor(values, dtype=torch.float64)
    laws.assert_close(grid_targets(boxes, classes, grid), expected)


@pytest.mark.states("limiting case")
def test_centres_on_borders_belong_to_the_later_cell_and_at_the_end_to_the_last():
    """With S = 4, x = ¼ is at 0 of the second column, and x = 1 at 1 of the last; y likewise.

    Source: Redmon et al. 2015, §2.  Convention: the border belongs to the later cell.
    """
    boxes = torch.tensor([[[0.25, 1.0, 0.5, 0.25], [1.0, 0.0, 0.25, 0.5]]], dtype=torch.float64)
    found = grid_targets(boxes, one_hot([[0, 1]], 2), 4)[0]
    half, whole = math.sqrt(0.5), 0.5
    laws.assert_close(found[3, 1], torch.tensor([0, 1, half, whole, 1, 1, 0], dtype=torch.float64))
    laws.assert_close(found[0, 3], torch.tensor([1, 0, whole, half, 1, 0, 1], dtype=torch.float64))
    assert (found[..., 4] == 1).sum() == 2, f"expected two cells with an object, found {found[..., 4]}"


@given(seed=seeds(), grid=sizes(1, 5), which=sizes(0, 2))
def test_decoding_a_perfect_prediction_gives_the_box(seed, grid, which):
    """Where box j of a cell is the target's, decoded box (row · S + column) · B + j is the object, with score p(c).

    Source: Redmon et al. 2015, §2 and eq. 1.
    """
    boxes, classes = objects(1, 1, 4, seed, padding=False)
    target = grid_targets(boxes, classes, grid)[0]
    predictions = torch.zeros(1, grid, grid, 3 * 5 + 4, dtype=torch.float64)
    predictions[0, :, :, 5 * which : 5 * which + 5] = target[..., :5]
    predictions[0, :, :, 15:] = 0.5 * target[..., 5:]
    found, scores = decode_grid(predictions, 3)
    x, y = boxes[0, 0, :2].tolist()
    k = (int(y * grid) * grid + int(x * grid)) * 3 + which
    laws.assert_close(found[0, k], torch.tensor(corners_of(boxes[0, 0].tolist()), dtype=torch.float64))
    expected = torch.zeros(1, grid * grid * 3, 4, dtype=torch.float64)
    expected[0, k] = 0.5 * classes[0, 0]
    laws.assert_close(scores, expected)


@given(seed=seeds(), grid=sizes(1, 3), boxes=sizes(1, 3))
def test_boxes_are_decoded_cell_by_cell(seed, grid, boxes):
    """Box j of cell (i, k) is ((k + x)/S, (i + y)/S, (√w)², (√h)²), with score C · p(c) for class c.

    Source: Redmon et al. 2015, §2 and eq. 1.
    """
    predictions = double(2, grid, grid, 5 * boxes + 2, seed=seed)
    found, scores = decode_grid(predictions, boxes)
    assert found.shape == (2, grid * grid * boxes, 4) and scores.shape == (2, grid * grid * boxes, 2)
    for n, at in ((0, 0), (1, grid * grid * boxes - 1), (1, grid * boxes // 2)):
        cell, j = divmod(at, boxes)
        i, k = divmod(cell, grid)
        values = predictions[n, i, k]
        x, y, w, h, confidence = values[5 * j : 5 * j + 5].tolist()
        box = ((k + x) / grid, (i + y) / grid, w * w, h * h)
        laws.assert_close(found[n, at], torch.tensor(corners_of(box), dtype=torch.float64))
        laws.assert_close(scores[n, at], confidence * values[5 * boxes :])


# ---------------------------------------------------------------------------------------------- the loss of eq. 3


def five_terms(predictions, targets, boxes, lambda_coord, lambda_noobj):
    """Eq. 3 cell by cell; IoU is a number, so that no gradient goes through it."""
    losses = []
    for cells, truths in zip(predictions, targets):
        total, grid = 0.0, len(cells)
        for i in range(grid):
            for k in range(grid):
                p, t = cells[i, k], truths[i, k]
                responsible = None
                if t[4] == 1:
                    true_box = corners_of((t[0] / grid, t[1] / grid, t[2] ** 2, t[3] ** 2))
                    overlaps = []
                    for j in range(boxes):
                        x, y, w, h = p[5 * j : 5 * j + 4].detach()
                        overlaps.append(float(iou_of(corners_of((x / grid, y / grid, w**2, h**2)), true_box)))
                    responsible = overlaps.index(max(overlaps))
                    for c in range(p.numel() - 5 * boxes):
                        total = total + (p[5 * boxes + c] - t[5 + c]) ** 2
                for j in range(boxes):
                    confidence = p[5 * j + 4]
                    if j == responsible:
                        for c in range(4):
                            total = total + lambda_coord * (p[5 * j + c] - t[c]) ** 2
                        total = total + (confidence - overlaps[j]) ** 2
                    else:
                        total = total + lambda_noobj * confidence**2
        losses.append(total)
    return torch.stack(losses)


@given(seed=seeds(), coord=floats(0, 8), noobj=floats(0, 2), boxes=sizes(1, 3))
def test_loss_is_equation_3(seed, coord, noobj, boxes):
    """The loss and its gradient are those of the five sums of squares, cell by cell and box by box, IoU a constant.

    Source: Redmon et al. 2015, §2.2, eq. 3.  Convention: summed over cells, one loss for each image.
    """
    targets = grid_targets(*objects(2, 3, 2, seed), 2)
    predictions = uniform(2, 2, 2, 5 * boxes + 2, seed=seed)
    laws.gradients_match(
        lambda p: yolo_loss(p, targets, boxes, coord, noobj),
        lambda p: five_terms(p, targets, boxes, coord, noobj),
        predictions,
    )


def test_defaults_are_two_boxes_five_and_a_half():
    """B = 2, λ_coord = 5 and λ_noobj = ½.

    Source: Redmon et al. 2015, §2.2.
    """
    targets = grid_targets(*objects(2, 3, 2, 1, padding=False), 2)
    predictions = uniform(2, 2, 2, 12)
    laws.assert_close(yolo_loss(predictions, targets), five_terms(predictions, targets, 2, 5.0, 0.5))


@given(seed=seeds())
def test_a_perfect_prediction_costs_nothing(seed):
    """The loss is 0 where the responsible box is the object with C = 1, all other C are 0, and p(c) is the class.

    Source: Redmon et al. 2015, eq. 3.
    """
    targets = grid_targets(*objects(2, 4, 3, seed), 3)
    other = uniform(2, 3, 3, 5, seed=seed) / 10  # boxes that overlap less, and whose coordinates cost nothing
    other[..., 4] = 0
    empty = targets[..., 4:5] == 0
    mine = torch.where(empty, other, targets[..., :5])
    predictions = torch.cat([other, mine, torch.where(empty, 0.3, targets[..., 5:])], dim=-1)
    laws.assert_close(yolo_loss(predictions, targets), torch.zeros(2, dtype=torch.float64))


@pytest.mark.states("gradient routing")
@given(seed=seeds())
def test_only_the_responsible_box_learns_its_place(seed):
    """Coordinates of other boxes, and all but C in empty cells, get no gradient; their C gets 2 λ_noobj C.

    Source: Redmon et al. 2015, §2.2: one predictor is responsible; eq. 3.
    """
    targets = grid_targets(*objects(1, 2, 2, seed, padding=False), 2)
    predictions = uniform(1, 2, 2, 17, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(yolo_loss(predictions, targets, 3, 5.0, 0.7).sum(), predictions)
    boxes = gradient[..., :15].unflatten(-1, (3, 5))
    moved = (boxes[..., :4] != 0).any(-1)
    expected = (targets[..., 4] == 1).long()
    assert torch.equal(moved.sum(-1), expected), f"expected one box in each cell with an object, found {moved}"
    confidence = predictions.detach()[..., :15].unflatten(-1, (3, 5))[..., 4]
    laws.assert_close(boxes[..., 4][~moved], 1.4 * confidence[~moved])
    assert (gradient[..., 15:][targets[..., 4] == 0] == 0).all(), "expected no gradient of classes in empty cells"


def test_the_responsible_box_is_the_one_of_the_highest_iou():
    """A wide box of IoU ½ is responsible, not one of the right size that misses the object, by a smaller error of x.

    Source: Redmon et al. 2015, §2: the highest current IoU with the ground truth.
    """
    targets = grid_targets(torch.tensor([[[0.5, 0.5, 0.1, 0.1]]], dtype=torch.float64), one_hot([[0]], 1), 1)
    aside = [0.61, 0.5, 0.1**0.5, 0.1**0.5, 0.9]
    wide = [0.5, 0.5, 0.2**0.5, 0.1**0.5, 0.9]
    predictions = torch.tensor([aside, wide], dtype=torch.float64).flatten()
    predictions = torch.cat([predictions, torch.ones(1).double()])[None, None, None].requires_grad_()
    (gradient,) = torch.autograd.grad(yolo_loss(predictions, targets).sum(), predictions)
    assert (gradient[0, 0, 0, :4] == 0).all(), f"expected no gradient of the first box's place, found {gradient}"
    laws.assert_close(gradient[0, 0, 0, 9], torch.tensor(2 * (0.9 - 0.5), dtype=torch.float64))


def test_iou_compares_places_and_sizes_in_one_unit():
    """With S = 4, boxes of half the image's width whose centres are half a cell apart have IoU 3/5, and that is Ĉ.

    Source: Redmon et al. 2015, §2: x and y are relative to the cell, w and h to the image.
    """
    targets = grid_targets(torch.tensor([[[0.125, 0.125, 0.5, 0.5]]], dtype=torch.float64), one_hot([[0]], 1), 4)
    predictions = torch.zeros(1, 4, 4, 6, dtype=torch.float64)
    predictions[0, 0, 0] = torch.tensor([1, 0.5, 0.5**0.5, 0.5**0.5, 0, 1], dtype=torch.float64)
    expected = 5 * 0.5**2 + (0.375 / 0.625) ** 2
    laws.assert_close(yolo_loss(predictions, targets, 1), torch.tensor([expected], dtype=torch.float64))


def test_small_boxes_cost_more_for_the_same_error():
    """An error of w by 0.05 costs (√0.1 − √0.05)²/(√0.9 − √0.85)² = 12.0077 times as much at w = 0.1 as at 0.9.

    Source: Redmon et al. 2015, §2.2: small deviations from large boxes matter less than those from small ones.
    """

    def cost_at(w):
        targets = grid_targets(torch.tensor([[[0.5, 0.5, w, 0.5]]], dtype=torch.float64), one_hot([[0]], 1), 1)
        predictions = torch.cat([targets[..., :5], targets[..., 5:]], dim=-1).clone()
        predictions[..., 2] = (w - 0.05) ** 0.5
        predictions[..., 4] = (w - 0.05) / w  # the IoU: its own term is 0
        return yolo_loss(predictions, targets, 1)

    expected = (0.1**0.5 - 0.05**0.5) ** 2 / (0.9**0.5 - 0.85**0.5) ** 2
    laws.assert_close(cost_at(0.1) / cost_at(0.9), torch.tensor([expected], dtype=torch.float64))
    laws.assert_close(cost_at(0.9), torch.tensor([5 * 7.144315e-4]).double(), rtol=1e-6, because="seven digits")


def test_an_empty_image_only_lowers_confidences():
    """Without objects the loss is λ_noobj Σ C², and nothing else has a gradient.

    Source: Redmon et al. 2015, eq. 3.
    """
    targets = grid_targets(torch.zeros(2, 0, 4).double(), torch.zeros(2, 0, 3).double(), 2)
    predictions = double(2, 2, 2, 13).requires_grad_()
    confidence = predictions[..., [4, 9]]
    laws.assert_close(yolo_loss(predictions, targets, 2, 3.0, 0.25), confidence.square().sum((1, 2, 3)) / 4)
    (gradient,) = torch.autograd.grad(yolo_loss(predictions, targets, 2, 3.0, 0.25).sum(), predictions)
    rest = [c for c in range(13) if c not in (4, 9)]
    assert (gradient[..., rest] == 0).all(), "expected no gradient but that of the confidences"


@given(seed=seeds(), data=st.data())
def test_loss_is_a_sum_over_cells(seed, data):
    """Permuting the cells of predictions and targets alike leaves the loss as it is.

    Source: Redmon et al. 2015, eq. 3.
    """
    predictions = uniform(2, 3, 3, 12, seed=seed)
    targets = grid_targets(*objects(2, 3, 2, seed), 3)
    order = data.draw(permutations(9))
    moved = [t.flatten(1, 2)[:, order].unflatten(1, (3, 3)) for t in (predictions, targets)]
    laws.assert_close(yolo_loss(*moved), yolo_loss(predictions, targets))


@pytest.mark.states("cost")
@given(n=sizes(1, 3), width=sizes(1, 3))
def test_network_costs_its_convolutions_and_two_products(n, width):
    """Of 2·k²·C·O operations for each position of a convolution, and 2·in·out for a layer, counted once for an image.

    Source: Redmon et al. 2015, §1: one network evaluation for all boxes.
    """
    model = YOLO((8, 12), 3, 2, 4, (((3, width, 2),), ((1, 5, 1),)), 7, 0.0, 2)
    expected = 2 * n * (9 * 2 * width * 24 + width * 5 * 6 + 30 * 7 + 7 * 126)
    found = cost.flops(model, random(n, 2, 8, 12))
    assert found == expected, f"expected {expected} operations, found {found}"


# ---------------------------------------------------------------------------------------------- priors


def test_priors_are_ordered_by_scale_shape_row_and_column():
    """A row has its cell's corner (x, y), its shape (w, h) and the stride: scales 32, 16, 8; shapes; rows; columns.

    Source: Redmon & Farhadi 2018, §2.3.  Convention: the order, which is that of the predictions.
    """
    expected = []
    for shapes, stride in zip(SHAPES, (32, 16, 8)):
        for w, h in shapes:
            for y in range(0, 64, stride):
                for x in range(0, 32, stride):
                    expected.append([x, y, w, h, stride])
    laws.assert_same(priors(), torch.tensor(expected, dtype=torch.float64))
    other = prior_grid(24, 12, [[(3, 5)]], [12]).double()
    laws.assert_same(other, torch.tensor([[0, 0, 3, 5, 12], [0, 12, 3, 5, 12]], dtype=torch.float64))


@pytest.mark.parametrize("size", [(60, 32), (64, 40)])
def test_priors_need_sides_that_the_strides_divide(size):
    """A height or width that a stride does not divide raises.

    Source: Redmon & Farhadi 2018, §2.3: sizes that are multiples of 32.
    """
    laws.rejects(lambda: prior_grid(*size, SHAPES), mentions=(str(size[0]), str(size[1])))
    laws.rejects(lambda: prior_grid(64, 32, SHAPES[:2]), mentions=("32",))


@pytest.mark.states("limiting case")
def test_without_change_a_prediction_is_its_prior_at_the_centre_of_the_cell():
    """t = 0 decodes to ((c_x + ½) · stride, (c_y + ½) · stride, p_w, p_h).

    Source: Redmon & Farhadi 2018, §2.1: σ(0) = ½ and e⁰ = 1.
    """
    p = priors()
    expected = torch.cat([p[:, :2] + p[:, 4:] / 2, p[:, 2:4]], dim=1)
    laws.assert_close(decode_anchors(0 * double(len(p), 4), p), expected)


@given(tx=floats(-6, 6), ty=floats(-6, 6), tw=floats(-2, 2), th=floats(-2, 2), at=sizes(0, 83))
def test_boxes_are_decoded_by_a_sigmoid_and_an_exponential(tx, ty, tw, th, at):
    """b_x = (σ(t_x) + c_x) · stride, b_w = p_w e^{t_w}, and y and h likewise.

    Source: Redmon & Farhadi 2018, §2.1.
    """
    p = priors()[at : at + 1]
    x, y, w, h, stride = p[0].tolist()
    expected = [
        (1 / (1 + math.exp(-tx)) + x / stride) * stride,
        (1 / (1 + math.exp(-ty)) + y / stride) * stride,
        w * math.exp(tw),
        h * math.exp(th),
    ]
    found = decode_anchors(torch.tensor([[tx, ty, tw, th]], dtype=torch.float64), p)
    laws.assert_close(found, torch.tensor([expected], dtype=torch.float64))


@given(seed=seeds())
def test_encoding_inverts_decoding(seed):
    """encode(decode(t)) = t, and decode(encode(b)) = b for boxes whose centres are in their cells.

    Source: Redmon & Farhadi 2018, §2.1: the ground truth by inverting the equations.
    """
    p, t = priors(), double(2, 84, 4, seed=seed)
    laws.assert_close(encode_anchors(decode_anchors(t, p), p), t, atol=1e-9, because="the logit of a rounded sigmoid")
    inside = uniform(84, 4, seed=seed)
    boxes = torch.cat([p[:, :2] + inside[:, :2] * p[:, 4:], 1 + 90 * inside[:, 2:]], dim=1)
    laws.assert_close(decode_anchors(encode_anchors(boxes, p), p), boxes)
    border = torch.cat([p[:, :2], p[:, 2:4]], dim=1)
    laws.assert_close(decode_anchors(encode_anchors(border, p), p), border, what="a centre on the border of its cell")


@pytest.mark.states("second derivative")
def test_decoding_and_losses_have_second_derivatives():
    """The gradient of the gradient equals central differences: of both decodings and of YOLOv3's loss.

    Source: the definition of the derivative.
    """
    p = priors()[:5]
    laws.gradient_correct(lambda t: decode_anchors(t, p), double(2, 5, 4), second_order=True)
    laws.gradient_correct(lambda t: decode_grid(t, 2), double(1, 2, 2, 12), second_order=True)
    targets = uniform(1, 5, 7).round()
    ignored = torch.tensor([[False, True, False, False, True]])
    laws.gradient_correct(lambda t: yolov3_loss(t, targets, ignored), double(1, 5, 7), second_order=True)


def pixels(seed, padding=True, m=4):
    """Objects of two images of 64 × 32 pixels."""
    boxes, classes = objects(2, m, 3, seed, padding)
    return boxes * torch.tensor([32, 64, 32, 64]).double(), classes


@given(seed=seeds(), threshold=floats(0.1, 0.9))
def test_one_prior_is_positive_for_an_object_and_those_that_overlap_are_ignored(seed, threshold):
    """Positive is the prior at the object's cell whose shape has the highest IoU of all, ignored what overlaps.

    Source: Redmon & Farhadi 2018, §2.1.  Convention: shapes are compared at one centre; the first object keeps a prior.
    """
    boxes, classes = pixels(seed)
    targets, ignored = anchor_targets(boxes, classes, priors(), threshold)
    expected, near = torch.zeros(2, 84, 8, dtype=torch.float64), torch.zeros(2, 84, dtype=torch.bool)
    rows = priors().tolist()
    for n in range(2):
        for m in range(4):
            if not classes[n, m].any():
                continue
            x, y, w, h = boxes[n, m].tolist()
            best, best_iou = None, -1.0
            for k, (cx, cy, pw, ph, stride) in enumerate(rows):
                shape = iou_of(corners_of((0, 0, w, h)), corners_of((0, 0, pw, ph)))
                here = int(x // stride) * stride == cx and int(y // stride) * stride == cy
                if here and shape > best_iou:
                    best, best_iou = k, shape
                whole = corners_of((cx + stride / 2, cy + stride / 2, pw, ph))
                near[n, k] |= iou_of(whole, corners_of((x, y, w, h))) > threshold
            if expected[n, best, 4] == 0:
                cx, cy, pw, ph, stride = rows[best]
                values = [(x - cx) / stride, (y - cy) / stride, math.log(w / pw), math.log(h / ph), 1]
                expected[n, best] = torch.tensor([*values, *classes[n, m].tolist()], dtype=torch.float64)
    laws.assert_close(targets, expected)
    assert torch.equal(ignored, near & (expected[..., 4] == 0)), "expected priors above the threshold to be ignored"


def test_a_prior_at_the_threshold_is_not_ignored():
    """A prior that overlaps an object by exactly ½ is a negative one, by default; slightly more, and it is ignored.

    Source: Redmon & Farhadi 2018, §2.1: by more than some threshold, .5.
    """
    p = prior_grid(16, 16, [[(8, 8), (8, 4)]], [16]).double()
    classes = one_hot([[0]], 1)
    _, at = anchor_targets(torch.tensor([[[8.0, 8, 8, 8]]], dtype=torch.float64), classes, p)
    _, above = anchor_targets(torch.tensor([[[8.0, 8, 8, 7.5]]], dtype=torch.float64), classes, p)
    assert at.tolist() == [[False, False]] and above.tolist() == [[False, True]], f"found {at} and {above}"


@given(seed=seeds())
def test_an_object_moved_by_a_cell_is_predicted_by_the_next_cell(seed):
    """Moved by 32 pixels, an object's target is the same at the prior whose cell is 32 pixels further on.

    Source: Redmon & Farhadi 2018, §2.1: shapes alone decide which prior predicts.
    """
    boxes, classes = pixels(seed, padding=False, m=1)
    boxes[..., 1] %= 32
    p, moved = priors(), boxes + torch.tensor([0, 32, 0, 0]).double()
    here, there = anchor_targets(boxes, classes, p)[0], anchor_targets(moved, classes, p)[0]
    for n in range(2):
        (i,), (k,) = (t[n, :, 4].nonzero().flatten().tolist() for t in (here, there))
        laws.assert_close(p[k], p[i] + torch.tensor([0, 32, 0, 0, 0]).double())
        laws.assert_close(there[n, k], here[n, i])


def test_centres_at_the_end_of_the_image_belong_to_the_last_cell():
    """A centre on a border belongs to the later cell, one at the image's end to the last, with x = 1 and y = 1.

    Source: Redmon & Farhadi 2018, §2.1: the cell's offset from the top left corner.
    """
    boxes = torch.tensor([[[32.0, 64, 40, 24], [16, 16, 12, 20]]], dtype=torch.float64)
    targets, _ = anchor_targets(boxes, one_hot([[0, 1]], 2), priors())
    at = targets[0, :, 4].nonzero().flatten().tolist()
    found = priors()[at]
    laws.assert_close(found, torch.tensor([[0, 32, 40, 24, 32], [16, 16, 12, 20, 16]], dtype=torch.float64))
    laws.assert_close(targets[0, at, :2], torch.tensor([[1, 1], [0, 0]], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- YOLOv3


@given(seed=seeds())
def test_loss_of_yolov3_is_squared_sizes_and_cross_entropies(seed):
    """Σ over positives of BCE(x, y), ½ (t_w − t̂_w)², ½ (t_h − t̂_h)², BCE(classes), and BCE(t_o) where not ignored.

    Source: Redmon & Farhadi 2018, §2.1 and §2.2.
    """
    targets, ignored = anchor_targets(*pixels(seed), priors())

    def reference(p):
        entropy = functional.binary_cross_entropy_with_logits(p, targets, reduction="none")
        positive = targets[..., 4] == 1
        total = (entropy[..., :2].sum(-1) + entropy[..., 5:].sum(-1))[positive].sum()
        total = total + ((p - targets)[..., 2:4] ** 2 / 2).sum(-1)[positive].sum()
        return total + entropy[..., 4][~ignored].sum()

    predictions = 3 * double(2, 84, 8, seed=seed)
    laws.gradients_match(lambda p: yolov3_loss(p, targets, ignored).sum(), reference, predictions)


@given(seed=seeds())
def test_gradient_of_a_positive_prior_is_prediction_minus_truth(seed):
    """It is σ(t) − y of places, objectness and classes, t − t̂ of sizes; of other priors objectness alone has one.

    Source: Redmon & Farhadi 2018, §2.1: the ground truth minus the prediction, of gradient descent.
    """
    targets, ignored = anchor_targets(*pixels(seed), priors())
    t = double(2, 84, 8, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(yolov3_loss(t, targets, ignored).sum(), t)
    positive = targets[..., 4] == 1
    expected = t.detach().sigmoid() - targets
    expected[..., 2:4] = t.detach()[..., 2:4] - targets[..., 2:4]
    laws.assert_close(gradient[positive], expected[positive])
    assert (gradient[ignored] == 0).all(), "expected no gradient of an ignored prior"
    negative = ~positive & ~ignored
    laws.assert_close(gradient[negative][:, 4], expected[negative][:, 4])
    assert (gradient[negative][:, [0, 1, 2, 3, 5, 6, 7]] == 0).all(), "expected a gradient of objectness alone"


def test_one_box_may_have_two_classes():
    """With two of three classes true, logits of ±40 cost nothing: classes do not exclude one another.

    Source: Redmon & Farhadi 2018, §2.2: a softmax would assume that each box has exactly one class.
    """
    targets = torch.tensor([[[0.5, 0.5, 0.2, -0.1, 1, 1, 0, 1]]], dtype=torch.float64)
    logits = torch.tensor([[[0.0, 0, 0.2, -0.1, 40, 40, -40, 40]]], dtype=torch.float64)
    found = yolov3_loss(logits, targets, torch.zeros(1, 1, dtype=torch.bool))
    laws.assert_close(found, torch.tensor([2 * math.log(2)], dtype=torch.float64))


@pytest.mark.parametrize("size", [700.0, 1e5])
def test_loss_is_finite_for_logits_of_any_size(size):
    """A wrong logit of ±z costs z, also where e^z overflows.

    Source: −ln σ(−z) = z + ln(1 + e^{−z}).
    """
    targets = torch.tensor([[[0, 0, 0, 0, 1, 0, 1]]], dtype=torch.float64)
    logits = torch.tensor([[[0, 0, 0, 0, -size, size, size]]], dtype=torch.float64)
    found = yolov3_loss(logits, targets, torch.zeros(1, 1, dtype=torch.bool))
    laws.assert_close(found, torch.tensor([2 * size + 2 * math.log(2)], dtype=torch.float64))


def block(x, w, name, stride=1):
    """Convolution, batch normalization by running statistics and leaky ReLU, by torch's own functions."""
    weight = w[f"{name}.convolution.weight"]
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    norm = [w[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return functional.leaky_relu(functional.batch_norm(x, *norm), 0.1)


def trunk_of(x, w, name, depths):
    maps, x = [], block(x, w, f"{name}first")
    for n, depth in enumerate(depths):
        x = block(x, w, f"{name}stages.{n}.0", stride=2)
        for k in range(1, depth + 1):
            x = x + block(block(x, w, f"{name}stages.{n}.{k}.narrow"), w, f"{name}stages.{n}.{k}.wide")
        maps.append(x)
    return maps[2:]


def trained(module):
    """Weights and statistics as after training: not 0 and 1, and of a size that keeps activations in scale."""
    state = module.double().state_dict()
    for n, (name, value) in enumerate(sorted(state.items())):
        if value.is_floating_point():
            noise = double(*value.shape, seed=n)
            state[name] = noise / value[0].numel() ** 0.5 if value.dim() == 4 else 0.2 * noise + 1
            state[name] = state[name].abs() if name.endswith("running_var") else state[name]
    module.load_state_dict(state)
    return module.eval()


def test_trunk_is_residual_blocks_between_halvings():
    """Maps of an eighth, a 16th and a 32nd: a stage is a block of stride 2, then x + wide(narrow(x)), depth times.

    Source: Redmon & Farhadi 2018, §2.4, table 1.  Convention: no bias but the norm's, leaky ReLU of 0.1.
    """
    module, images = trained(trunk()), double(2, 2, 64, 32)
    found, expected = module(images), trunk_of(images, module.state_dict(), "", (1, 0, 2, 0, 0))
    assert len(found) == 3, f"expected three maps, found {len(found)}"
    for a, b in zip(found, expected):
        laws.assert_close(a, b)


def test_coarse_maps_are_enlarged_and_joined_with_finer_ones():
    """Predictions of stride 32 come first; the neck's output goes on, narrowed, doubled in size, before the finer map.

    Source: Redmon & Farhadi 2018, §2.3.  Convention: nearest neighbours; enlarged channels first, then the trunk's.
    """
    module, images = trained(yolov3()), double(2, 2, 64, 32)
    w, x, expected = module.state_dict(), None, []
    for n, fine in enumerate(reversed(trunk_of(images, w, "trunk.", (1, 0, 0, 0, 0)))):
        if n:
            x = functional.interpolate(block(x, w, f"routes.{n - 1}"), scale_factor=2, mode="nearest")
            fine = torch.cat([x, fine], dim=1)
        x = fine
        for k in range(5):
            x = block(x, w, f"necks.{n}.{k}")
        y = functional.conv2d(block(x, w, f"heads.{n}.0"), w[f"heads.{n}.1.weight"], w[f"heads.{n}.1.bias"])
        for shape in range(2):
            for row in range(y.shape[2]):
                for column in range(y.shape[3]):
                    expected.append(y[:, 8 * shape : 8 * shape + 8, row, column])
    laws.assert_close(module(images), torch.stack(expected, dim=1))


def test_a_fine_prediction_depends_on_the_coarse_map():
    """The last scale's predictions depend on the weights of the trunk's last stage and of both routes.

    Source: Redmon & Farhadi 2018, §2.3: meaningful semantic information from the upsampled features.
    """
    module = trained(yolov3())
    fine = module(double(1, 2, 64, 32))[:, -64:]
    names = ("trunk.stages.4.0", "routes.0", "routes.1")
    of = dict(module.named_parameters())
    laws.gradient_reaches(
        fine.square().sum(),
        {name: of[f"{name}.convolution.weight"] for name in names},
        {"heads.0": of["heads.0.1.weight"], "heads.1": of["heads.1.1.weight"]},
    )


@given(seed=seeds(), steps=sizes(1, 4))
def test_shapes_are_means_of_the_sizes_that_they_overlap_most(seed, steps):
    """A step gives each size to the shape of the highest IoU at one centre, and each shape the mean of its sizes.

    Source: Redmon & Farhadi 2016, arXiv:1612.08242, §2: d = 1 − IoU.  Convention: without sizes a shape is unchanged.
    """
    points, shapes = 0.1 + uniform(12, 2, seed=seed), 0.1 + uniform(4, 2, seed=seed + 1)
    expected = shapes.tolist()
    for _ in range(steps):
        members = [[] for _ in expected]
        for w, h in points.tolist():
            overlaps = [iou_of((0, 0, w, h), (0, 0, *shape)) for shape in expected]
            members[overlaps.index(max(overlaps))].append((w, h))
        expected = [
            [sum(side) / len(mine) for side in zip(*mine)] if mine else old for mine, old in zip(members, expected)
        ]
    laws.assert_close(anchor_clusters(points, shapes, steps), torch.tensor(expected, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- suppression


def kept_by_definition(boxes, scores, threshold, classes=None):
    """From the highest score down, a box remains if no remaining one of its class overlaps it by more."""
    order, kept = sorted(range(len(boxes)), key=lambda k: (-scores[k], k)), []
    for k in order:
        rivals = [j for j in kept if classes is None or classes[j] == classes[k]]
        if all(iou_of(boxes[j], boxes[k]) <= threshold for j in rivals):
            kept.append(k)
    return kept


@given(boxes=whole_boxes(7), threshold=floats(0, 1), data=st.data())
def test_suppression_is_its_definition(boxes, threshold, data):
    """From the highest score down, a box remains if its IoU with each that remains is at most the threshold.

    Source: Redmon et al. 2015, §2.3.  Convention: equal scores in order of their index.
    """
    scores = torch.tensor(data.draw(st.lists(sizes(0, 9), min_size=7, max_size=7))).double() / 10
    classes = torch.tensor(data.draw(st.lists(sizes(0, 1), min_size=7, max_size=7)))
    for labels in (None, classes):
        found = non_max_suppression(boxes, scores, threshold, labels).tolist()
        expected = kept_by_definition(
            boxes.tolist(), scores.tolist(), threshold, None if labels is None else labels.tolist()
        )
        assert found == expected, f"expected {expected}, found {found}"


@given(seed=seeds(), threshold=floats(0, 1), data=st.data())
def test_suppression_knows_no_order_and_repeated_changes_nothing(seed, threshold, data):
    """Permuted boxes give the same ones, and those that remain all remain when they are suppressed again.

    Source: its definition.
    """
    boxes, scores = random_boxes(8, seed), uniform(8, seed=seed)
    kept = non_max_suppression(boxes, scores, threshold)
    order = data.draw(permutations(8))
    assert torch.equal(order[non_max_suppression(boxes[order], scores[order], threshold)], kept)
    again = non_max_suppression(boxes[kept], scores[kept], threshold)
    assert again.tolist() == list(range(len(kept))), f"expected all {len(kept)} to remain, found {again}"


@given(seed=seeds(), threshold=floats(0, 1))
def test_classes_are_suppressed_apart(seed, threshold):
    """With classes, what remains is what remains of each class alone, or of boxes shifted far apart by class.

    Source: Redmon et al. 2015, §2.3; the shift is how libraries do it.
    """
    boxes, scores, classes = random_boxes(9, seed), uniform(9, seed=seed), (3 * uniform(9, seed=seed + 1)).long()
    found = non_max_suppression(boxes, scores, threshold, classes)
    apart = [non_max_suppression(boxes[classes == c], scores[classes == c], threshold) for c in range(3)]
    alone = [(classes == c).nonzero().flatten()[k].tolist() for c, k in enumerate(apart)]
    assert sorted(found.tolist()) == sorted(sum(alone, [])), f"expected {alone}, found {found}"
    shifted = non_max_suppression(boxes + 4.0 * classes[:, None], scores, threshold)
    assert found.tolist() == shifted.tolist(), f"expected {shifted}, found {found}"


@pytest.mark.states("limiting case")
def test_thresholds_0_and_1_and_the_threshold_itself():
    """1 keeps all, 0 keeps boxes that only touch, and an IoU of exactly the threshold is kept; no boxes give none.

    Source: its definition: removed above the threshold.
    """
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [0, 0, 2, 2]], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    for threshold, expected in ((1.0, [0, 1, 2, 3]), (1 / 3, [0, 1, 2]), (0.33, [0, 2]), (0.0, [0, 2])):
        found = non_max_suppression(boxes, scores, threshold).tolist()
        assert found == expected, f"expected {expected} at {threshold}, found {found}"
    nothing = non_max_suppression(boxes[:0], scores[:0], 0.5)
    assert nothing.shape == (0,) and nothing.dtype == torch.int64, f"expected no index, found {nothing}"


def test_suppression_leaves_its_inputs_and_takes_views():
    """Boxes, scores and classes are unchanged, and strided views give the same indices.

    Source: the contract of torch's functions.
    """
    wide, scores, classes = random_boxes(9).T.contiguous().T, uniform(9), torch.arange(9) % 2
    given = [t.clone() for t in (wide, scores, classes)]
    found = non_max_suppression(wide, scores, 0.2, classes)
    for before, after in zip(given, (wide, scores, classes)):
        laws.assert_same(after, before)
    laws.assert_same(found, non_max_suppression(*given[:2], 0.2, given[2]))


@given(seed=seeds(), least=floats(0, 1), threshold=floats(0, 1))
def test_detections_are_pairs_of_a_box_and_a_class_above_the_score(seed, least, threshold):
    """Each class with a score above the threshold makes its box a candidate; suppression is within each class.

    Source: Redmon et al. 2015, §2.3 and eq. 1.
    """
    boxes, scores = random_boxes(5, seed), uniform(5, 2, seed=seed)
    pairs = [(k, c) for k in range(5) for c in range(2) if scores[k, c] > least]
    chosen = [boxes[k].tolist() for k, _ in pairs], [scores[k, c].item() for k, c in pairs], [c for _, c in pairs]
    kept = kept_by_definition(*chosen[:2], threshold, chosen[2])
    found, confidence, labels = detections(boxes, scores, least, threshold)
    assert labels.tolist() == [chosen[2][k] for k in kept], f"expected the classes of {kept}, found {labels}"
    laws.assert_same(found, torch.stack([boxes[pairs[k][0]] for k in kept]) if kept else boxes[:0])
    laws.assert_same(confidence, torch.tensor([chosen[1][k] for k in kept], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- average precision


@given(seed=seeds(), threshold=floats(0.05, 0.7))
def test_boxes_match_the_free_object_that_they_overlap_most(seed, threshold):
    """In their order, each box takes the free object of the highest IoU, if that is the threshold or more.

    Source: Lin et al. 2014, arXiv:1405.0312: COCO's evaluation.
    """
    boxes, truths = random_boxes(6, seed), random_boxes(4, seed + 1)
    free, expected = list(range(4)), []
    for box in boxes.tolist():
        overlaps = {m: iou_of(box, truths[m].tolist()) for m in free}
        best = max(overlaps, key=overlaps.get) if overlaps else None
        expected.append(best is not None and overlaps[best] >= threshold)
        if expected[-1]:
            free.remove(best)
    found = true_positives(boxes, truths, threshold)
    assert found.tolist() == expected, f"expected {expected}, found {found}"


def test_an_object_is_found_once():
    """Of two boxes on one object the second is wrong, and IoU = threshold is a match; without objects none is right.

    Source: Everingham et al. 2010, §4.2: multiple detections of one object are false ones.
    """
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [4, 0, 8, 2]], dtype=torch.float64)
    truths = torch.tensor([[0.0, 0, 2, 2], [4, 0, 6, 2]], dtype=torch.float64)
    assert true_positives(boxes, truths).tolist() == [True, False, True]
    assert true_positives(boxes, truths[:0]).tolist() == [False, False, False]
    assert true_positives(boxes[:0], truths).tolist() == []


@given(flags=st.lists(st.booleans(), max_size=9), missed=sizes(0, 4), points=st.sampled_from([2, 11, 101]))
def test_average_precision_is_the_mean_over_recalls_of_the_best_precision_from_there_on(flags, missed, points):
    """AP is the mean over recalls r of the highest precision among ranks whose recall is r or more, 0 if there is none.

    Source: Everingham et al. 2010, §4.2; 11 recalls in PASCAL VOC 2007, 101 in COCO.
    """
    count = max(sum(flags) + missed, 1)
    total = 0.0
    for i in range(points):
        best = 0.0
        for k in range(1, len(flags) + 1):
            right = sum(flags[:k])
            if right * (points - 1) >= i * count:
                best = max(best, right / k)
        total += best
    scores = -torch.arange(len(flags), dtype=torch.float64)
    found = average_precision(scores, torch.tensor(flags, dtype=torch.bool), count, points)
    laws.assert_close(found, torch.tensor(total / points, dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_average_precision_depends_on_the_order_of_scores_alone(seed, data):
    """Detections in another order, or scores under a growing function, have the same AP.

    Source: Everingham et al. 2010, §4.2.
    """
    scores, matched = uniform(7, seed=seed), uniform(7, seed=seed + 1) > 0.5
    order, expected = data.draw(permutations(7)), average_precision(scores, matched, 8)
    laws.assert_close(average_precision(scores[order], matched[order], 8), expected)
    laws.assert_close(average_precision(scores.exp() - 3, matched, 8), expected)


def test_all_found_is_1_and_a_wrong_one_after_them_changes_nothing():
    """AP is 1 where every object is found before the first wrong detection, ½ where each has a wrong one before it.

    Source: Everingham et al. 2010, §4.2.
    """
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    for flags, objects, expected in (([1, 1, 0, 0], 2, 1.0), ([0, 1, 0, 1], 2, 0.5), ([0, 0, 0, 0], 2, 0.0)):
        found = average_precision(scores, torch.tensor(flags).bool(), objects)
        laws.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(seed=seeds())
def test_mean_average_precision_is_over_classes_that_have_objects_and_thresholds(seed):
    """mAP is the mean of AP over those classes and thresholds; boxes match objects of their image and class alone.

    Source: Lin et al. 2014, arXiv:1405.0312.
    """
    found, truths = [], []
    for n in range(2):
        k, m = 5 - n, 3 + n
        labels = (3 * uniform(k + m, seed=seed + n)).long()
        found.append((random_boxes(k, seed + n), uniform(k, seed=seed + 9 + n), labels[:k]))
        truths.append((random_boxes(m, seed + n) + 0.05, labels[k:].clamp(max=1)))  # class 2 has no object
    values = []
    for threshold in (0.3, 0.6):
        for label in {c for _, classes in truths for c in classes.tolist()}:
            rows, objects = [], 0
            for (boxes, scores, classes), (true_boxes, true_classes) in zip(found, truths):
                mine = [k for k in scores.argsort(descending=True).tolist() if classes[k] == label]
                theirs = true_boxes[true_classes == label]
                rows += zip(scores[mine].tolist(), true_positives(boxes[mine], theirs, threshold).tolist())
                objects += len(theirs)
            scores, matched = torch.tensor([s for s, _ in rows]), torch.tensor([t for _, t in rows]).bool()
            values.append(average_precision(scores.double(), matched, objects, 11))
    result = mean_average_precision(found, truths, (0.3, 0.6), 11)
    laws.assert_close(result, torch.stack(values).mean())


def test_paper_shapes_are_in_pixels_from_coarse_to_fine():
    """By default the nine shapes of §2.3 are priors, three for each stride, the largest for stride 32.

    Source: Redmon & Farhadi 2018, §2.3.
    """
    found = prior_grid(64, 32).double()[:, 2:].unique(dim=0).tolist()
    expected = [[10, 13, 8], [16, 30, 8], [33, 23, 8], [30, 61, 16], [62, 45, 16], [59, 119, 16]]
    expected += [[116, 90, 32], [156, 198, 32], [373, 326, 32]]
    assert found == sorted(expected), f"expected {sorted(expected)}, found {found}"
