"""PointNet.  Qi, Su, Mo & Guibas 2016, arXiv:1612.00593."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.pointnet import (
    PointNet,
    PointNetEncoder,
    PointNetSegmentation,
    SharedMLP,
    TNet,
    feature_transform_regularizer,
)
from spec import cost, laws
from spec.cases.pointnet import cloud, trained
from spec.strategies import floats, permutations, seeds, sizes, tensors, varied

pytestmark = pytest.mark.item("pointnet")

CLOUDS = varied((2, 7, 3))
TRANSFORMS = pytest.mark.parametrize("transforms", [True, False], ids=["transforms", "no transforms"])


def double(*shape, seed: int = 0):
    return cloud(*shape, seed=seed, dtype=torch.float64)


def encoder(transforms: bool = True, **sizes):
    return trained(PointNetEncoder(**({"in_channels": 3, "width": 2} | sizes), transforms=transforms))


def rotation(angle) -> torch.Tensor:
    """About the third axis; acts on rows."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)


def fixed(tnet, transform):
    """The TNet outputs this transform for every cloud."""
    state = tnet.state_dict()
    state["last.weight"] = torch.zeros_like(state["last.weight"])
    state["last.bias"] = transform.reshape(-1).clone()
    tnet.load_state_dict(state)


# --------------------------------------------------------------------------------------- a function of a set


@pytest.mark.states("symmetry")
@given(x=CLOUDS, order=permutations(7), seed=seeds())
def test_logits_of_a_cloud_do_not_depend_on_the_order_of_its_points(x, order, seed):
    """f(x_π(1) … x_π(n)) = f(x_1 … x_n) for every permutation π, the feature transform included.

    Source: Qi et al. 2016, eq. 1 and §4.2, symmetry function.
    """
    model = trained(PointNet(5, 3, width=2), seed)
    for a, b in zip(model(x[:, order]), model(x)):
        laws.assert_close(a, b)


@pytest.mark.states("symmetry")
@given(x=CLOUDS, order=permutations(7), seed=seeds())
def test_logits_of_points_follow_the_order_of_the_points(x, order, seed):
    """Permuting the points permutes the rows of the segmentation's logits in the same way and changes nothing else.

    Source: Qi et al. 2016, §4.2.
    """
    model = trained(PointNetSegmentation(5, 3, width=2), seed)
    laws.assert_close(model(x[:, order])[0], model(x)[0][:, order])


@given(x=CLOUDS, times=st.lists(sizes(1, 3), min_size=7, max_size=7))
def test_repeating_points_changes_nothing(x, times):
    """A cloud is a set: f of a cloud with points repeated any number of times is f of each point once.

    A mean or a sum over points would weigh the repeated ones more.

    Source: Qi et al. 2016, eq. 1: max pooling.
    """
    model = encoder()
    many = x.repeat_interleave(torch.tensor(times), dim=1)
    for a, b in zip(model(many)[::2], model(x)[::2]):
        laws.assert_close(a, b)


@given(n=sizes(1, 9), seed=seeds())
def test_the_same_weights_take_clouds_of_any_size(n, seed):
    """A network takes clouds of n points for every n >= 1; the logits of a segmentation are (B, n, classes).

    Source: Qi et al. 2016, §4.1: a set of n points.
    """
    x = double(2, n, 3, seed=seed)
    assert trained(PointNet(5, 3, width=1))(x)[0].shape == (2, 5)
    assert trained(PointNetSegmentation(5, 3, width=1))(x)[0].shape == (2, n, 5)


@given(x=CLOUDS, y=varied((2, 4, 3)))
def test_the_feature_of_a_union_is_the_maximum_of_features(x, y):
    """Without transforms u(S ∪ S′) = max(u(S), u(S′)) by feature, and u of a cloud is the maximum over its points.

    Source: Qi et al. 2016, eq. 1 and theorem 2's u = max_i h(x_i).
    """
    model = encoder(transforms=False)
    u, v, both = (model(z)[0] for z in (x, y, torch.cat([x, y], 1)))
    laws.assert_close(both, torch.maximum(u, v))
    alone = torch.stack([model(x[:, [i]])[0] for i in range(7)])
    laws.assert_close(u, alone.amax(0))


# ---------------------------------------------------------------------------------- critical points, upper bound


@TRANSFORMS
@given(x=varied((2, 40, 3)), seed=seeds())
def test_the_critical_points_alone_give_the_feature(transforms, x, seed):
    """f(C_S) = f(S): without its other points a cloud has the same global feature and transform; |C_S| <= K maxima.

    Source: Qi et al. 2016, theorem 2 and (b).  Convention: with transforms, points that attain a maximum of a T-Net
    belong to C_S, since f depends on them.
    """
    model = trained(PointNetEncoder(3, 2, transforms), seed)
    critical = model.critical_points(x)
    assert critical.dtype == torch.bool and critical.shape == x.shape[:2]
    for one, kept in zip(x, critical):
        count = int(kept.sum())
        assert 1 <= count <= 32 * (3 if transforms else 1), f"expected 1 to K critical points, found {count}"
        for a, b in zip(model(one[kept][None])[::2], model(one[None])[::2]):
            laws.assert_close(a, b)


def test_critical_points_are_fewer_than_the_points():
    """Of 200 points of a cloud with 32 maxima at most 32 are critical, and not all critical points can be left out.

    Source: Qi et al. 2016, theorem 2 (b): |C_S| <= K.
    """
    model = trained(PointNetEncoder(3, 2, transforms=False))
    x = double(1, 200, 3)
    kept = model.critical_points(x)[0]
    assert 1 <= kept.sum() <= 32, f"expected 1 to 32 critical points, found {kept.sum()}"
    laws.assert_differs(model(x[:, ~kept])[0], model(x)[0], by=1e-6, what="feature without the critical points")


@TRANSFORMS
@given(x=varied((1, 40, 3)), seed=seeds())
def test_points_within_the_bound_change_nothing(transforms, x, seed):
    """f(S ∪ T) = f(S) for T of N_S; each point of S belongs to N_S.

    Source: Qi et al. 2016, theorem 2 (a): C_S ⊆ S′ ⊆ N_S.
    """
    model = trained(PointNetEncoder(3, 2, transforms), seed)
    assert model.within_bound(x, x).all(), "expected the points of the cloud to lie within their own bound"
    others = 0.5 * double(1, 60, 3, seed=seed)
    inside = model.within_bound(x, others)
    assert inside.dtype == torch.bool and inside.shape == (1, 60)
    more = torch.cat([x, others[:, inside[0]]], 1)
    for a, b in zip(model(more)[::2], model(x)[::2]):
        laws.assert_close(a, b)


def test_points_outside_of_the_bound_change_the_feature():
    """Without transforms, a point is in N_S if and only if adding it leaves the feature the same; both kinds occur.

    Source: Qi et al. 2016, theorem 2.
    """
    model = trained(PointNetEncoder(3, 2, transforms=False))
    x, others = double(1, 12, 3), 1.5 * double(1, 80, 3, seed=1)
    found = model.within_bound(x, others)[0]
    u = model(x)[0]
    same = torch.stack([(model(torch.cat([x, others[:, [i]]], 1))[0] - u).abs().max() < 1e-12 for i in range(80)])
    laws.assert_same(found, same, what="points within the bound")
    assert 0 < found.sum() < 80, f"expected points inside and outside, found {found.sum()} of 80 inside"


def test_two_clouds_of_one_batch_have_their_own_critical_points():
    """In a batch, C_S of each cloud gives that cloud's feature, and what N_S leaves out or lets in does so alone too.

    Where a point lies on the bound to rounding, the two may differ; adding it changes no feature by more than that.

    Source: Qi et al. 2016, theorem 2.
    """
    model = encoder()
    x, others = double(2, 40, 3), double(2, 30, 3, seed=1)
    critical, inside = model.critical_points(x), model.within_bound(x, others)
    for i in range(2):
        u = model(x[[i]])[0]
        assert 1 <= critical[i].sum() < 40, f"expected fewer critical points than points, found {critical[i].sum()}"
        laws.assert_close(model(x[i][critical[i]][None])[0], u, what="feature of the critical points")
        alone = model.within_bound(x[[i]], others[[i]])[0]
        for k in (alone != inside[i]).nonzero().flatten():
            more = model(torch.cat([x[[i]], others[[i]][:, [k]]], 1))[0]
            laws.assert_close(more, u, rtol=0, atol=1e-12, what=f"feature with point {int(k)}, on the bound or not")


# ------------------------------------------------------------------------------------------------- transforms


@pytest.mark.states("limiting case")
@given(x=CLOUDS, seed=seeds())
def test_a_fresh_transform_is_the_identity(x, seed):
    """T(X) = I for every cloud and any weights of the layers before the last, so that training starts without one.

    Source: Qi et al. 2016, supplementary C: the output matrix is initialised as an identity matrix.
    """
    tnet = TNet(3, width=2)
    trained(tnet.point_mlp, seed), trained(tnet.cloud_mlp, seed)
    laws.assert_close(tnet.double().eval()(x), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@given(x=CLOUDS)
def test_a_fresh_network_is_one_without_transforms(x):
    """At initialisation the encoder with transforms has the outputs of the one without, for the same MLPs.

    Source: Qi et al. 2016, supplementary C.
    """
    model, plain = PointNetEncoder(3, 2).double().eval(), encoder(transforms=False)
    model.load_state_dict(model.state_dict() | plain.state_dict())
    laws.assert_all_close(list(model(x)), list(plain(x)))


@given(x=CLOUDS, seed=seeds())
def test_a_transform_depends_on_its_cloud(x, seed):
    """T(X) = γ(max_i h(x_i)), row by row of T: another cloud has another T, and T is that of the same layers by hand.

    Source: Qi et al. 2016, §4.2.  Convention: element (i, j) of T is output i·k + j of the last layer.
    """
    tnet = trained(TNet(3, width=2), seed)
    feature = tnet.cloud_mlp(torch.stack([tnet.point_mlp(one).max(0).values for one in x]))
    flat = feature @ tnet.last.weight.T + tnet.last.bias
    by_hand = torch.stack([torch.stack([flat[:, 3 * i + j] for j in range(3)], -1) for i in range(3)], 1)
    laws.assert_close(tnet(x), by_hand)


@pytest.mark.states("equivalence")
@given(x=CLOUDS, angle=st.sampled_from([0.4, 1.0, 2.2]))
def test_points_are_rows_and_transforms_act_from_the_right(x, angle):
    """x ← x T: a T-Net that outputs Rᵀ undoes the rotation x ← x R, and the outputs are those of x.

    Source: Qi et al. 2016, §4.2.  Convention: row vectors, from the right, as in the authors' code.
    """
    model, turned = encoder(), encoder()
    fixed(model.input_transform, torch.eye(3, dtype=torch.float64))
    fixed(turned.input_transform, rotation(angle).T)
    laws.assert_all_close(list(turned(x @ rotation(angle))), list(model(x)))


@pytest.mark.states("equivalence")
@given(x=CLOUDS, seed=seeds())
def test_the_feature_transform_acts_on_the_local_features(x, seed):
    """local = H A with H the features before: an A that is fixed is returned, and multiplies each point from the right.

    Source: Qi et al. 2016, §4.2 and figure 2: the segmentation gets the features after the transform.
    """
    model, plain = encoder(), encoder()
    a = double(2, 2, seed=seed)
    fixed(model.feature_transform, a)
    fixed(plain.feature_transform, torch.eye(2, dtype=torch.float64))
    laws.assert_close(model(x)[2], a.expand(2, 2, 2))
    laws.assert_close(model(x)[1], plain(x)[1] @ a)


def test_without_transforms_the_returned_matrix_is_the_identity():
    """Without transforms A = I of width w, so that the regularizer of eq. 2 is 0.

    Source: Qi et al. 2016, eq. 2.
    """
    a = encoder(transforms=False, width=3)(double(2, 7, 3))[2]
    laws.assert_close(a, torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.states("limiting case")
@given(a=tensors((2, 3, 3), -3, 3))
def test_the_regularizer_is_the_squared_distance_of_a_a_transposed_from_the_identity(a):
    """‖I − A Aᵀ‖²_F = Σ_ij (δ_ij − ⟨a_i, a_j⟩)² for the rows a_i of each A, one value for each cloud.

    Source: Qi et al. 2016, eq. 2.  Convention: no factor ½, not summed over the batch; tf.nn.l2_loss does both.
    """
    by_hand = [sum((float(i == j) - one[i] @ one[j]) ** 2 for i in range(3) for j in range(3)) for one in a]
    laws.assert_close(feature_transform_regularizer(a), torch.stack(by_hand))


@given(angle=floats(-3, 3), k=sizes(2, 5), factor=floats(0.5, 3))
def test_the_regularizer_of_orthogonal_transforms_is_zero(angle, k, factor):
    """It is 0 for every orthogonal A, a reflection included, and k (1 − a²)² for A = a I: 9k for 2 I.

    Source: Qi et al. 2016, eq. 2.
    """
    turned = rotation(angle) @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    laws.assert_close(feature_transform_regularizer(turned[None]), torch.zeros(1, dtype=torch.float64), atol=1e-12)
    scaled = factor * torch.eye(k, dtype=torch.float64)[None]
    laws.assert_close(
        feature_transform_regularizer(scaled), torch.tensor([k * (1 - factor**2) ** 2], dtype=torch.float64)
    )


@pytest.mark.states("second derivative")
def test_the_regularizer_has_a_second_derivative():
    """First and second derivatives of ‖I − A Aᵀ‖²_F are those of central differences.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(feature_transform_regularizer, double(2, 3, 3), second_order=True)


@pytest.mark.states("gradient routing")
def test_the_regularizer_trains_the_feature_transform_alone():
    """‖I − A Aᵀ‖² of A as returned reaches what A is made of, and no layer after it.

    Source: Qi et al. 2016, eq. 2: the input transform is not regularized, being small.
    """
    model = trained(PointNet(5, 3, width=2)).train()
    loss = feature_transform_regularizer(model(double(3, 7, 3))[1]).sum()
    laws.gradient_reaches(
        loss,
        {"feature transform": model.encoder.feature_transform.last.weight},
        {name: p for name, p in model.named_parameters() if "global_mlp" in name or not name.startswith("encoder")},
    )


# --------------------------------------------------------------------------------------------------- networks


@given(x=varied((2, 3, 5, 3)), seed=seeds())
def test_a_shared_mlp_treats_every_point_alike(x, seed):
    """y = ReLU(BN(W x + b)), layer by layer, over the last dimension: points one by one give what they give together.

    Source: Qi et al. 2016, figure 2: the mlp is shared for each point; all but the last layer have ReLU and batch norm.
    """
    mlp = trained(SharedMLP((3, 5, 4)), seed)
    state, expected = mlp.state_dict(), x
    for n in range(2):
        expected = expected @ state[f"linears.{n}.weight"].T + state[f"linears.{n}.bias"]
        scale = state[f"norms.{n}.weight"] / (state[f"norms.{n}.running_var"] + 1e-5).sqrt()
        expected = ((expected - state[f"norms.{n}.running_mean"]) * scale + state[f"norms.{n}.bias"]).clamp(min=0)
    laws.assert_close(mlp(x), expected)


def test_batch_normalization_counts_the_points_of_all_clouds():
    """In training a shared MLP has the mean and variance of all B·n points, as of one cloud of them.

    Source: Qi et al. 2016, supplementary C; Ioffe & Szegedy 2015, §3.2.
    """
    torch.manual_seed(0)
    mlp = SharedMLP((3, 4)).double().train()
    other, x = copy.deepcopy(mlp), double(2, 5, 3)
    laws.assert_close(mlp(x), other(x.reshape(1, 10, 3)).reshape(2, 5, 4))
    laws.assert_all_close(dict(mlp.state_dict()), dict(other.state_dict()))


@pytest.mark.states("dependence")
def test_each_point_of_a_segmentation_sees_the_whole_cloud():
    """Moving one critical point changes the logits of another point; its own local features are untouched by others.

    Source: Qi et al. 2016, §4.2: local and global information aggregation.
    """
    model = trained(PointNetSegmentation(5, 3, width=2, transforms=False))
    x = double(1, 7, 3)
    encoder = PointNetEncoder(3, 2, transforms=False).double().eval()
    state = model.state_dict()
    encoder.load_state_dict({key: state[f"encoder.{key}"] for key in encoder.state_dict()})
    first = encoder.critical_points(x)[0].nonzero()[0].item()
    moved = x.clone()
    moved[0, first] *= 3
    others = [i for i in range(7) if i != first]
    laws.assert_differs(model(moved)[0][:, others], model(x)[0][:, others], by=1e-6, what="logits of other points")
    laws.assert_close(encoder(moved)[1][:, others], encoder(x)[1][:, others])


@pytest.mark.states("equivalence")
@given(x=CLOUDS, seed=seeds())
def test_a_segmentation_reads_local_features_then_global_ones(x, seed):
    """The logits are last(mlp([local_i, global])) for each point i: 64 + 1024 = 1088 features at the paper's width.

    Source: Qi et al. 2016, figure 2: n × 1088.  Convention: local features first.
    """
    model = trained(PointNetSegmentation(5, 3, width=2), seed)
    feature, local, _ = model.encoder(x)
    rows = torch.stack([torch.cat([local[:, i], feature], 1) for i in range(7)], 1)
    laws.assert_close(model(x)[0], model.last(model.point_mlp(rows)))


@pytest.mark.states("equivalence")
@given(x=CLOUDS, seed=seeds())
def test_a_classifier_reads_the_global_feature(x, seed):
    """The logits are last(mlp(global feature)), and the second output is the encoder's A.

    Source: Qi et al. 2016, figure 2.
    """
    model = trained(PointNet(5, 3, width=2), seed)
    feature, _, a = model.encoder(x)
    laws.assert_all_close(list(model(x)), [model.last(model.cloud_mlp(feature)), a])


def test_dropout_comes_before_the_class_scores_alone():
    """In training with dropout p the logits lose a share p of the last features, scaled by 1/(1 − p); A loses none.

    100 calls of one batch: each of the last features, made visible by an identity as the last layer, is 0 or scaled.

    Source: Qi et al. 2016, supplementary C: dropout on the last fully connected layer, 256 wide, before class scores.
    """
    model = trained(PointNet(8, 3, width=2, transforms=False, dropout=0.25))
    state = model.state_dict()
    state["last.weight"], state["last.bias"] = torch.eye(8).double(), torch.zeros(8).double()
    model.load_state_dict(state)
    x = double(4, 7, 3)
    full = PointNet(8, 3, width=2, transforms=False, dropout=0.0).double().train()
    full.load_state_dict(model.state_dict())
    expected = full(x)[0]
    torch.manual_seed(0)
    found = []
    for _ in range(100):
        model.train().load_state_dict(state)
        found.append(model(x)[0])
    found = torch.stack(found)
    ratio = found[:, expected > 0] / expected[expected > 0]
    kept = ratio != 0
    laws.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.75))
    share = 1 - kept.double().mean().item()
    # 100 × about 16 features: a standard deviation of 0.011.
    assert 0.2 < share < 0.3, f"expected a share near 0.25 to be dropped, found {share:.3f}"


def test_dropout_is_off_in_evaluation_and_three_tenths_by_default():
    """The default drops 0.3 of the last features in training and none in evaluation.

    The features are made 1 and visible by an identity as the last layer: 12,800 of them, a standard deviation of 0.004.

    Source: Qi et al. 2016, supplementary C: keep ratio 0.7.
    """
    torch.manual_seed(0)
    model = PointNet(32, 3, width=8, transforms=False).double().train()
    state = model.state_dict()
    ones = torch.ones(32, dtype=torch.float64)
    state["last.weight"], state["last.bias"] = torch.diag(ones), 0 * ones
    state["cloud_mlp.norms.1.weight"], state["cloud_mlp.norms.1.bias"] = 0 * ones, ones
    model.load_state_dict(state)
    x = double(4, 5, 3)
    dropped = torch.stack([model(x)[0] == 0 for _ in range(100)]).double().mean().item()
    assert abs(dropped - 0.3) < 0.02, f"expected 0.3 of the features to be dropped, found {dropped:.3f}"
    laws.assert_close(model.eval()(x)[0], ones.expand(4, 32))


@pytest.mark.parametrize("make", [PointNet, PointNetSegmentation])
def test_every_parameter_counts_in_evaluation(make):
    """Each parameter, biases before batch normalization included, receives gradient in evaluation.

    Source: a parameter that no gradient reaches is not learned.
    """
    model = trained(make(5, 3, width=6))  # wide enough that no layer's ReLUs are all at 0
    outputs = model(double(4, 30, 3))
    loss = sum((a * b).sum() for a, b in zip(outputs, laws.random_like(list(outputs))))
    laws.gradient_reaches(loss, dict(model.named_parameters()))


@pytest.mark.states("cost")
def test_cost_is_linear_in_the_points_and_that_of_the_paper():
    """FLOPs are linear in n; with 1024 points 148 M multiply-adds without transforms, 440 M with them, within 3 %.

    Source: Qi et al. 2016, table 6 and §5.4: O(N) in the number of points, unlike convolutions of volumes.
    """
    counted = {}
    for transforms in (False, True):
        with torch.device("meta"):
            model = PointNet(40, transforms=transforms).eval()
            counted[transforms] = [cost.flops(model, torch.randn(1, n, 3)) for n in (512, 1024, 1536)]
    for few, some, many in counted.values():
        assert many - some == some - few, f"expected equal differences, found {few}, {some}, {many}"
    for transforms, published in ((False, 148e6), (True, 440e6)):
        found = counted[transforms][1] / 2
        assert abs(found / published - 1) < 0.03, f"expected {published:g} multiply-adds, found {found:g}"
