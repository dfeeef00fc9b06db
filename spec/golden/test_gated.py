"""Frozen values of GLU, SwiGLU and GEGLU."""

import pytest
import torch

from impl.layers.gated import GEGLU, GLU, SwiGLU
from spec.golden import load


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def check_gradients(module, golden, suffix=""):
    """Check output and the gradients of input and weights against the frozen ones."""
    x = golden["x"].requires_grad_()
    y = module(x)
    golden.check(f"y{suffix}", y)
    names = [n for n, _ in module.named_parameters()]
    found = torch.autograd.grad(y, [x, *module.parameters()], golden["cotangent"])
    for name, gradient in zip(["x", *names], found):
        golden.check(f"slope{suffix}.{name}", gradient)


@pytest.mark.item("glu")
@pytest.mark.parametrize(("dim", "name"), [(-1, "last"), (1, "channels")])
def test_glu_values_and_gradients(dim, name):
    """a ⊗ σ(b) and its gradient, from deep saturation to the middle of the gate, over features and over channels.

    Source: Dauphin et al. 2016, eq. 1 and 3.
    """
    golden = load("glu")
    x = golden[f"x_{name}"].requires_grad_()
    y = GLU(dim)(x)
    golden.check(f"y_{name}", y)
    (gradient,) = torch.autograd.grad(y, x, golden[f"cotangent_{name}"])
    golden.check(f"slope_{name}", gradient)


@pytest.mark.item("swiglu")
@pytest.mark.states("equivalence")
def test_swiglu_is_llamas_layer():
    """LLaMA's weights give LLaMA's output and gradients: (Swish(x W) ⊗ x V) W₂.

    Source: Shazeer 2020, eq. 6; Touvron et al. 2023, arXiv:2302.13971, section 2.2.
    """
    golden = load("swiglu")
    module = SwiGLU(5, 7).double()
    module.load_state_dict(golden.state_dict("weights"))
    check_gradients(module, golden)


@pytest.mark.item("swiglu")
def test_swiglu_has_llamas_width_and_share():
    """Widths 4096, 5120, 6656, 8192 give hidden 11008, 13824, 17920, 22016, and 64 % of LLaMA's parameters.

    Source: Touvron et al. 2023, section 2.2 and table 2: 2/3·4d in multiples of 256. Of LLaMA-7B's 6,738,415,616
    parameters 32 layers of 3·4096·11008 are gated feed-forward; the others are attention, embeddings and norms.
    """
    golden = load("swiglu")
    rest = []
    for n, (d, layers) in enumerate(golden["width_and_layers"].tolist()):
        with torch.device("meta"):
            module = SwiGLU(d, multiple_of=256)
        assert module.gate_proj.weight.shape[0] == golden["hidden"][n]
        rest.append(layers * (4 * d * d + 2 * d) + 2 * 32000 * d + d + layers * parameters(module))
    golden.check("total", torch.tensor(rest))
    share = golden["gated"] / golden["total"]
    assert share.min() > 0.63 and share.max() < 0.68


@pytest.mark.item("geglu")
@pytest.mark.states("equivalence")
@pytest.mark.parametrize(("approximate", "suffix"), [("none", ""), ("tanh", "_tanh")])
def test_geglu_is_gemmas_layer(approximate, suffix):
    """Gemma's weights give Gemma's output and gradients: (GELU(x W) ⊗ x V) W₂, with the exact and with the tanh GELU.

    Source: Shazeer 2020, eq. 6; Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2.
    """
    golden = load("geglu")
    module = GEGLU(5, 7, approximate=approximate).double()
    module.load_state_dict(golden.state_dict("weights"))
    check_gradients(module, golden, suffix)


@pytest.mark.item("geglu")
def test_geglu_leaves_t5s_size_as_it_was():
    """T5 base has 222,903,552 parameters and T5 v1.1 base 247,577,856: the difference is its own head, 32128·768.

    Source: Shazeer 2020, section 2: d_ff from 3072 to 2048 for the gated layers, 24 of them, same size.
    """
    golden = load("geglu")
    with torch.device("meta"):
        module = GEGLU(768)
    plain, gated = golden["total"]
    head = 32128 * 768
    golden.check("feed_forward", torch.tensor([24 * 8 * 768**2, 24 * parameters(module)]))
    golden.check("total", torch.stack([plain, gated - golden["feed_forward"][1] + 24 * parameters(module)]))
    assert gated - plain == head
