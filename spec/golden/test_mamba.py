"""Mamba against transformers, mambapy, jax and scipy."""

import pytest
import torch
from torch import nn

from impl.models.mamba import Mamba, MambaBlock, discretize
from spec.golden import load

pytestmark = pytest.mark.item("mamba")

SIZES = {"d_state": 3, "d_conv": 4, "expand": 2, "dt_rank": 2}


def with_transformers_weights(golden):
    model = Mamba(11, 6, 2, **SIZES).double()
    model.load_state_dict(golden.state_dict("model"))
    return model


def test_transformers_weights_move_over():
    """With transformers' weights, logits, loss and the gradient to every weight are transformers'.

    Source: transformers' MambaForCausalLM in float64; algorithm 2 with its recurrence summed out, in jax.
    Convention: names and shapes are the official code's; the head is the embedding.
    """
    golden = load("mamba")
    model, tokens = with_transformers_weights(golden), golden["tokens"]
    logits = model(tokens)
    golden.check("logits", logits)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    golden.check("loss", loss)
    parameters = dict(model.named_parameters())
    for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values()))):
        golden.check(f"slope.{name}", gradient)


def test_mambapys_weights_move_over():
    """With mambapy's weights, a block's output and the gradients to its input and every weight are mambapy's.

    Source: mambapy's MambaBlock in float64; algorithm 2 with its recurrence summed out, in jax.
    """
    golden = load("mamba")
    block, x = MambaBlock(6, **SIZES).double(), golden["x"].requires_grad_()
    weights = golden.state_dict("block")
    block.load_state_dict(weights)
    assert {n: t.shape for n, t in block.state_dict().items()} == {n: t.shape for n, t in weights.items()}
    output = block(x)
    golden.check("block_y", output)
    gradients = torch.autograd.grad(output, [x, *block.parameters()], golden["cotangent"])
    for name, gradient in zip(["x", *(n for n, _ in block.named_parameters())], gradients, strict=True):
        golden.check(f"block_slope.{name}", gradient)


def test_greedy_text_is_transformers():
    """The 12 most probable tokens after a prompt, generated from the states, are transformers' with its cache.

    Source: transformers' MambaForCausalLM.generate; the most probable of the whole text each time, in jax.
    """
    golden = load("mamba")
    golden.check("generated", with_transformers_weights(golden).generate(golden["tokens"][:, :3], 12))


def test_zero_order_hold_is_scipys():
    """Ā = exp(ΔA) and B̄ = (exp(ΔA) − 1)/A · B for steps from 0.0001 to 7.

    Source: Gu & Dao 2023, eq. 4; scipy.signal.cont2discrete, which takes the exponential of a matrix; mpmath.
    """
    golden = load("mamba")
    decay, weight = discretize(golden["zoh.delta"][:, None], golden["zoh.A"], "zoh")
    golden.check("zoh.decay", decay)
    golden.check("zoh.gain", weight * golden["zoh.B"])


@pytest.mark.parametrize(
    ("name", "width", "layers", "count"),
    [
        ("130m", 768, 24, 129_135_360),
        ("370m", 1024, 48, 371_516_416),
        ("790m", 1536, 48, 793_204_224),
        ("1400m", 2048, 48, 1_372_178_432),
        ("2800m", 2560, 64, 2_768_345_600),
    ],
)
def test_published_sizes_have_their_parameters(name, width, layers, count):
    """The released models of 130M to 2.8B parameters, with 50,280 tokens and one matrix for embedding and head.

    Source: Gu & Dao 2023, table 12; counted in transformers' models on the meta device.
    """
    with torch.device("meta"):
        model = Mamba(50_280, width, layers)
    found = torch.tensor(sum(p.numel() for p in model.parameters()))
    assert found == count, f"expected {count:,}, found {found:,}"
    load("mamba").check(f"parameters_{name}", found)
