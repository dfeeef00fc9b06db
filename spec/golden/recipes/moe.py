"""Golden values of mixtures of experts: transformers' Mixtral, Switch and DeepSeek-V2, confirmed by jax.

Weights are frozen under transformers' names, which are ours. Its routers take the softmax in float32 whatever they are
given; the recipe lifts that cast, so that the values are float64 throughout.
"""

from unittest import mock

import numpy as np

from spec.golden import Recipe, recipe

WIDTH, HIDDEN, EXPERTS, SHARED = 6, 5, 4, 7


def _dense(jax, x, w, top_k, renormalised, shared=False):
    """Every expert reads every token; what was not chosen is multiplied by zero."""
    jnp = jax.numpy
    logits = x @ w["gate.weight"].T
    order = jnp.argsort(-logits, -1)[..., :top_k]
    chosen = jax.nn.one_hot(order, EXPERTS).sum(-2)
    odds = jnp.exp(logits)
    gates = odds * chosen / (odds * (chosen if renormalised else 1)).sum(-1, keepdims=True)
    both = jnp.einsum("btd,ehd->bteh", x, w["experts.gate_up_proj"])
    inside = jax.nn.silu(both[..., :HIDDEN]) * both[..., HIDDEN:]
    y = jnp.einsum("bte,bteh,edh->btd", gates, inside, w["experts.down_proj"])
    if shared:
        parts = (w[f"shared_experts.{name}.weight"] for name in ("gate_proj", "up_proj", "down_proj"))
        gate, up, down = parts
        y = y + (jax.nn.silu(x @ gate.T) * (x @ up.T)) @ down.T
    return y


def _blocks():
    from transformers import DeepseekV2Config, MixtralConfig
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    mixtral = MixtralConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    deepseek = DeepseekV2Config(
        hidden_size=WIDTH,
        moe_intermediate_size=HIDDEN,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=3,
        n_shared_experts=1,
        num_attention_heads=2,
        topk_method="greedy",
        routed_scaling_factor=1.0,
        mlp_bias=False,
    )
    return {
        "mixtral": (MixtralSparseMoeBlock(mixtral), 2, True, False),
        "deepseek": (DeepseekV2Moe(deepseek), 3, False, True),
    }


@recipe(
    "moe",
    oracle="transformers MixtralSparseMoeBlock, DeepseekV2Moe, load_balancing_loss_func, Switch's router and losses",
    second="all experts on all tokens, masked, in jax with jax.vjp; losses and capacity by loops in NumPy",
    needs=("torch", "transformers", "jax"),
)
def moe(recipe: Recipe) -> None:
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x = recipe.given("x", rng.normal(size=(2, 9, WIDTH)))
    cotangent = recipe.given("cotangent", rng.normal(size=x.shape))
    lifted = mock.patch.object(torch.Tensor, "float", torch.Tensor.double)
    with lifted, mock.patch.object(torch, "float32", torch.float64):
        for tag, (block, top_k, renormalised, shared) in _blocks().items():
            weights = {
                name: recipe.given(f"{tag}.{name}", 0.8 * rng.normal(size=old.shape))
                for name, old in block.state_dict().items()
            }
            block = block.double()
            block.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
            leaf = torch.from_numpy(x).requires_grad_()
            output = block(leaf)
            names = ["x", *(name for name, _ in block.named_parameters())]
            slopes = torch.autograd.grad(output, [leaf, *block.parameters()], torch.from_numpy(cotangent))
            counterparts = {name: jax.numpy.asarray(w) for name, w in weights.items()}
            call = lambda x, w, k=top_k, r=renormalised, s=shared: _dense(jax, x, w, k, r, s)  # noqa: E731
            second, pull = jax.vjp(call, jax.numpy.asarray(x), counterparts)
            of_x, of_weights = pull(jax.numpy.asarray(cotangent))
            recipe.expect(f"{tag}_y", output, second=second)
            for name, slope in zip(names, slopes, strict=True):
                recipe.expect(f"{tag}_slope.{name}", slope, second=of_x if name == "x" else of_weights[name])
        _losses(recipe, rng)
        _switch(recipe, rng)
    _parameters(recipe)


def _losses(recipe, rng):
    import torch
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
    from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

    logits = recipe.given("logits", rng.normal(size=(3, 7, EXPERTS)))
    mask = recipe.given("mask", np.arange(7) < np.array([7, 4, 2])[:, None])
    odds = np.exp(logits)
    probabilities = odds / odds.sum(-1, keepdims=True)
    for tag, weight in (("", np.ones((3, 7))), ("_masked", mask)):
        flat = (torch.from_numpy(logits.reshape(-1, EXPERTS)),)
        found = load_balancing_loss_func(flat, EXPERTS, 2, None if tag == "" else torch.from_numpy(mask))
        share, mean = np.zeros(EXPERTS), np.zeros(EXPERTS)
        for n, t in zip(*np.nonzero(weight)):
            share[np.argsort(-logits[n, t])[:2]] += 1 / weight.sum()
            mean += probabilities[n, t] / weight.sum()
        recipe.expect(f"balance_of_two{tag}", found, second=EXPERTS * (share * mean).sum())
    recipe.expect("z", router_z_loss_func(torch.from_numpy(logits)), second=np.mean(np.log(odds.sum(-1)) ** 2))


def _switch(recipe, rng):
    """Which tokens find a place, and what they are scaled by, in one text of 10 tokens, 2 places an expert."""
    import torch
    from transformers import SwitchTransformersConfig
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        SwitchTransformersTop1Router,
        load_balancing_loss_func,
    )

    config = SwitchTransformersConfig(
        hidden_size=WIDTH, num_experts=EXPERTS, expert_capacity=2, router_dtype="float32", router_bias=False
    )
    router = SwitchTransformersTop1Router(config).double().eval()
    weight = recipe.given("switch.weight", rng.normal(size=(EXPERTS, WIDTH)))
    router.classifier.weight.data = torch.from_numpy(weight)
    x = recipe.given("switch.x", rng.normal(size=(1, 10, WIDTH)))
    kept, scale, logits = router(torch.from_numpy(x))
    odds = np.exp(x[0] @ weight.T)
    probabilities = odds / odds.sum(-1, keepdims=True)
    second, room = np.zeros((10, EXPERTS)), [2] * EXPERTS
    for t, best in enumerate(odds.argmax(-1)):
        if room[best]:
            second[t, best] = probabilities[t, best]
            room[best] -= 1
    recipe.expect("switch_gates", (kept * scale)[0], second=second)
    everyone = torch.from_numpy(odds.argmax(-1))[None, :, None]
    loss = load_balancing_loss_func(logits.softmax(-1), everyone)
    share = np.bincount(odds.argmax(-1), minlength=EXPERTS) / 10
    recipe.expect("switch_balance", loss, second=EXPERTS * (share * probabilities.mean(0)).sum())


def _parameters(recipe):
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig())
    total = sum(p.numel() for p in model.parameters())
    inside = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    attention = 4096 * 4096 * 2 + 4096 * 1024 * 2
    rest = 32 * (attention + 2 * 4096) + 2 * 32_000 * 4096 + 4096
    recipe.expect("mixtral_experts", inside, second=32 * (8 * 3 * 4096 * 14_336 + 8 * 4096))
    recipe.expect("mixtral_rest", total - inside, second=rest)
