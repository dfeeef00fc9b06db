"""Properties of PointNet++.  Qi, Yi, Su & Guibas 2017, arXiv:1706.02413."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.pointnet2 import (
    FeaturePropagation,
    GlobalAbstraction,
    PointNet2,
    PointNet2Segmentation,
    SetAbstraction,
    ball_query,
    drop_points,
    farthest_point_sample,
    interpolate,
)
from spec import cost, laws
from spec.cases.pointnet import cloud, trained
from spec.cases.pointnet2 import LEVELS, abstraction, model, segmentation
from spec.laws import double
from spec.strategies import floats, permutations, seeds, sizes, varied

pytestmark = pytest.mark.item("pointnet2")


def apart(a, b):
    """Distances of all rows of a to all of b."""
    return (a[:, None] - b[None]).square().sum(-1).sqrt()


def shared_mlp(x, state, prefix):
    """Linear layer, batch normalization by running statistics and ReLU, layer by layer."""
    number = 0
    while f"{prefix}linears.{number}.weight" in state:
        x = x @ state[f"{prefix}linears.{number}.weight"].T + state[f"{prefix}linears.{number}.bias"]
        norm = f"{prefix}norms.{number}."
        x = (x - state[f"{norm}running_mean"]) / (state[f"{norm}running_var"] + 1e-5).sqrt()
        x = (x * state[f"{norm}weight"] + state[f"{norm}bias"]).clamp(min=0)
        number += 1
    return x


def part(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# ---------------------------------------------------------------------------------------------- sampling


@pytest.mark.states("equivalence")
@given(points=varied((2, 7, 3)), count=sizes(1, 7), start=sizes(0, 6))
def test_each_sample_is_the_farthest_from_those_before(points, count, start):
    """The first index is `start`, each further one that of the point whose nearest chosen point is farthest away.

    Source: Qi et al. 2017, §3.2: x_j is the most distant point from {x_1 … x_{j−1}}.
    """
    found = farthest_point_sample(points, count, start)
    assert found.shape == (2, count) and found.dtype == torch.int64, f"expected indices (2, {count}), found {found}"
    for one, indices in zip(points, found.tolist()):
        chosen = [start]
        while len(chosen) < count:
            distances = [min((one[i] - one[j]).norm().item() for j in chosen) for i in range(7)]
            chosen.append(max(range(7), key=distances.__getitem__))
        assert indices == chosen, f"expected {chosen}, found {indices}"


@given(points=varied((1, 8, 2)), count=sizes(2, 4))
def test_samples_cover_the_cloud_within_twice_the_optimum(points, count):
    """The farthest distance of a point to the samples is at most twice that of the best subset, and falls with count.

    Source: Gonzalez 1985, theorem 2.2: the greedy choice is a 2-approximation; Qi et al. 2017, §3.2: better coverage.
    """
    cover = []
    for k in range(1, count + 1):
        chosen = points[0, farthest_point_sample(points, k)[0]]
        cover.append(apart(points[0], chosen).amin(1).max().item())
    assert all(a >= b for a, b in zip(cover, cover[1:])), f"expected radii that fall, found {cover}"
    best = min(apart(points[0], points[0, list(s)]).amin(1).max().item() for s in combinations(range(8), count))
    assert cover[-1] <= 2 * best + 1e-12, f"expected at most twice {best}, found {cover[-1]}"


def test_equally_far_points_and_equal_points():
    """Of equally far points the first is taken, and no index twice, even where points are alike.

    Source: a convention; the indices of a sample are a set.
    """
    square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    assert farthest_point_sample(square, 4).tolist() == [[0, 3, 1, 2]]
    alike = torch.tensor([[[1.0, 2.0]] * 3 + [[5.0, 2.0]]])
    assert farthest_point_sample(alike, 4).tolist() == [[0, 3, 1, 2]], "expected every index once"


# ---------------------------------------------------------------------------------------------- balls


@given(points=varied((2, 6, 3)), centres=varied((2, 4, 3)), radius=floats(0.3, 3), most=sizes(1, 8))
def test_ball_has_the_first_points_within_the_radius(points, centres, radius, most):
    """A ball's indices are the first K of the points within r, in the cloud's order; the first is repeated up to K.

    Where no point lies within r, all are the nearest point's.

    Source: Qi et al. 2017, §3.2: all points within a radius, with an upper limit of K.  Convention: as released.
    """
    found = ball_query(points, centres, radius, most)
    assert found.shape == (2, 4, most) and found.dtype == torch.int64, f"expected (2, 4, {most}), found {found.shape}"
    for one, middle, indices in zip(points, centres, found.tolist()):
        for distances, of_ball in zip(apart(middle, one).tolist(), indices):
            inside = [i for i, distance in enumerate(distances) if distance <= radius][:most]
            inside = inside or [min(range(6), key=distances.__getitem__)]
            expected = inside + [inside[0]] * (most - len(inside))
            assert of_ball == expected, f"expected {expected} at distances {distances}, found {of_ball}"


def test_ball_is_closed():
    """A point at exactly r belongs to the ball, one just beyond does not.

    Source: Qi et al. 2017, §3.2: within a radius.
    """
    points = torch.tensor([[[9.0, 9.0], [3.0, 4.0], [3.0, 4.0001], [0.0, 5.0]]], dtype=torch.float64)
    found = ball_query(points, torch.zeros(1, 1, 2, dtype=torch.float64), 5.0, 3)
    assert found.tolist() == [[[1, 3, 1]]], f"expected points 1 and 3, found {found.tolist()}"


# ---------------------------------------------------------------------------------------------- set abstraction


@given(points=varied((2, 6, 3)), seed=seeds())
def test_a_centre_has_the_maximum_over_its_ball(points, seed):
    """f(c) = max over the ball of MLP([x − c; f(x)]), scale by scale; centres are the farthest point samples.

    Source: Qi et al. 2017, §3.2: PointNet layer in the local coordinates of the centre; §3.3: multi-scale grouping.
    """
    module, features = trained(abstraction(), seed), double(2, 6, 2, seed=seed)
    state = module.state_dict()

    def reference(points, features):
        index = farthest_point_sample(points.detach(), 3)
        centres = torch.stack([one[i] for one, i in zip(points, index)])
        rows = []
        for n in range(2):
            for j in range(3):
                row = []
                for scale, (radius, most) in enumerate(zip((0.9, 1.5), (2, 4))):
                    inside = ball_query(points.detach(), centres.detach(), radius, most)[n, j]
                    each = [torch.cat([points[n, i] - centres[n, j], features[n, i]]) for i in inside]
                    row.append(shared_mlp(torch.stack(each), state, f"mlps.{scale}.").amax(0))
                rows.append(torch.cat(row))
        return centres, torch.stack(rows).reshape(2, 3, 7)

    laws.gradients_match(lambda *inputs: module(*inputs), reference, points, features)


@pytest.mark.states("symmetry")
@given(points=varied((2, 9, 3)), shift=varied((3,)), seed=seeds())
def test_features_do_not_depend_on_where_the_cloud_is(points, shift, seed):
    """A cloud moved as a whole has its centres moved and the same features.

    Source: Qi et al. 2017, §3.2: coordinates relative to the centre.
    """
    module, features = trained(abstraction(), seed), double(2, 9, 2, seed=seed)
    centres, found = module(points, features)
    moved, again = module(points + shift, features)
    laws.assert_close(moved, centres + shift)
    laws.assert_close(again, found)


def test_global_abstraction_sees_where_the_points_are():
    """The last level is a PointNet of the points where they lie: max over all of MLP([x; f(x)]).

    Source: Qi et al. 2017, supplementary B: a global set abstraction level.
    """
    module, points, features = trained(GlobalAbstraction(2, (5, 4))), double(2, 7, 3), double(2, 7, 2, seed=1)
    expected = shared_mlp(torch.cat([points, features], -1), module.state_dict(), "mlp.").amax(1)
    laws.assert_close(module(points, features), expected)
    laws.assert_differs(module(points + 1, features), expected, by=1e-6)
    bare = trained(GlobalAbstraction(0, (5, 4)))
    laws.assert_close(bare(points), shared_mlp(points, bare.state_dict(), "mlp.").amax(1), what="of points alone")


@given(points=varied((1, 7, 3)), order=permutations(6), seed=seeds())
def test_order_does_not_matter_where_balls_hold_all(points, order, seed):
    """Where K is no limit and the first point stays the first, centres and features are those of any order.

    Source: Qi et al. 2017, §3.1: a function of a set.
    """
    module, features = trained(abstraction(most=(7, 7)), seed), double(1, 7, 2, seed=seed)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + order])
    laws.assert_all_close(list(module(points[:, order], features[:, order])), list(module(points, features)))


@pytest.mark.states("dependence")
@given(points=varied((1, 12, 3)), seed=seeds())
def test_features_depend_on_points_within_the_radius_alone(points, seed):
    """Features of a point beyond the largest radius around a centre do not change that centre's features.

    Source: Qi et al. 2017, §3.2: local regions.
    """
    module, features = trained(abstraction(count=4, radii=(0.5, 1.0), most=(12, 12)), seed), double(1, 12, 2, seed=seed)
    centres, found = module(points, features)
    far = apart(centres[0], points[0]) > 1.0
    for i in range(12):
        other = features.clone()
        other[0, i] += 5.0
        changed = (module(points, other)[1] - found)[0].abs().amax(1)
        assert (changed[far[:, i]] == 0).all(), f"expected centres far from point {i} unchanged, found {changed}"


@pytest.mark.states("gradient routing")
@pytest.mark.parametrize("build", [model, segmentation])
def test_logits_reach_every_parameter(build):
    """The logits depend on every parameter of every level and scale, in evaluation.

    Source: Qi et al. 2017, figure 2.
    """
    module = trained(build())
    loss = module(double(3, 9, 3), double(3, 9, 2, seed=1)).square().sum()
    laws.gradient_reaches(loss, dict(module.named_parameters()))


# ---------------------------------------------------------------------------------------------- propagation


@given(points=varied((2, 4, 3)), known=varied((2, 5, 3)), count=sizes(1, 5), seed=seeds())
def test_interpolation_weighs_by_inverse_squares(points, known, count, seed):
    """f(x) = Σ w_i f(c_i)/Σ w_i with w_i = 1/d(x, c_i)², over the 3 nearest known points, or all of fewer.

    Source: Qi et al. 2017, eq. 2, p = 2, k = 3.
    """
    known, features = 0.8 * known[:, :count] + 0.1, double(2, count, 2, seed=seed)

    def reference(points, known, features):
        rows = []
        for n in range(2):
            for x in points[n]:
                distances = (known[n] - x).square().sum(-1)
                near = sorted(range(count), key=distances.tolist().__getitem__)[:3]
                weights = [1 / distances[i] for i in near]
                rows.append(sum(w * features[n, i] for w, i in zip(weights, near)) / sum(weights))
        return torch.stack(rows).reshape(2, 4, 2)

    laws.gradients_match(interpolate, reference, points, known, features, rtol=1e-8, because="1/d² may be large")


@pytest.mark.states("limiting case")
@given(known=varied((2, 5, 3)), seed=seeds())
def test_a_known_point_keeps_its_features(known, seed):
    """At a known point the interpolated features are that point's own, and they are finite with finite gradients.

    Source: Qi et al. 2017, eq. 2, d → 0.
    """
    features, points = double(2, 5, 2, seed=seed), known.clone().requires_grad_()
    found = interpolate(points, known, features)
    laws.assert_close(found, features, rtol=1e-6, atol=1e-6, because="d² is at least 1e-10")
    assert torch.autograd.grad(found.sum(), points)[0].isfinite().all(), "expected a finite gradient"


@given(points=varied((1, 4, 2)), known=varied((1, 5, 2)), angle=floats(-3, 3), scale=floats(0.2, 5))
def test_interpolation_depends_on_ratios_of_distances(points, known, angle, scale):
    """Turned, moved and scaled together, points and known points give the same means; equal features stay as they are.

    Source: Qi et al. 2017, eq. 2.
    """
    known, features = 0.8 * known + 0.1, double(1, 5, 3)
    c, s = torch.tensor(angle, dtype=torch.float64).cos(), torch.tensor(angle, dtype=torch.float64).sin()
    turn = scale * torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
    expected = interpolate(points, known, features)
    laws.assert_close(interpolate(points @ turn + 2, known @ turn + 2, features), expected, rtol=1e-8, because="1/d²")
    equal = features[:, :1].expand(1, 5, 3)
    laws.assert_close(interpolate(points, known, equal), equal[:, :4], what="means of equal features")


@given(seed=seeds())
def test_propagation_is_an_mlp_of_interpolated_and_own_features(seed):
    """FP(x) = MLP([interpolated; own]), or MLP(interpolated) where points have no own features.

    Source: Qi et al. 2017, §3.4: concatenated with skip linked features, then a unit PointNet.
    """
    points, known = double(2, 6, 3, seed=seed), double(2, 4, 3, seed=seed + 1)
    features, own = double(2, 4, 3, seed=seed + 2), double(2, 6, 2, seed=seed + 3)
    both, alone = trained(FeaturePropagation(5, (4, 3)), seed), trained(FeaturePropagation(3, (4,)), seed)
    x = interpolate(points, known, features)
    expected = shared_mlp(torch.cat([x, own], -1), both.state_dict(), "mlp.")
    laws.assert_close(both(points, known, features, own), expected)
    laws.assert_close(alone(points, known, features), shared_mlp(x, alone.state_dict(), "mlp."))


@pytest.mark.states("second derivative")
def test_interpolation_has_second_derivatives():
    """The gradient of the gradient to points, known points and features equals central differences.

    Source: the definition of the derivative.
    """
    inputs = double(1, 3, 2), double(1, 4, 2, seed=1), double(1, 4, 2, seed=2)
    laws.gradient_correct(interpolate, *inputs, second_order=True)


# ---------------------------------------------------------------------------------------------- networks


def levels(state, points, features, in_channels=2):
    """Points and features of each level, and the feature of the cloud, by the public parts."""
    found, channels = [(points, features)], in_channels
    for number, (count, radii, most, mlps) in enumerate(LEVELS):
        module = SetAbstraction(count, radii, most, channels, mlps).double().eval()
        module.load_state_dict(part(state, f"encoder.levels.{number}."))
        found.append(module(*found[-1]))
        channels = sum(widths[-1] for widths in mlps)
    whole = GlobalAbstraction(channels, (4, 6)).double().eval()
    whole.load_state_dict(part(state, "encoder.whole."))
    return found, whole(*found[-1])


@given(seed=seeds())
def test_network_is_its_levels_and_a_perceptron(seed):
    """Logits are those of the levels in order, a global level, layers with batch normalization, and a linear one.

    Source: Qi et al. 2017, supplementary B.
    """
    points, features = double(2, 8, 3, seed=seed), double(2, 8, 2, seed=seed + 1)
    module = trained(model(), seed)
    state = module.state_dict()
    _, x = levels(state, points, features)
    x = shared_mlp(x, state, "hidden.0.")
    laws.assert_close(module(points, features), x @ state["last.weight"].T + state["last.bias"])


@given(seed=seeds())
def test_segmentation_brings_features_back_level_by_level(seed):
    """The cloud's feature goes to the coarsest points, theirs to the next level's, and at last to all points.

    Each step adds the features that the level had, those of the input at last.

    Source: Qi et al. 2017, figure 2 and §3.4; the cloud's feature is the same for all of the coarsest points.
    """
    points, features = double(2, 8, 3, seed=seed), double(2, 8, 2, seed=seed + 1)
    module = trained(segmentation(), seed)
    state = module.state_dict()
    found, whole = levels(state, points, features)
    (coarse, own) = found[2]
    x = shared_mlp(torch.cat([whole[:, None].expand(-1, 2, -1), own], -1), state, "propagation.0.mlp.")
    x = shared_mlp(torch.cat([interpolate(found[1][0], coarse, x), found[1][1]], -1), state, "propagation.1.mlp.")
    x = shared_mlp(torch.cat([interpolate(points, found[1][0], x), features], -1), state, "propagation.2.mlp.")
    x = shared_mlp(x, state, "hidden.")
    laws.assert_close(module(points, features), x @ state["last.weight"].T + state["last.bias"])


@pytest.mark.parametrize("kind", [PointNet2, PointNet2Segmentation])
def test_points_alone_are_enough(kind):
    """Without features of points the coordinates are all that the first level sees.

    Source: Qi et al. 2017, §3.1: d + C with C = 0.
    """
    options = {"levels": LEVELS, "mlp": (4, 6)}
    options |= {"hidden": (5,)} if kind is PointNet2 else {"propagation": ((5,), (4,), (3,))}
    laws.reseed(0)
    module = trained(kind(4, **options))
    found = module(double(2, 8, 3))
    assert found.shape == ((2, 4) if kind is PointNet2 else (2, 8, 4)), f"expected logits, found {tuple(found.shape)}"
    laws.assert_differs(module(double(2, 8, 3, seed=1)), found, by=1e-6)


def test_dropout_acts_after_every_hidden_layer():
    """In training each hidden layer's features are dropped; in evaluation none.

    Source: Qi et al. 2017, supplementary B: FC(512, 0.5) → FC(256, 0.5) → FC(K).
    """
    laws.reseed(0)
    module = model(hidden=(400, 300), dropout=0.5, mlp=(4, 6)).double()
    seen = []
    module.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module.hidden[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    points, features = double(6, 8, 3), double(6, 8, 2, seed=1)
    module(points, features)
    dropped = [(x == 0).double().mean().item() for x in seen]
    module.eval()(points, features)
    kept = [(x == 0).double().mean().item() for x in seen[2:]]
    for which, a, b in zip(("first", "second"), dropped, kept):
        assert a > 0.6 and a - b > 0.1, f"expected half of the {which} hidden layer's features dropped, found {a}, {b}"


@given(seed=seeds(), most=floats(0, 0.95))
def test_dropped_points_become_the_first(seed, most):
    """Each point is itself or the first; the first stays; with `most` 0 nothing changes.

    Source: Qi et al. 2017, §3.3: random input dropout.  Convention: as released, clouds keep their size.
    """
    points = double(3, 20, 3, seed=seed)
    laws.reseed(seed)
    found = drop_points(points, most)
    same, first = (found == points).all(-1), (found == points[:, :1]).all(-1)
    assert (same | first).all() and same[:, 0].all(), "expected points or the first point"
    laws.assert_same(drop_points(points, 0.0), points)


def test_each_cloud_is_thinned_by_its_own_share():
    """Shares θ of dropped points are uniform in [0, most], drawn for each cloud.

    Source: Qi et al. 2017, §3.3: θ uniformly sampled from [0, p], p ≤ 1; p = 0.95.
    """
    laws.reseed(0)
    points = double(400, 500, 2)
    share = (drop_points(points) != points).any(-1).double().mean(1)
    # 400 uniform shares: standard errors of 0.014 for the mean, and 0.007 for the spread
    assert abs(share.mean() - 0.475) < 0.06, f"expected a mean share of 0.475, found {share.mean():.3f}"
    assert abs(share.std() - 0.274) < 0.03, f"expected a spread of 0.274, found {share.std():.3f}"
    assert share.max() < 0.99 and share.min() < 0.05, f"expected shares in [0, 0.95], found {share.max():.3f}"


@pytest.mark.states("cost")
@given(count=sizes(1, 4), n=sizes(4, 7))
def test_cost_is_that_of_the_mlps(count, n):
    """A level takes 2·m·Σ_scales K·Σ_layers c_in·c_out operations, whatever the size of the cloud.

    Source: Qi et al. 2017, §3.2: PointNet on m groups of K points.
    """
    expected = 2 * count * (2 * (5 * 5 + 5 * 4) + 4 * 5 * 3)
    found = cost.flops(abstraction(count=count), cloud(1, n, 3), cloud(1, n, 2))
    assert found == expected, f"expected {expected} operations, found {found}"


@given(seed=seeds(), d=st.sampled_from([2, 4]))
def test_points_may_have_other_dimensions(seed, d):
    """Clouds in the plane or in four dimensions are sampled, grouped and interpolated likewise.

    Source: Qi et al. 2017, §3.1: a metric space.
    """
    laws.reseed(seed)
    module = SetAbstraction(3, (1.5,), (4,), 0, ((5,),), dimensions=d).double().eval()
    points = double(2, 6, d, seed=seed)
    centres, features = module(points)
    assert centres.shape == (2, 3, d) and features.shape == (2, 3, 5)
    index = ball_query(points, centres, 1.5, 4)
    group = torch.stack([one[i] for one, i in zip(points, index)]) - centres[:, :, None]
    laws.assert_close(features, shared_mlp(group, module.state_dict(), "mlps.0.").amax(2))
