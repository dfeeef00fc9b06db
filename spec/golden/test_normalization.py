"""The normalizations against torch's kernels, flax and sums by hand: values, two derivatives, running statistics."""

import pytest
import torch

from impl.layers.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from spec.golden import load

EPS = 0.1


def check_derivatives(golden, tag, module, affine=True):
    """Output, gradient to the input and to γ and β, and a product with the second derivative, as frozen."""
    module = module.double()
    if affine:
        module.load_state_dict(module.state_dict() | golden.state_dict(f"weights_{tag}"))
    x = golden[f"x_{tag}"].requires_grad_()
    output = module(x)
    golden.check(f"y_{tag}", output)
    leaves = [x, module.weight, module.bias] if affine else [x]
    grads = torch.autograd.grad(output, leaves, golden[f"cotangent_{tag}"], create_graph=True)
    for name, grad in zip(("dx", "dweight", "dbias") if affine else ("dx",), grads, strict=True):
        golden.check(f"{name}_{tag}", grad)
    (curvature,) = torch.autograd.grad(grads[0], x, golden[f"tangent_{tag}"])
    golden.check(f"curvature_{tag}", curvature)


# ---------------------------------------------------------------------------------------------- batch norm


@pytest.mark.item("batch-norm")
@pytest.mark.parametrize(
    ("tag", "kind"), [("0d", BatchNorm1d), ("1d", BatchNorm1d), ("2d", BatchNorm2d), ("3d", BatchNorm3d)]
)
def test_batch_norm_agrees_in_training(tag, kind):
    """In training, y, ∂x, ∂γ, ∂β and a second derivative are those of two other libraries.

    Source: Ioffe & Szegedy 2015, Alg. 1 and the chain rule of §3; torch.nn.BatchNorm*, flax.linen.BatchNorm.
    Convention: eps inside the root, biased variance.
    """
    golden = load("batch-norm")
    check_derivatives(golden, tag, kind(golden[f"x_{tag}"].shape[1], eps=EPS))


@pytest.mark.item("batch-norm")
@pytest.mark.parametrize(("tag", "momentum"), [("momentum", 0.3), ("average", None)])
def test_running_statistics_after_three_batches(tag, momentum):
    """After three different batches running_mean, running_var and the evaluation by them are the frozen ones.

    Source: Ioffe & Szegedy 2015, Alg. 2, lines 8-11: Var[x] = m/(m−1)·E[σ²].
    Convention: running ← (1 − momentum)·running + momentum·new, from 0 and 1; None is the plain average.
    """
    golden = load("batch-norm")
    module = BatchNorm2d(3, eps=EPS, momentum=momentum).double()
    module.load_state_dict(module.state_dict() | golden.state_dict("weights_tracked"))
    for batch in golden["batches"]:
        module(batch)
    golden.check(f"running_mean_{tag}", module.running_mean)
    golden.check(f"running_var_{tag}", module.running_var)
    golden.check(f"evaluated_{tag}", module.eval()(golden["batches"][0]))


# ---------------------------------------------------------------------------------------------- layer norm


@pytest.mark.item("layer-norm")
@pytest.mark.parametrize(("tag", "trailing"), [("one", 1), ("two", 2), ("three", 3)])
def test_layer_norm_agrees(tag, trailing):
    """Over one, two and three trailing dimensions, y, ∂x, ∂γ, ∂β and a second derivative are those of other libraries.

    Source: Ba, Kiros & Hinton 2016, eq. 3 and 4; torch.nn.LayerNorm, flax.linen.LayerNorm.
    Convention: eps inside the root, biased variance, a γ and a β for each feature.
    """
    golden = load("layer-norm")
    check_derivatives(golden, tag, LayerNorm(tuple(golden[f"x_{tag}"].shape[-trailing:]), eps=EPS))


@pytest.mark.item("layer-norm")
@pytest.mark.states("limiting case")
def test_layer_norm_of_one_two_three_four():
    """LN([1, 2, 3, 4]) = [−3, −1, 1, 3]/√5 for ε = 0: centred values ∓3/2, ∓1/2 over σ = √5/2.

    Source: Ba, Kiros & Hinton 2016, eq. 3, worked by hand.  Convention: biased variance, 5/4 and not 5/3.
    """
    golden = load("layer-norm")
    golden.check("y_counted", LayerNorm(4, eps=0.0).double()(golden["x_counted"]))


# ---------------------------------------------------------------------------------------------- instance norm


@pytest.mark.item("instance-norm")
@pytest.mark.parametrize(("tag", "kind"), [("1d", InstanceNorm1d), ("2d", InstanceNorm2d), ("3d", InstanceNorm3d)])
def test_instance_norm_agrees(tag, kind):
    """With γ and β, y, ∂x, ∂γ, ∂β and a second derivative are those of two other libraries.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2; torch.nn.InstanceNorm*, flax.linen.InstanceNorm.
    Convention: eps inside the root, biased variance.
    """
    golden = load("instance-norm")
    check_derivatives(golden, tag, kind(golden[f"x_{tag}"].shape[1], eps=EPS, affine=True))


@pytest.mark.item("instance-norm")
def test_instance_norm_without_parameters_agrees():
    """By default there are no γ and β, and y, ∂x and a second derivative are those of two other libraries.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2.  Convention: affine=False by default, as in torch.
    """
    check_derivatives(load("instance-norm"), "plain", InstanceNorm2d(2, eps=EPS), affine=False)


@pytest.mark.item("instance-norm")
def test_instance_norm_running_statistics():
    """Tracked statistics are running averages over the batch of each instance's μ and unbiased σ², used in evaluation.

    Source: not in the paper, which normalizes by the instance in testing as well.
    Convention: torch.nn.InstanceNorm2d(track_running_stats=True).
    """
    golden = load("instance-norm")
    module = InstanceNorm2d(3, eps=EPS, momentum=0.3, track_running_stats=True).double()
    for batch in golden["batches"]:
        module(batch)
    golden.check("running_mean", module.running_mean)
    golden.check("running_var", module.running_var)
    golden.check("evaluated", module.eval()(golden["batches"][0]))


# ---------------------------------------------------------------------------------------------- group norm


@pytest.mark.item("group-norm")
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_group_norm_agrees_for_every_number_of_groups(groups):
    """For each G that divides C = 12, y, ∂x, ∂γ, ∂β and a second derivative are those of two other libraries.

    Source: Wu & He 2018, eq. 2, 3 and 7; torch.nn.GroupNorm, flax.linen.GroupNorm.
    Convention: eps inside the root, biased variance, groups of neighbouring channels, a γ and a β per channel.
    """
    check_derivatives(load("group-norm"), f"g{groups}", GroupNorm(groups, 12, eps=EPS))


@pytest.mark.item("group-norm")
@pytest.mark.parametrize(("tag", "groups"), [("0d", 2), ("1d", 3), ("3d", 2)])
def test_group_norm_agrees_in_other_dimensions(tag, groups):
    """Vectors, sequences and volumes are normalized like images: y, ∂x, ∂γ, ∂β and a second derivative agree.

    Source: Wu & He 2018, eq. 7, whose S_i takes in every position; torch.nn.GroupNorm, flax.linen.GroupNorm.
    """
    golden = load("group-norm")
    check_derivatives(golden, tag, GroupNorm(groups, golden[f"x_{tag}"].shape[1], eps=EPS))
