"""Golden values of PointNet++.  Qi, Yi, Su & Guibas 2017, arXiv:1706.02413."""

import pytest
import torch

from impl.models.pointnet2 import (
    MULTI_SCALE,
    SINGLE_SCALE,
    PointNet2,
    SetAbstraction,
    ball_query,
    farthest_point_sample,
    interpolate,
)
from spec.golden import load

pytestmark = pytest.mark.item("pointnet2")


def test_samples_and_balls_are_those_of_fpsample_and_scipy():
    """Eight of forty points and the six first points within 0.7 of each are the libraries' indices.

    Source: Qi et al. 2017, §3.2; fpsample, scipy's cKDTree.
    """
    golden = load("pointnet2")
    points = golden["points"][None]
    samples = farthest_point_sample(points, 8)
    golden.check("samples", samples[0])
    golden.check("balls", ball_query(points, points[:, samples[0]], 0.7, 6)[0])


def test_abstraction_and_propagation_give_the_libraries_numbers():
    """Features of one level, the gradient of their squares, and interpolated features equal the libraries'.

    Source: Qi et al. 2017, §3.2 and eq. 2; torch_geometric's PointNetConv, scikit-learn's KNeighborsRegressor.
    """
    golden = load("pointnet2")
    module = SetAbstraction(8, (0.7,), (6,), 2, ((4, 3),)).double()
    state = {name: golden[name.removeprefix("mlps.0.")] for name in module.state_dict() if "batches" not in name}
    module.load_state_dict(state, strict=False)
    features = golden["features"].requires_grad_()
    centres, found = module.eval()(golden["points"][None], features[None])
    assert torch.equal(centres[0], golden["points"][farthest_point_sample(golden["points"][None], 8)[0]])
    golden.check("abstraction", found[0])
    golden.check("gradient", torch.autograd.grad(found.square().sum(), features)[0])
    means = interpolate(golden["others"][None], golden["known"][None], golden["features"][None, :8])
    golden.check("interpolated", means[0])


@pytest.mark.parametrize(("levels", "expected"), [(SINGLE_SCALE, 1_475_688), (MULTI_SCALE, 1_747_368)])
def test_published_sizes(levels, expected):
    """With 40 classes the single-scale network has 1,475,688 parameters, the multi-scale one 1,747,368.

    Source: Qi et al. 2017, supplementary B: 512 and 128 centres, radii 0.2 and 0.4, or 0.1 to 0.8 at three scales.
    """
    with torch.device("meta"):
        found = sum(p.numel() for p in PointNet2(40, levels).parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
