"""Frozen values of quantization-aware training."""

import pytest
import torch

from impl.compression.quantization_aware import QATLinear, fake_quantize, learned_step
from spec.golden import load

pytestmark = pytest.mark.item("quantization-aware-training")


@pytest.mark.parametrize("name", ["tensor", "channel"])
def test_fake_quantization_agrees_with_torch(name):
    """Values and gradients of torch's fake quantization to 4 bits, with one grid and with one a channel.

    Source: Jacob et al. 2017, eq. 12; Bengio et al. 2013, arXiv:1308.3432.
    """
    golden = load("quantization-aware-training")
    x, scales, points = golden["x"].requires_grad_(), golden["scales"], golden["zero_points"]
    one = name == "tensor"
    y = fake_quantize(x, scales[0] if one else scales, points[0] if one else points, 0, 15, 1)
    golden.check(f"y.{name}", y)
    golden.check(f"slope.{name}", torch.autograd.grad(y, x, golden["cotangent"])[0])


@pytest.mark.parametrize(("name", "low", "high", "count"), [("weights", -4, 3, 35), ("activations", 0, 7, 7)])
def test_the_learned_step_is_that_of_the_papers_code(name, low, high, count):
    """Value, ∂v and ∂s are those of the paper's gradscale, roundpass and clip under automatic differentiation.

    Source: Esser et al. 2019, appendix A, code listings 1 to 3.
    """
    golden = load("quantization-aware-training")
    v, s = golden["v"].requires_grad_(), golden["s"].requires_grad_()
    y = learned_step(v, s, low, high, (count * high) ** -0.5)
    golden.check(f"step.{name}.y", y)
    d_v, d_s = torch.autograd.grad(y, (v, s), golden["v_cotangent"])
    golden.check(f"step.{name}.d_v", d_v)
    golden.check(f"step.{name}.d_s", d_s)


def test_the_layer_agrees_with_the_parts_of_torch():
    """After two batches output and gradients are those of torch's observers and fake quantizations around a product.

    Source: Jacob et al. 2017, section 3 and figure 1.1b.
    """
    golden = load("quantization-aware-training")
    layer = QATLinear(5, 4)
    layer.load_state_dict(golden.state_dict("layer"), strict=False)
    first, x = golden["inputs"]
    layer(first)
    x.requires_grad_()
    y = layer(x)
    golden.check("layer_y", y)
    gradients = torch.autograd.grad(y, (x, layer.weight, layer.bias), golden["layer_cotangent"])
    for name, gradient in zip(("x", "weight", "bias"), gradients):
        golden.check(f"layer_slope.{name}", gradient)
