"""Convolution, dilated and depthwise separable, against torch's and jax's kernels and the papers' tables."""

import pytest
import torch
from torch import nn

from impl.layers.convolution import ContextModule, Conv2d, DepthwiseSeparableConv2d
from spec import cost
from spec.golden import load

dilated, separable = pytest.mark.item("dilated-conv"), pytest.mark.item("depthwise-separable-conv")


def check_derivatives(golden, tag, module):
    """Output, gradients to input, weight and bias, and a second derivative across input and weight, as frozen."""
    module = module.double()
    module.load_state_dict(golden.state_dict(f"weights_{tag}"))
    x = golden[f"x_{tag}"].requires_grad_()
    y = module(x)
    golden.check(f"y_{tag}", y)
    grads = torch.autograd.grad(y, [x, module.weight, module.bias], golden[f"cotangent_{tag}"], create_graph=True)
    for name, grad in zip(("dx", "dweight", "dbias"), grads, strict=True):
        golden.check(f"{name}_{tag}", grad)
    (curvature,) = torch.autograd.grad(grads[0], module.weight, golden[f"tangent_{tag}"])
    golden.check(f"curvature_{tag}", curvature)


@dilated
@pytest.mark.parametrize(
    ("tag", "arguments"),
    [
        ("plain", (3, 4, (3, 2), (1, 1), (1, 2))),
        ("dilated", (3, 2, (3, 2), (1, 1), (2, 1), (2, 3))),
        ("strided", (2, 4, (2, 3), (2, 3), (0, 1), (3, 2))),
        ("grouped", (4, 6, (2, 3), (1, 2), (1, 0), (2, 1), 2)),
    ],
)
def test_convolution_agrees(tag, arguments):
    """y, ∂x, ∂w, ∂b and ∂²/∂x∂w are those of two other libraries, with everything different along height and width.

    Source: Yu & Koltun 2015, eq. 2; torch.nn.functional.conv2d, jax.lax.conv_general_dilated.
    Convention: the kernel is not flipped.
    """
    check_derivatives(load("dilated-conv"), tag, Conv2d(*arguments))


@dilated
def test_receptive_fields_of_the_context_module():
    """The eight layers' outputs depend on 3, 5, 9, 17, 33, 65, 67, 67 pixels a side, as the paper's table says.

    Source: Yu & Koltun 2015, table 1, row "Receptive field".
    """
    module = ContextModule(1).double()
    x = torch.randn(1, 1, 75, 75, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    y, sides = x, []
    for layer in module.layers:
        layer.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(sides)))
        y = layer(y)
        (gradient,) = torch.autograd.grad(y[0, 0, 37, 37], x, retain_graph=True)
        sides.append(int((gradient != 0).any(dim=3).sum()))
    load("dilated-conv").check("receptive_fields", torch.tensor(sides))


@dilated
@pytest.mark.parametrize("channels", [3, 21])
def test_context_module_has_64_weights_for_each_pair_of_channels(channels):
    """7·3²·C² + C² = 64·C² weights, and 8·C biases.

    Source: Yu & Koltun 2015, §3: the basic module has only 64C² parameters; C = 21 for Pascal VOC.
    """
    with torch.device("meta"):
        module = ContextModule(channels)
    found = sum(p.numel() for p in module.parameters())
    assert found == 64 * channels**2 + 8 * channels, f"expected 64·C² + 8·C parameters, found {found}"


@separable
def test_depthwise_convolution_agrees():
    """With a kernel for each channel y, ∂x, ∂w, ∂b and ∂²/∂x∂w are those of two other libraries.

    Source: Howard et al. 2017, eq. 3; torch.nn.functional.conv2d, jax.lax.conv_general_dilated.
    Convention: groups = in_channels; output m·d + i is kernel i of channel m.
    """
    module = DepthwiseSeparableConv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2), depth_multiplier=2, bias=True)
    check_derivatives(load("depthwise-separable-conv"), "depthwise", module.depthwise)


@separable
def test_separable_convolution_agrees():
    """Both halves in a row give what two other libraries give.

    Source: Howard et al. 2017, eq. 3 and §3.1.  Convention: nothing between the halves, no bias by default.
    """
    golden = load("depthwise-separable-conv")
    module = DepthwiseSeparableConv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2), depth_multiplier=2).double()
    module.load_state_dict(golden.state_dict("weights_separable"))
    golden.check("y_separable", module(golden["x_separable"]))


# Howard et al. 2017, table 1: width of the outputs and stride of each block.
BODY = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


class Classifier(nn.Sequential):
    """MobileNet's plan with a kind of block."""

    def __init__(self, block, width):
        inputs = int(32 * width)
        layers = [Conv2d(3, inputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU()]
        for outputs, stride in BODY:
            layers += block(inputs, int(outputs * width), stride)
            inputs = int(outputs * width)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def separable_block(inputs, outputs, stride):
    layer = DepthwiseSeparableConv2d(inputs, outputs, 3, stride=stride, padding=1)
    halves = (layer.depthwise, inputs), (layer.pointwise, outputs)
    return [module for half, width in halves for module in (half, nn.BatchNorm2d(width), nn.ReLU())]


def full_block(inputs, outputs, stride):
    convolution = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


@separable
@pytest.mark.parametrize(
    ("tag", "block", "width", "million_weights", "million_multiplications"),
    [
        ("100", separable_block, 1.0, 4.2, 569),
        ("75", separable_block, 0.75, 2.6, 325),
        ("50", separable_block, 0.5, 1.3, 149),
        ("25", separable_block, 0.25, 0.5, 41),
        ("full", full_block, 1.0, 29.3, 4866),
    ],
)
def test_mobilenet_has_the_size_of_the_paper(tag, block, width, million_weights, million_multiplications):
    """MobileNet at 224×224 has the parameters and multiply-adds of the paper, for four widths and with full kernels.

    Source: Howard et al. 2017, tables 1, 4 and 6: 4.2 M and 569 M at full width; 29.3 M and 4866 M with full kernels.
    Convention: no bias before a batch normalization; a multiply-add counts once.
    """
    golden = load("depthwise-separable-conv")
    with torch.device("meta"):
        network, image = Classifier(block, width), torch.empty(2, 3, 224, 224)
    parameters = sum(p.numel() for p in network.parameters())
    needed = []
    for layer in network.modules():
        if getattr(getattr(layer, "weight", None), "ndim", 0) > 1:
            # Each element of the output is a sum over one kernel.
            layer.register_forward_hook(lambda m, _, out: needed.append(out.numel() * m.weight[0].numel()))
    counted = cost.flops(network, image) / 2
    multiplications = sum(needed) // 2
    # On maps of 7×7 the positions over the ends of the rows count: measured 1.11 with full kernels, 1.00 with others.
    # A kernel of one channel may be products of elements, which are not counted.
    assert counted < 1.15 * sum(needed), f"expected at most {sum(needed)} multiply-adds, counted {counted}"
    golden.check(f"parameters_{tag}", torch.tensor(parameters))
    golden.check(f"multiplications_{tag}", torch.tensor(multiplications))
    assert round(parameters / 1e6, 1) == million_weights, f"expected {million_weights} M, found {parameters}"
    assert abs(multiplications / 1e6 - million_multiplications) < 1.5, (
        f"expected {million_multiplications} M multiplications"
    )
