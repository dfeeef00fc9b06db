"""Golden values of PointNet.  Qi, Su, Mo & Guibas 2016, arXiv:1612.00593."""

import pytest
import torch

from impl.models.pointnet import PointNet, PointNetSegmentation, TNet, feature_transform_regularizer
from spec.golden import load

pytestmark = pytest.mark.item("pointnet")


def filled(model, weights):
    """The weights by the names of the floating-point state, in alphabetical order, one after the other."""
    model = model.double().eval()
    state, at = model.state_dict(), 0
    for name in sorted(name for name, value in state.items() if value.is_floating_point()):
        size = state[name].numel()
        state[name] = weights[at : at + size].reshape(state[name].shape)
        at += size
    assert at == len(weights), f"expected {len(weights)} elements of state, found {at}"
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", ["classifier", "segmentation"])
def test_agrees_with_the_equations_written_out(name):
    """Logits and feature transform of 2 clouds of 6 points, both transforms on, all statistics random.

    Source: Qi et al. 2016, figure 2 and §4.2.  Convention: rows of points, transforms from the right, T row by row.
    """
    golden = load("pointnet")
    model = PointNet(4, 3, width=1) if name == "classifier" else PointNetSegmentation(5, 3, width=1)
    logits, a = filled(model, golden[f"{name}.weights"])(golden["points"])
    golden.check(f"{name}.logits", logits)
    golden.check(f"{name}.transform", a)


def test_the_regularizer_agrees_with_the_frobenius_norm():
    """‖I − A Aᵀ‖²_F of three random matrices of 4 × 4.

    Source: Qi et al. 2016, eq. 2.  Convention: without ½.
    """
    golden = load("pointnet")
    golden.check("regularizer", feature_transform_regularizer(golden["a"]))


@pytest.mark.parametrize(
    "name, count",
    [("no transforms", 819_624), ("transforms", 3_480_049), ("T-Net 3", 803_081), ("T-Net 64", 1_857_344)],
)
def test_sizes_are_the_papers(name, count):
    """40 classes without transforms take 0.8 M parameters, with both 3.5 M: 819,624 and 3,480,049.

    Source: Qi et al. 2016, table 6; the exact counts follow from figure 2 and supplementary C, with biases and norms.
    """
    makes = {
        "no transforms": lambda: PointNet(40, transforms=False),
        "transforms": lambda: PointNet(40),
        "T-Net 3": lambda: TNet(3),
        "T-Net 64": lambda: TNet(64),
    }
    with torch.device("meta"):
        found = sum(p.numel() for p in makes[name]().parameters())
    assert found == count, f"expected {count} parameters, found {found}"


def test_the_segmentation_reads_1088_features():
    """The first layer after the encoder is 512 × 1088, then 256, 128, 128 and the classes.

    Source: Qi et al. 2016, figure 2.
    """
    with torch.device("meta"):
        state = PointNetSegmentation(50).state_dict()
    widths = [tuple(state[f"point_mlp.linears.{n}.weight"].shape) for n in range(4)] + [
        tuple(state["last.weight"].shape)
    ]
    assert widths == [(512, 1088), (256, 512), (128, 256), (128, 128), (50, 128)], f"found {widths}"
