"""Deformable convolution against grid_sample, the paper's double sum, onnx and SciPy."""

import pytest
import torch

from impl.layers.deformable_convolution import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from spec.golden import load

pytestmark = pytest.mark.item("deformable-conv")


@pytest.mark.parametrize(
    ("tag", "stride", "padding", "dilation"),
    [
        ("v1", (1, 2), (2, 1), (1, 1)),
        ("v2", (2, 1), (0, 2), (2, 1)),
        ("grouped", (1, 2), (1, 2), (1, 2)),
        ("crossed", (2, 1), (1, 0), (1, 3)),
    ],
)
def test_deformable_convolution_agrees(tag, stride, padding, dilation):
    """y and the gradients to input, offset, weight and mask are the frozen ones, for groups of channels and of offsets.

    Source: Dai et al. 2017, eq. 2-4; Zhu et al. 2018, eq. 1; torch's grid_sample, onnx's DeformConv.
    Convention: offsets (y, x) for each tap in turn, groups of offsets outermost; zero outside of the image.
    """
    golden = load("deformable-conv")
    x, offset, weight = (golden[f"{name}_{tag}"].requires_grad_() for name in ("x", "offset", "weight"))
    mask = None if tag == "v1" else golden[f"mask_{tag}"].requires_grad_()
    y = deform_conv2d(x, offset, weight, golden[f"bias_{tag}"], stride, padding, dilation, mask)
    golden.check(f"y_{tag}", y)
    leaves = [x, offset, weight] + ([] if mask is None else [mask])
    grads = torch.autograd.grad(y, leaves, golden[f"cotangent_{tag}"])
    for name, grad in zip(("dx", "doffset", "dweight", "dmask"), grads):
        golden.check(f"{name}_{tag}", grad)


def test_an_image_moved_by_a_fraction():
    """Offsets of (0.37, −1.6) for all taps convolve the image that SciPy samples there, zeros around it.

    Source: Dai et al. 2017, eq. 3-4; scipy.ndimage.map_coordinates(order=1, mode="grid-constant").
    """
    golden = load("deformable-conv")
    offset = torch.tensor([0.37, -1.6], dtype=torch.float64).repeat(6)[:, None, None].expand(2, -1, 9, 11)
    golden.check("y_moved", deform_conv2d(golden["x_moved"], offset, golden["weight_moved"], padding=(1, 2)))


@pytest.mark.states("cost")
@pytest.mark.parametrize(("layer", "expected"), [(DeformConv2d, 10_386), (ModulatedDeformConv2d, 15_579)])
def test_size_of_the_offsets_head(layer, expected):
    """For 64 channels and 3×3 taps the offsets cost 18·(9·64 + 1) = 10,386 parameters, v2's 27·(9·64 + 1) = 15,579.

    Source: Dai et al. 2017, §2.1: 2N output channels; Zhu et al. 2018, §3.2: 3K.
    """
    with torch.device("meta"):
        module = layer(64, 32, 3, padding=1)
    found = sum(p.numel() for p in module.parameters()) - (32 * 64 * 9 + 32)
    assert found == expected, f"expected {expected} parameters, found {found}"
