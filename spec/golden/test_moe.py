"""Mixtures of experts against transformers' Mixtral, DeepSeek-V2 and Switch, and jax."""

import pytest
import torch

from impl.layers.moe import MixtureOfExperts, load_balancing_loss, router_z_loss
from spec.golden import load

pytestmark = pytest.mark.item("moe")

OPTIONS = {"mixtral": {"top_k": 2}, "deepseek": {"top_k": 3, "normalize": False, "shared_features": 5}}


@pytest.mark.parametrize("tag", list(OPTIONS))
def test_weights_of_transformers_move_over(tag):
    """With Mixtral's or DeepSeek-V2's weights, output and the gradients to tokens and every weight are transformers'.

    Source: transformers' MixtralSparseMoeBlock and DeepseekV2Moe in float64; all experts on all tokens in jax.
    Convention: names and shapes are transformers', so state dicts move both ways.
    """
    golden = load("moe")
    layer, weights = MixtureOfExperts(6, 4, 5, **OPTIONS[tag]).double(), golden.state_dict(tag)
    assert {n: t.shape for n, t in layer.state_dict().items()} == {n: t.shape for n, t in weights.items()}
    layer.load_state_dict(weights)
    x = golden["x"].requires_grad_()
    output, _ = layer(x)
    golden.check(f"{tag}_y", output)
    slopes = torch.autograd.grad(output, [x, *layer.parameters()], golden["cotangent"])
    for name, slope in zip(["x", *(n for n, _ in layer.named_parameters())], slopes, strict=True):
        golden.check(f"{tag}_slope.{name}", slope)


def test_balance_losses_agree_with_transformers():
    """k times our load-balancing loss, with padding and without, and the z-loss are transformers'.

    Source: transformers' load_balancing_loss_func of Mixtral and router_z_loss_func of Switch.
    Convention: shares of choices sum to 1 here, to k in transformers' function for Mixtral.
    """
    golden = load("moe")
    logits = golden["logits"]
    indices = logits.topk(2).indices
    golden.check("balance_of_two", 2 * load_balancing_loss(logits, indices))
    golden.check("balance_of_two_masked", 2 * load_balancing_loss(logits, indices, golden["mask"]))
    golden.check("z", router_z_loss(logits))


def test_capacity_agrees_with_switch():
    """At a capacity of 2, the tokens that experts take, and the probabilities that scale them, are Switch's.

    Experts are identities, W₂ max(0, W x) with W = [1; −1] and W₂ = [1, −1], so that y_t = g_t x_t.

    Source: transformers' SwitchTransformersTop1Router with expert_capacity=2, and its load_balancing_loss_func.
    """
    golden = load("moe")
    x = golden["switch.x"][0]
    layer = MixtureOfExperts(6, 4, 12, top_k=1, normalize=False, gated=False, capacity_factor=0.8).double()
    one = torch.eye(6, dtype=torch.float64)
    layer.gate.weight.data = golden["switch.weight"]
    layer.experts.up_proj.data = torch.cat([one, -one]).expand(4, 12, 6).clone()
    layer.experts.down_proj.data = torch.cat([one, -one], 1).expand(4, 6, 12).clone()
    output, routing = layer(x)
    scale = (output * x).sum(-1) / x.square().sum(-1)
    golden.check("switch_gates", scale[:, None] * torch.nn.functional.one_hot(routing.indices[:, 0], 4))
    golden.check("switch_balance", load_balancing_loss(routing.logits, routing.indices))


def test_mixtral_8x7b_has_46_702_792_704_parameters():
    """32 layers of 8 experts make 46,702,792,704 parameters with the rest of the model, 12,879,925,248 active a token.

    Source: Jiang et al. 2024, table 1 and §3 (47B, 13B active); counted in transformers' model on the meta device.
    """
    golden = load("moe")
    with torch.device("meta"):
        layer = MixtureOfExperts(4096, 8, 14_336, top_k=2)
    experts = 32 * sum(p.numel() for p in layer.parameters())
    golden.check("mixtral_experts", torch.tensor(experts))
    assert experts + golden["mixtral_rest"] == 46_702_792_704, f"found {experts + golden['mixtral_rest']:,}"
    idle = 32 * sum(p[0].numel() for p in layer.experts.parameters()) * 6
    assert experts - idle + golden["mixtral_rest"] == 12_879_925_248, f"found {experts - idle:,} active in layers"
