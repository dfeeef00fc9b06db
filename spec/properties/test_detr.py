"""Properties of DETR.  Carion et al. 2020, arXiv:2005.12872; boxes: Rezatofighi et al. 2019, arXiv:1902.09630."""

import math
from itertools import permutations as orders

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.detr import (
    box_iou,
    generalized_box_iou,
    hungarian_matching,
    image_positions,
    matching_cost,
    set_prediction_loss,
    to_centres,
    to_corners,
)
from spec import cost, laws
from spec.cases.detr import LABELS, SETTINGS, centres, corners, detr, sets, trained
from spec.laws import double, random
from spec.strategies import floats, permutations, seeds, sizes, tensors

pytestmark = pytest.mark.item("detr")

WEIGHTS = {"l1_weight": 3.0, "giou_weight": 1.5}  # neither is a default


# ---------------------------------------------------------------------------------------------- boxes


@given(boxes=tensors((3, 2, 4)))
def test_corners_are_half_a_size_from_the_centre(boxes):
    """(c_x, c_y, w, h) → (c_x − w/2, c_y − h/2, c_x + w/2, c_y + h/2), and back.

    Source: Carion et al. 2020, §3.1: centre coordinates, height and width.  Convention: w before h, x before y.
    """
    x, y, w, h = boxes.unbind(-1)
    found = to_corners(boxes)
    laws.assert_close(found, torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1))
    laws.assert_close(to_centres(found), boxes)


def pixels(box, side: int = 8):
    """The unit squares that a box of whole numbers covers."""
    x0, y0, x1, y1 = (int(v) for v in box)
    return {(i, j) for i in range(x0, x1) for j in range(y0, y1)}


@st.composite
def whole_boxes(draw, least: int = 1):
    """Corners (x₀, y₀, x₁, y₁) in 0 to 7, of sides from `least` on."""
    (x0, y0), sides = draw(st.tuples(sizes(0, 4), sizes(0, 4))), draw(st.tuples(sizes(least, 3), sizes(least, 3)))
    return torch.tensor([x0, y0, x0 + sides[0], y0 + sides[1]], dtype=torch.float64)


@given(a=whole_boxes(), b=whole_boxes())
def test_iou_and_giou_count_unit_squares(a, b):
    """For boxes of whole numbers IoU = |A ∩ B|/|A ∪ B| and GIoU = IoU − |C ∖ (A ∪ B)|/|C|, by counting unit squares.

    Source: Rezatofighi et al. 2019, Alg. 1.
    """
    first, second = pixels(a), pixels(b)
    around = pixels([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    iou = len(first & second) / len(first | second)
    laws.assert_close(box_iou(a, b), torch.tensor(iou, dtype=torch.float64))
    giou = iou - len(around - first - second) / len(around)
    laws.assert_close(generalized_box_iou(a, b), torch.tensor(giou, dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(
    seed=seeds(),
    shift=tensors((2,)),
    factor=st.tuples(floats(0.1, 10), floats(0.1, 10)),
    axes=st.booleans(),
)
def test_overlap_does_not_depend_on_the_units(seed, shift, factor, axes):
    """IoU and GIoU are symmetric, and unchanged by a shift, another unit along each axis, and exchanged axes.

    Source: Rezatofighi et al. 2019, §3: invariant to the scale.
    """
    a, b = corners(6, seed=seed), corners(6, seed=seed + 50)

    def moved(boxes):
        boxes = boxes * torch.tensor(factor, dtype=torch.float64).repeat(2) + shift.repeat(2)
        return boxes[:, [1, 0, 3, 2]] if axes else boxes

    for of in (box_iou, generalized_box_iou):
        laws.assert_close(of(b, a), of(a, b), what="exchanged")
        laws.assert_close(of(moved(a), moved(b)), of(a, b), what="moved")


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_giou_is_within_its_bounds(seed):
    """−1 < GIoU ≤ IoU ≤ 1, where both are 1 for equal boxes alone, and GIoU → −1 as the boxes part.

    Source: Rezatofighi et al. 2019, §3, properties of GIoU.
    """
    a, b = corners(8, seed=seed), corners(8, seed=seed + 50)
    iou, giou = box_iou(a, b), generalized_box_iou(a, b)
    assert (giou > -1).all() and (giou <= iou + 1e-12).all() and (iou < 1).all(), f"expected bounds, found {giou}"
    laws.assert_close(generalized_box_iou(a, a), torch.ones(8, dtype=torch.float64))
    far = b + 1e6
    assert (box_iou(a, far) == 0).all(), "expected boxes that are apart to have IoU 0"
    assert (generalized_box_iou(a, far) < -0.999).all(), "expected boxes that are far apart to have a GIoU near −1"


def test_giou_has_a_gradient_where_iou_has_none():
    """Of boxes that are apart, IoU's gradient is 0, and GIoU's draws them together.

    Source: Rezatofighi et al. 2019, §1: a plateau of IoU.
    """
    a = torch.tensor([0.0, 0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([3.0, 0.0, 5.0, 2.0], dtype=torch.float64)
    (flat,) = torch.autograd.grad(box_iou(a, b), a, allow_unused=True, materialize_grads=True)
    assert (flat == 0).all(), f"expected no gradient of IoU, found {flat}"
    (found,) = torch.autograd.grad(generalized_box_iou(a, b), a)
    assert found[0] + found[2] > 0.01, f"expected GIoU to grow as the box moves right, found {found}"


@pytest.mark.parametrize("of", [box_iou, generalized_box_iou])
def test_leading_dimensions_broadcast(of):
    """Boxes (5, 1, 4) and (3, 4) give every pair, (5, 3): entry (i, j) is of boxes i and j.

    Source: the contract.
    """
    a, b = corners(5), corners(3, seed=3)
    found = of(a[:, None], b)
    assert found.shape == (5, 3), f"expected every pair, found {tuple(found.shape)}"
    laws.assert_close(found, torch.stack([torch.stack([of(x, y) for y in b]) for x in a]))


@given(a=whole_boxes(least=0), b=whole_boxes(least=0))
def test_boxes_without_area_have_finite_overlaps_and_gradients(a, b):
    """Points and lines give finite values and gradients: a ratio of areas that are both 0 is 0.

    Source: the contract; a box may shrink to a point in training.
    """
    for of in (box_iou, generalized_box_iou):
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        found = of(first, second)
        grads = torch.autograd.grad(found, (first, second), allow_unused=True, materialize_grads=True)
        assert found.isfinite() and all(g.isfinite().all() for g in grads), f"expected finite values, found {found}"
    point = torch.tensor([1.0, 2, 1, 2], dtype=torch.float64)
    laws.assert_close(generalized_box_iou(point, point), torch.tensor(0.0, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- matching


def brute_force(costs):
    """The least sum over all ways of giving each row a column of its own."""
    return min(sum(costs[i][j] for i, j in enumerate(order)) for order in orders(range(len(costs[0])), len(costs)))


@pytest.mark.states("equivalence")
@given(rows=sizes(0, 5), more=sizes(0, 2), data=st.data())
def test_matching_has_the_least_cost_of_all_assignments(rows, more, data):
    """Each row has a column of its own, and the sum of the costs is the least over all such choices.

    Source: Carion et al. 2020, eq. 1; Kuhn 1955.
    """
    columns = rows + more
    low = data.draw(st.sampled_from([-2, -0.03]))  # the second makes ties
    costs = data.draw(tensors((2, rows, columns), low=low, high=-low))
    found = hungarian_matching(costs)
    assert found.shape == (2, rows) and not found.is_floating_point(), f"expected columns, found {found}"
    for one, chosen in zip(costs, found.tolist()):
        assert len(set(chosen)) == rows and all(0 <= j < columns for j in chosen), f"expected columns, found {chosen}"
        total = sum(one[i, j].item() for i, j in enumerate(chosen))
        least = brute_force(one.tolist()) if rows else 0.0
        laws.assert_close(torch.tensor(total, dtype=torch.float64), torch.tensor(float(least), dtype=torch.float64))


@given(seed=seeds(), data=st.data())
def test_a_long_chain_of_exchanges_is_found(seed, data):
    """Where row i costs less in column i than in i + 1 and nothing elsewhere is cheap, the last row moves all others.

    Source: Kuhn 1955: augmenting paths.
    """
    size = data.draw(sizes(2, 9))
    costs = torch.full((1, size, size), 100.0, dtype=torch.float64)
    for i in range(size - 1):
        costs[0, i, i], costs[0, i, i + 1] = 0.0, 1.0
    costs[0, size - 1, 0] = 0.0
    rows, columns = data.draw(permutations(size)), data.draw(permutations(size))
    found = hungarian_matching(costs[:, rows][:, :, columns])[0]
    # Row i has to leave column i to the row before it, all along the chain.
    expected = torch.tensor([*range(1, size), 0])[rows]
    assert columns[found].tolist() == expected.tolist(), (
        f"expected {expected.tolist()}, found {columns[found].tolist()}"
    )


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_matching_moves_with_rows_and_columns(seed, data):
    """Permuted rows and columns have the permuted matching; a constant added to a row or to all changes none.

    Source: Kuhn 1955.
    """
    costs = double(2, 3, 5, seed=seed)
    found = hungarian_matching(costs)
    rows, columns = data.draw(permutations(3)), data.draw(permutations(5))
    moved = hungarian_matching(costs[:, rows][:, :, columns])
    laws.assert_same(columns[moved], found[:, rows])
    shifted = costs + 10 * double(2, 3, 1, seed=seed + 1) - 7
    laws.assert_same(hungarian_matching(shifted), found)


def test_large_problems_are_matched_as_well():
    """Matchings of 40 rows and 60 columns have potentials that prove them: u + v ≤ cost, equal along the matching.

    Source: duality of linear programs; Kuhn 1955.
    """
    costs = double(1, 40, 60)
    chosen = hungarian_matching(costs)[0]
    assert len(set(chosen.tolist())) == 40, "expected a column for each row"
    # No exchange along a cycle, or along a path to a free column, is cheaper: no negative cycle by Floyd and Warshall.
    steps = costs[0][:, chosen] - costs[0].gather(1, chosen[:, None])  # row i takes the column of row j
    free = torch.ones(60, dtype=torch.bool).index_fill(0, chosen, False)
    paths = torch.full((41, 41), math.inf, dtype=torch.float64)
    paths[:40, :40] = steps
    paths[:40, 40] = (costs[0][:, free] - costs[0].gather(1, chosen[:, None])).amin(1)
    paths[40] = 0.0  # a path may begin at any row: its column becomes free
    for k in range(41):
        paths = torch.minimum(paths, paths[:, k, None] + paths[None, k])
    assert (paths.diagonal() > -1e-9).all(), f"expected no cheaper exchange, found {paths.diagonal().min()}"


@pytest.mark.project_convention
def test_matching_takes_a_number_of_steps_that_only_sizes_set():
    """The operators that run are the same for any costs: no branch on data.

    Source: the page of layers/matching: all problems of a batch go in step.
    """
    same = [cost.operators(hungarian_matching, double(2, 3, 4, seed=seed)) for seed in range(3)]
    assert same[0] == same[1] == same[2], "expected the same operators for other costs"


# ---------------------------------------------------------------------------------------------- loss


def giou(a, b):
    """GIoU of two boxes (c_x, c_y, w, h), one number at a time."""
    sides, whole, hull = [], [a[2] * a[3], b[2] * b[3]], []
    for k in (0, 1):
        low, high = [box[k] - box[k + 2] / 2 for box in (a, b)], [box[k] + box[k + 2] / 2 for box in (a, b)]
        sides.append(torch.clamp(torch.minimum(*high) - torch.maximum(*low), min=0))
        hull.append(torch.maximum(*high) - torch.minimum(*low))
    common, hull = sides[0] * sides[1], hull[0] * hull[1]
    union = whole[0] + whole[1] - common
    return common / union - (hull - union) / hull


def box_term(a, b, l1_weight=5.0, giou_weight=2.0):
    return l1_weight * sum((x - y).abs() for x, y in zip(a, b)) + giou_weight * (1 - giou(a, b))


def pair_cost(logits, boxes, labels, targets, **weights):
    """L_match, entry by entry."""
    nothing = logits.shape[2] - 1
    rows = []
    for n in range(len(logits)):
        p = logits[n].exp() / logits[n].exp().sum(-1, keepdim=True)
        for i, c in enumerate(labels[n].tolist()):
            for j in range(logits.shape[1]):
                entry = box_term(boxes[n, j], targets[n, i], **weights) - p[j, c]
                rows.append(entry if c != nothing else torch.zeros_like(entry))
    return torch.stack(rows).reshape(*labels.shape, -1)


def reference(logits, boxes, labels, targets, no_object_weight=0.1, **weights):
    """The set prediction loss with the matching of all matchings that costs least."""
    nothing, queries = logits.shape[2] - 1, logits.shape[1]
    costs = pair_cost(logits, boxes, labels, targets, **weights).detach()
    of_boxes, of_classes, total, objects = 0.0, 0.0, 0.0, 0
    for n in range(len(logits)):
        real = [i for i, c in enumerate(labels[n].tolist()) if c != nothing]
        best = min(orders(range(queries), len(real)), key=lambda o: sum(costs[n, i, j].item() for i, j in zip(real, o)))
        classes = [nothing] * queries
        for i, j in zip(real, best):
            classes[j] = labels[n, i].item()
            of_boxes = of_boxes + box_term(boxes[n, j], targets[n, i], **weights)
            objects += 1
        for j, c in enumerate(classes):
            weight = no_object_weight if c == nothing else 1.0
            of_classes = of_classes - weight * (logits[n, j, c] - logits[n, j].exp().sum().log())
            total += weight
    return of_boxes / max(objects, 1) + of_classes / total


@given(seed=seeds())
def test_cost_of_a_pair_is_its_probability_and_its_boxes(seed):
    """L_match(i, j) = −p̂_j(c_i) + λ_L1 ‖b_i − b̂_j‖₁ + λ_iou (1 − GIoU): a probability, no logarithm; 0 for ∅.

    Source: Carion et al. 2020, §3.1: commensurable with the boxes' loss.
    """
    given = sets(seed)
    laws.assert_close(matching_cost(*given, **WEIGHTS), pair_cost(*given, **WEIGHTS))


@given(seed=seeds(), no_object_weight=floats(0.05, 2))
def test_loss_is_that_of_the_cheapest_matching(seed, no_object_weight):
    """L = Σ w_c (−log p̂_σ̂(i)(c_i))/Σ w_c + Σ 1[c_i ≠ ∅] L_box/number of objects, for σ̂ of all N!/(N − M)!.

    Source: Carion et al. 2020, eq. 1 and 2.  Convention: means as released, w = 1 for classes.
    """
    given = sets(seed)
    options = WEIGHTS | {"no_object_weight": no_object_weight}
    laws.gradients_match(
        lambda *given: set_prediction_loss(*given, **options), lambda *given: reference(*given, **options), *given
    )


def test_defaults_are_the_papers():
    """λ_L1 = 5, λ_iou = 2, and 0.1 for ∅.

    Source: Carion et al. 2020, A.4; §3.1: the log-probability of ∅ is down-weighted by a factor 10.
    """
    given = sets(seed=1)
    laws.assert_close(set_prediction_loss(*given), reference(*given, no_object_weight=0.1, l1_weight=5, giou_weight=2))


def test_matching_weighs_probabilities_not_their_logarithms():
    """With boxes alike, the object goes to the sum of probabilities that is highest, not to the product.

    Two objects of classes 0 and 1, and two predictions: straight, p̂ sums to 0.98 + 0.02 and multiplies to 0.0196;
    crossed, to 0.4 + 0.4 and 0.16.

    Source: Carion et al. 2020, §3.1: p̂ in the matching cost in place of log p̂.
    """
    p = torch.tensor([[[0.98, 0.4, 0.1], [0.4, 0.02, 0.1]]], dtype=torch.float64)
    p[:, :, 2] = 1 - p[:, :, :2].sum(2)
    p = p.clamp(min=1e-3)
    p = p / p.sum(2, keepdim=True)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.3], dtype=torch.float64).expand(1, 2, 4)
    labels = torch.tensor([[0, 1]])
    straight = p[0, 0, 0] + p[0, 1, 1] > p[0, 0, 1] + p[0, 1, 0]
    product = p[0, 0, 0] * p[0, 1, 1] < p[0, 0, 1] * p[0, 1, 0]
    assert straight and product, "the two rules must differ here"
    found = set_prediction_loss(p.log(), boxes, labels, boxes)
    laws.assert_close(found, -(p[0, 0, 0].log() + p[0, 1, 1].log()) / 2)


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_loss_is_of_sets(seed, data):
    """Permuted predictions, permuted objects and permuted images have the same loss.

    Source: Carion et al. 2020, §3.1: invariant under a permutation.
    """
    logits, boxes, labels, targets = sets(seed)
    expected = set_prediction_loss(logits, boxes, labels, targets)
    order = data.draw(permutations(5))
    laws.assert_close(set_prediction_loss(logits[:, order], boxes[:, order], labels, targets), expected)
    order = data.draw(permutations(3))
    laws.assert_close(set_prediction_loss(logits, boxes, labels[:, order], targets[:, order]), expected)
    laws.assert_close(set_prediction_loss(logits.flip(0), boxes.flip(0), labels.flip(0), targets.flip(0)), expected)


@given(seed=seeds())
def test_boxes_and_number_of_absent_objects_do_not_count(seed):
    """Objects of class ∅ may have any box, and there may be any number of them.

    Source: Carion et al. 2020, §3.1: a set padded with ∅.
    """
    logits, boxes, labels, targets = sets(seed)
    expected = set_prediction_loss(logits, boxes, labels, targets)
    other = torch.where((labels == 3)[:, :, None], 5 - targets, targets)
    laws.assert_close(set_prediction_loss(logits, boxes, labels, other), expected)
    longer = torch.cat([torch.full((2, 2), 3), labels], dim=1)
    more = torch.cat([double(2, 2, 4), targets], dim=1)
    laws.assert_close(set_prediction_loss(logits, boxes, longer, more), expected)


@pytest.mark.states("limiting case")
@given(seed=seeds(), weight=floats(0.05, 3))
def test_an_image_of_nothing_asks_for_nothing(seed, weight):
    """Without objects the loss is the mean of −log p̂(∅), whatever ∅ weighs, and boxes get no gradient.

    Source: Carion et al. 2020, eq. 2.  Convention: a weighted mean, as released.
    """
    logits, boxes, _, _ = sets(seed)
    logits, boxes = logits.requires_grad_(), boxes.requires_grad_()
    expected = -logits.log_softmax(-1)[:, :, 3].mean()
    for count in (0, 2):
        labels, targets = torch.full((2, count), 3), centres(2, count)
        found = set_prediction_loss(logits, boxes, labels, targets, no_object_weight=weight)
        laws.assert_close(found, expected)
        laws.gradient_reaches(found, {"logits": logits}, {"boxes": boxes})


@given(seed=seeds())
def test_losses_are_means_over_the_batch(seed):
    """A batch and the same images twice have the same loss; boxes are divided by the objects of the batch.

    Source: Carion et al. 2020, §3.1: normalized by the number of objects inside the batch.
    """
    given = sets(seed)
    twice = [torch.cat([t, t]) for t in given]
    laws.assert_close(set_prediction_loss(*twice), set_prediction_loss(*given))


@given(seed=seeds())
def test_right_predictions_cost_nothing(seed):
    """Where each object has a prediction of its box and class, sure of it, and the others of ∅, the loss is 0.

    Source: Carion et al. 2020, eq. 2.
    """
    labels, targets = LABELS, centres(2, 3, seed=seed)
    classes = torch.full((2, 5), 3).scatter(1, torch.tensor([[4, 1, 2], [3, 0, 1]]), labels)
    boxes = centres(2, 5, seed=seed + 1).scatter(
        1, torch.tensor([[4, 1, 2], [3, 0, 1]])[:, :, None].expand(-1, -1, 4), targets
    )
    logits = 60 * torch.nn.functional.one_hot(classes, 4).double()
    laws.assert_close(set_prediction_loss(logits, boxes, labels, targets), torch.zeros((), dtype=torch.float64))


@pytest.mark.states("gradient routing")
def test_only_matched_boxes_get_a_gradient():
    """Each object's box has a gradient through one prediction alone; every prediction's logits have one.

    Source: Carion et al. 2020, eq. 2: 1[c_i ≠ ∅].
    """
    logits, boxes, labels, targets = sets(seed=4)
    logits.requires_grad_(), boxes.requires_grad_()
    loss = set_prediction_loss(logits, boxes, labels, targets)
    of_logits, of_boxes = torch.autograd.grad(loss, (logits, boxes))
    reached = (of_boxes != 0).any(-1).sum(1).tolist()
    assert reached == [3, 1], f"expected gradients at 3 boxes and 1, found {reached}"
    assert (of_logits != 0).all(), "expected a gradient at every logit"


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient to logits and boxes equals central differences.

    Source: the definition of the derivative; the matching is constant around a point.
    """
    logits, boxes, labels, targets = sets(seed=2, images=1, queries=3)
    laws.gradient_correct(
        lambda logits, boxes: set_prediction_loss(logits, boxes, labels, targets), logits, boxes, second_order=True
    )


@given(seed=seeds())
def test_large_logits_and_half_precision_are_finite(seed):
    """Logits of ±1000 in float16 have a finite loss and finite gradients.

    Source: the contract; log-softmax and softmax subtract the largest logit.
    """
    logits, boxes, labels, targets = sets(seed, dtype=torch.float16)
    logits = (1000 * logits.sign()).requires_grad_()
    found = set_prediction_loss(logits, boxes, labels, targets)
    assert found.isfinite() and torch.autograd.grad(found, logits)[0].isfinite().all(), (
        f"expected a loss, found {found}"
    )


# ---------------------------------------------------------------------------------------------- positions


@given(height=sizes(1, 5), width=sizes(1, 5))
def test_positions_are_sines_of_rows_then_of_columns(height, width):
    """Feature 2i of the first half is sin(y ω_i), 2i + 1 cos(y ω_i), y = 2π·row/height, ω_i = 10⁴^(−4i/d); x follows.

    Source: Carion et al. 2020, A.4: sine and cosine of both coordinates, concatenated.  Convention: rows from 1.
    """
    found = image_positions(torch.ones(1, height, width).bool(), 8)[0]
    expected = torch.zeros(height, width, 8, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for half, (place, count) in enumerate(((row, height), (column, width))):
                angle = 2 * math.pi * (place + 1) / (count + 1e-6)
                for i in range(2):
                    turned = angle / 10000 ** (i / 2)
                    expected[row, column, 4 * half + 2 * i] = math.sin(turned)
                    expected[row, column, 4 * half + 2 * i + 1] = math.cos(turned)
    laws.assert_close(found, expected)


@given(height=sizes(1, 4), width=sizes(1, 4), below=sizes(0, 2), right=sizes(0, 2))
def test_positions_of_a_padded_image_are_its_own(height, width, below, right):
    """Pixels of an image with padding to the right and below have the positions of the image alone.

    Source: Carion et al. 2020, as released: counted and normalized where the mask is True.
    """
    mask = torch.zeros(2, height + below, width + right, dtype=torch.bool)
    mask[0, :height, :width] = True
    mask[1] = True
    found = image_positions(mask, 4)
    laws.assert_close(found[0, :height, :width], image_positions(torch.ones(1, height, width).bool(), 4)[0])


# ---------------------------------------------------------------------------------------------- model


def norm(x, state, name):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(queries, keys, values, state, name, heads=2):
    """One image's attention, head by head."""
    bias = state[f"{name}.in_proj_bias"].chunk(3)
    given = zip("qkv", (queries, keys, values), bias)
    q, k, v = (x @ state[f"{name}.{part}_proj_weight"].T + b for part, x, b in given)
    width, found = q.shape[1] // heads, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = (q[:, own] @ k[:, own].T / math.sqrt(width)).exp()
        found.append(scores / scores.sum(1, keepdim=True) @ v[:, own])
    return torch.cat(found, 1) @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def transform(x, state, name):
    return linear(linear(x, state, f"{name}.linear1").clamp(min=0), state, f"{name}.linear2")


def by_equations(state, features, encoders, decoders):
    """Logits and boxes of one image after each decoder layer, from features (5, h, w)."""
    height, width = features.shape[1:]
    kernel = state["input_proj.weight"][:, :, 0, 0]
    x = (kernel @ features.flatten(1)).T + state["input_proj.bias"]
    p = image_positions(torch.ones(1, height, width).bool(), x.shape[1])[0].flatten(0, 1)
    for n in range(encoders):
        at = f"encoder.{n}"
        x = norm(x + attention(x + p, x + p, x, state, f"{at}.self_attn"), state, f"{at}.norm1")
        x = norm(x + transform(x, state, f"{at}.feed_forward"), state, f"{at}.norm2")
    q, found = state["queries"], []
    y = torch.zeros_like(q)
    for n in range(decoders):
        at = f"decoder.{n}"
        y = norm(y + attention(y + q, y + q, y, state, f"{at}.self_attn"), state, f"{at}.norm1")
        y = norm(y + attention(y + q, x + p, x, state, f"{at}.cross_attn"), state, f"{at}.norm2")
        y = norm(y + transform(y, state, f"{at}.feed_forward"), state, f"{at}.norm3")
        z = norm(y, state, "decoder_norm")
        hidden = linear(linear(z, state, "box_head.0").clamp(min=0), state, "box_head.1").clamp(min=0)
        boxes = 1 / (1 + (-linear(hidden, state, "box_head.2")).exp())
        found.append((linear(z, state, "class_head"), boxes))
    return found


@pytest.mark.states("equivalence")
@pytest.mark.parametrize(("encoders", "decoders"), [(0, 1), (2, 2)])
def test_model_is_the_equations(encoders, decoders):
    """Encoder, decoder and heads give what the equations give, image by image and head by head, after every layer.

    Source: Carion et al. 2020, §3.2, A.3, fig. 10: positions at queries and keys of every attention, never at values.
    """
    model, images = trained(num_encoder_layers=encoders, num_decoder_layers=decoders), double(2, 2, 4, 6)
    state, features = model.state_dict(), model.backbone(images).detach()
    layers = model.every_layer(images)
    assert len(layers) == decoders, f"expected a prediction after each of {decoders} layers, found {len(layers)}"
    for n in range(2):
        expected = by_equations(state, features[n], encoders, decoders)
        for (logits, boxes), (wanted, where) in zip(layers, expected):
            laws.assert_close(logits[n], wanted, what="logits")
            laws.assert_close(boxes[n], where, what="boxes")
    laws.assert_all_close(tuple(model(images)), tuple(layers[-1]))


@pytest.mark.states("symmetry")
@given(data=st.data())
def test_queries_are_a_set(data):
    """Permuted queries give permuted predictions: objects are decoded in parallel, no order among them.

    Source: Carion et al. 2020, §3.2: permutation-invariant decoder; the input embeddings must differ.
    """
    model, images = trained(), double(2, 2, 4, 6)
    logits, boxes = model(images)
    order, state = data.draw(permutations(4)), model.state_dict()
    model.load_state_dict(state | {"queries": state["queries"][order]})
    moved, shifted = model(images)
    laws.assert_close(moved, logits[:, order])
    laws.assert_close(shifted, boxes[:, order])
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3, "expected queries that differ to find different objects"


@pytest.mark.states("dependence")
def test_every_prediction_sees_the_whole_image_and_every_query():
    """Each logit and box depends on each pixel and on each query.

    Source: Carion et al. 2020, §3.2: all objects together, with the whole image as context.
    """
    model, images = trained(), double(1, 2, 4, 6)
    for part in (0, 1):
        rows = laws.jacobian(lambda x, part=part: model(x)[part], images).flatten(3).abs().amin(3)
        assert (rows > 0).all(), "expected every prediction to depend on every pixel"
        for n in range(4):
            (gradient,) = torch.autograd.grad(model(images)[part][0, n].sum(), model.queries)
            assert (gradient.abs().amax(1) > 0).all(), "expected every prediction to depend on every query"


def test_where_things_are_counts():
    """Exchanged patches of the image give other predictions, because the pixels have positions.

    Source: Carion et al. 2020, §3.2: the transformer is permutation-invariant, so positions are added.
    """
    model, images = trained(), double(1, 2, 4, 6)
    moved = torch.cat([images[:, :, :, 4:], images[:, :, :, :4]], dim=3)
    laws.assert_differs(model(moved)[1], model(images)[1], by=1e-3)


@given(below=sizes(0, 1), right=sizes(0, 2), seed=seeds())
def test_padding_of_an_image_changes_nothing(below, right, seed):
    """An image that is padded with anything, and masked there, has the predictions of the image alone.

    Source: Carion et al. 2020, §3.2 and the released code: images of a batch are padded to one size, and masked.
    """
    model, image = trained(), double(1, 2, 4, 4, seed=seed)
    padded = double(2, 2, 4 + 2 * below, 4 + 2 * right, seed=seed + 1)
    padded[:1, :, :4, :4] = image
    mask = torch.zeros(2, *padded.shape[2:], dtype=torch.bool)
    mask[0, :4, :4] = mask[1] = True
    for found, alone in zip(model(padded, mask), model(image)):
        laws.assert_close(found[:1], alone)


@given(seed=seeds())
def test_a_feature_is_real_where_its_first_pixel_is(seed):
    """Of features at rows ⌊i·H/h⌋ and columns ⌊j·W/w⌋ of the mask, those that are False there are not attended to.

    Source: the released code: the mask is shrunk to the features' size, nearest neighbour.
    """
    model, images = trained(), double(2, 2, 5, 7, seed=seed)  # features of 2 × 3 see 4 × 6 pixels
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    mask[0, :, 4:] = False  # columns 0, 2 and 4 are looked at: the third feature is padding
    mask[1, 3:] = False  # rows 0 and 2: all are real
    logits, _ = model(images, mask)
    laws.assert_close(logits[:1], model(images[:1, :, :4, :4])[0])
    laws.assert_close(logits[1:], model(images[1:, :, :4, :6])[0])


def test_loss_of_the_model_is_that_of_every_decoder_layer():
    """The loss is the sum over decoder layers of the set prediction loss, each with its own matching; masks included.

    Source: Carion et al. 2020, §3.2, auxiliary decoding losses: Hungarian loss after each layer, shared heads.
    """
    model, images = trained(num_decoder_layers=3), double(2, 2, 4, 6)
    labels, targets = LABELS, centres(2, 3)
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0, :, 4:] = False
    for masks in ((), (mask,)):
        parts = [reference(*found, labels, targets) for found in model.every_layer(images, *masks)]
        assert len({round(p.item(), 6) for p in parts}) == 3, "expected layers that differ"
        laws.assert_close(model.loss(images, labels, targets, *masks), sum(parts))


@pytest.mark.states("gradient routing")
def test_all_learns_but_what_the_first_self_attention_of_the_decoder_attends_by():
    """Every parameter has a gradient but the projections of the first decoder layer's self-attention, which do nothing.

    Its objects are all 0, so that its values are all alike, however they are weighed.

    Source: Carion et al. 2020, A.3: the first self-attention of the first decoder layer can be skipped.
    """
    model, images = trained(), double(2, 2, 4, 6)
    expected, state = model(images), model.state_dict()
    idle = {f"decoder.0.self_attn.{part}_proj_weight" for part in "qkv"}
    parameters = {name: p for name, p in model.named_parameters() if name not in idle}
    laws.gradient_reaches(model.loss(images, LABELS, centres(2, 3)), parameters)
    model.load_state_dict(state | {name: double(8, 8, seed=n) for n, name in enumerate(idle)})
    laws.assert_all_close(tuple(model(images)), tuple(expected))


def test_transformer_begins_as_xaviers_and_queries_as_normal():
    """Matrices of the transformer are uniform in ±√(6/(rows + columns)) at first, queries N(0, 1).

    Source: Carion et al. 2020, §4: Xavier initialisation of all transformer weights; nn.Embedding's for queries.
    """
    model = detr(d_model=32, dim_feedforward=64, nhead=4, num_queries=50)
    for name, p in model.named_parameters():
        if name.startswith(("encoder", "decoder.")) and p.dim() == 2:
            bound = math.sqrt(6 / sum(p.shape))
            found = p.abs().max().item() / bound
            assert 0.97 < found <= 1 + 1e-6, (
                f"expected {name} within ±{bound:.4f} up to its ends, found {found:.3f} of it"
            )
            laws.assert_close(
                p.std().double(), torch.tensor(bound / math.sqrt(3)).double(), rtol=0.06, because="a thousand samples"
            )
    laws.assert_close(model.queries.std().double(), torch.tensor(1.0).double(), rtol=0.08, because="1,600 samples")


@pytest.mark.states("cost")
@given(n=sizes(1, 2), height=sizes(1, 3), width=sizes(1, 3), queries=sizes(1, 4))
def test_cost_is_that_of_one_pass(n, height, width, queries):
    """One pass takes the multiply-adds of its matrices: with T = hw features, N queries and width d,
    T·C·d + L_enc (4Td² + 2T²d + 2Tdh) + L_dec (4Nd² + 2N²d + 2Nd² + 2Td² + 2NTd + 2Ndh) + heads N(d(K + 1) + 2d² + 4d).

    Source: Carion et al. 2020, A.1 and §3.2: objects are decoded in parallel, not one after another.
    """
    model = detr(num_queries=queries)
    features = random(n, 5, height, width)
    model.backbone = torch.nn.Identity()
    t, d, h, k = height * width, 8, SETTINGS["dim_feedforward"], queries
    encoder = 4 * t * d * d + 2 * t * t * d + 2 * t * d * h
    decoder = 4 * k * d * d + 2 * k * k * d + 2 * k * d * d + 2 * t * d * d + 2 * k * t * d + 2 * k * d * h
    heads = k * (d * 4 + 2 * d * d + 4 * d)
    expected = 2 * n * (t * 5 * d + encoder + 2 * decoder + heads)
    found = cost.flops(model, features)
    assert found == expected, f"expected {expected} operations, found {found}"
