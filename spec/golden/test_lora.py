"""Frozen values of low-rank adaptation."""

import pytest
import torch
from torch import nn

from impl.layers.lora import LoRAConv2d, LoRAEmbedding, LoRALinear, inject_lora
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("lora")

BUILD = {
    "linear": lambda: LoRALinear(6, 5, r=3, lora_alpha=7.0),
    "conv": lambda: LoRAConv2d(4, 6, (2, 3), r=3, lora_alpha=7.0, stride=(2, 1), padding=(1, 2)),
    "embedding": lambda: LoRAEmbedding(7, 4, r=3, lora_alpha=7.0),
}


@pytest.mark.parametrize("kind", BUILD)
def test_layers_are_those_of_peft(kind):
    """With peft's weights, outputs, the gradients to the input, A and B, and the merged weight are peft's and jax's.

    Source: Hu et al. 2021, eq. 3; peft's LoraConfig(r=3, lora_alpha=7).
    """
    golden, layer = load("lora"), BUILD[kind]().double()
    layer.load_state_dict(golden.state_dict(kind))
    x = golden[f"{kind}_x"]
    if kind != "embedding":
        x.requires_grad_()
    y = layer(x)
    golden.check(f"{kind}_y", y)
    leaves = ([] if kind == "embedding" else [x]) + [layer.lora_A, layer.lora_B]
    slopes = torch.autograd.grad(y, leaves, golden[f"{kind}_cotangent"])
    if kind != "embedding":
        golden.check(f"{kind}_slope_x", slopes[0])
    golden.check(f"{kind}_slope_lora_A", slopes[-2])
    golden.check(f"{kind}_slope_lora_B", slopes[-1])
    golden.check(f"{kind}_merged", layer.weight + layer.delta_weight())
    layer.eval().merge()
    golden.check(f"{kind}_y", layer(x))


@pytest.mark.parametrize(
    ("name", "width", "layers", "rank", "millions"),
    [
        ("roberta_base", 768, 12, 8, 0.3),
        ("roberta_large", 1024, 24, 8, 0.8),
        ("deberta_xxl", 1536, 48, 16, 4.7),
        ("gpt3", 12288, 96, 1, 4.7),
        ("gpt3", 12288, 96, 8, 37.7),
    ],
)
def test_published_trainable_parameters(name, width, layers, rank, millions):
    """W_q and W_v of every layer: 2·L·r·2d trainable parameters, rounded as the paper prints them, in millions.

    Source: Hu et al. 2021, tables 2 and 4.
    """
    with torch.device("meta"):
        maps = [nn.ModuleDict({n: nn.Linear(width, width) for n in ("query", "value")}) for _ in range(layers)]
        model = inject_lora(nn.ModuleList(maps), ["query", "value"], r=rank)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    load("lora").check(f"trainable_{name}_{rank}", torch.tensor(count))
    assert round(count / 1e6, 1) == millions


def test_two_by_two_by_hand():
    """With W₀ = [[1, 2], [3, 4]], A = [[1, −1]], Bᵀ = [[2, 3]], α = 5, r = 1: W = [[11, −8], [18, −11]].

    Source: Hu et al. 2021, eq. 3, by hand.
    """
    layer = LoRALinear(2, 2, r=1, lora_alpha=5, bias=False).double()
    weights = {"weight": [[1, 2], [3, 4]], "lora_A": [[1, -1]], "lora_B": [[2], [3]]}
    layer.load_state_dict({n: torch.tensor(v, dtype=torch.float64) for n, v in weights.items()})
    found = layer(torch.tensor([1.0, 2.0], dtype=torch.float64))
    laws.assert_close(found, torch.tensor([-5.0, -4.0], dtype=torch.float64))
    merged = torch.tensor([[11.0, -8.0], [18.0, -11.0]], dtype=torch.float64)
    laws.assert_close(layer.weight + layer.delta_weight(), merged)
