"""Golden values of the gated linear units."""

import numpy as np

from spec.golden import Recipe, recipe

D_IN, HIDDEN = 5, 7


@recipe("glu", oracle="torch.nn.GLU in float64", second="jax.nn.glu, jax.grad", needs=("torch", "jax"))
def glu(recipe: Recipe) -> None:
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(1)
    for dim, shape in (("last", (3, 8)), ("channels", (2, 6, 4, 3))):
        axis = -1 if dim == "last" else 1
        # From deep saturation to the middle of the gate.
        x = recipe.given(f"x_{dim}", rng.normal(size=shape) * rng.choice([0.1, 1, 10], size=shape))
        leaf = torch.from_numpy(x).requires_grad_()
        y = torch.nn.GLU(axis)(leaf)
        cotangent = recipe.given(f"cotangent_{dim}", rng.normal(size=y.shape))
        (slope,) = torch.autograd.grad(y, leaf, torch.from_numpy(cotangent))
        second, pull = jax.vjp(lambda t: jax.nn.glu(t, axis=axis), x)  # noqa: B023
        recipe.expect(f"y_{dim}", y, second=second)
        recipe.expect(f"slope_{dim}", slope, second=pull(cotangent)[0])


def _layer(recipe: Recipe, seed: int):
    """An input, the three weights in LLaMA's names, and a cotangent."""
    rng = np.random.default_rng(seed)
    x = recipe.given("x", rng.normal(size=(2, 3, D_IN)) * 2)
    weights = {
        "gate_proj.weight": recipe.given("weights.gate_proj.weight", rng.normal(size=(HIDDEN, D_IN))),
        "up_proj.weight": recipe.given("weights.up_proj.weight", rng.normal(size=(HIDDEN, D_IN))),
        "down_proj.weight": recipe.given("weights.down_proj.weight", rng.normal(size=(D_IN, HIDDEN))),
    }
    return x, weights, recipe.given("cotangent", rng.normal(size=x.shape))


def _expect(recipe: Recipe, suffix: str, layer, activation, x, weights, cotangent):
    """Output and gradients of a transformers layer, with the formula in JAX as the second derivation."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    layer = layer.double()
    layer.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
    leaf = torch.from_numpy(x).requires_grad_()
    y = layer(leaf)
    names = list(weights)
    slopes = torch.autograd.grad(y, [leaf, *(layer.get_parameter(n) for n in names)], torch.from_numpy(cotangent))

    def formula(x, w, v, down):
        return (activation(x @ w.T) * (x @ v.T)) @ down.T

    second, pull = jax.vjp(formula, x, *weights.values())
    recipe.expect(f"y{suffix}", y, second=second)
    for name, slope, other in zip(["x", *names], slopes, pull(cotangent), strict=True):
        recipe.expect(f"slope{suffix}.{name}", slope, second=other)


def _config(activation: str, d_in=D_IN, hidden=HIDDEN):
    from types import SimpleNamespace

    return SimpleNamespace(
        hidden_size=d_in, intermediate_size=hidden, hidden_act=activation, hidden_activation=activation, mlp_bias=False
    )


@recipe(
    "swiglu",
    oracle="transformers LlamaMLP in float64; LlamaForCausalLM of the published sizes on the meta device",
    second="jax.nn.silu and jax.vjp; the parameter counts by arithmetic",
    needs=("torch", "transformers", "jax"),
)
def swiglu(recipe: Recipe) -> None:
    import jax
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaMLP

    x, weights, cotangent = _layer(recipe, seed=2)
    _expect(recipe, "", LlamaMLP(_config("silu")), jax.nn.silu, x, weights, cotangent)

    # Touvron et al. 2023, arXiv:2302.13971, table 2: width, layers; the hidden widths are the released weights'.
    table = {"7B": (4096, 32, 11008), "13B": (5120, 40, 13824), "33B": (6656, 60, 17920), "65B": (8192, 80, 22016)}
    sizes = {name: (d, layers) for name, (d, layers, _) in table.items()}
    recipe.given("width_and_layers", np.array(list(sizes.values())))
    counts, shares, by_hand = [], [], []
    for d, layers, hidden in table.values():
        config = LlamaConfig(
            hidden_size=d, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=d // 128
        )
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        counts.append(sum(p.numel() for p in model.parameters()))
        shares.append(sum(p.numel() for n, p in model.named_parameters() if ".mlp." in n))
        by_hand.append((layers * 3 * d * hidden, layers * (4 * d * d + 2 * d) + 2 * 32000 * d + d))
    recipe.expect("hidden", np.array([hidden for _, _, hidden in table.values()]))
    recipe.expect("total", np.array(counts), second=np.array([gated + rest for gated, rest in by_hand]))
    recipe.expect("gated", np.array(shares), second=np.array([gated for gated, _ in by_hand]))


@recipe(
    "geglu",
    oracle="transformers GemmaMLP in float64; T5ForConditionalGeneration of the published sizes on the meta device",
    second="jax.nn.gelu and jax.vjp; the parameter counts by arithmetic",
    needs=("torch", "transformers", "jax"),
)
def geglu(recipe: Recipe) -> None:
    from functools import partial

    import jax
    import torch
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.models.gemma.modeling_gemma import GemmaMLP

    x, weights, cotangent = _layer(recipe, seed=3)
    for suffix, name, approximate in (("", "gelu", False), ("_tanh", "gelu_pytorch_tanh", True)):
        activation = partial(jax.nn.gelu, approximate=approximate)
        _expect(recipe, suffix, GemmaMLP(_config(name)), activation, x, weights, cotangent)

    # Base size: Raffel et al. 2020, arXiv:1910.10683, section 3.1.1, with ReLU and a tied head, against version 1.1,
    # with the gated layer of Shazeer 2020 and a head of its own.
    common = {"vocab_size": 32128, "d_model": 768, "d_kv": 64, "num_heads": 12, "num_layers": 12}
    plain = T5Config(**common, d_ff=3072, feed_forward_proj="relu")
    gated = T5Config(**common, d_ff=2048, feed_forward_proj="gated-gelu")
    totals, shares = [], []
    for config in (plain, gated):
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        # The library shares the head with the embedding in both; the weights of version 1.1 have one more matrix.
        own_head = model.lm_head.weight.numel() if config is gated else 0
        totals.append(sum(p.numel() for p in model.parameters()) + own_head)
        shares.append(sum(p.numel() for n, p in model.named_parameters() if "DenseReluDense" in n))
    d, attention = 768, 4 * 768 * 768
    blocks = 12 * (attention + 2 * d) + 12 * (2 * attention + 3 * d) + 2 * (32 * 12 + d)
    layers = [24 * 2 * d * 3072, 24 * 3 * d * 2048]
    heads = [32128 * d, 2 * 32128 * d]
    recipe.expect("total", np.array(totals), second=np.array([blocks + a + b for a, b in zip(layers, heads)]))
    recipe.expect("feed_forward", np.array(shares), second=np.array(layers))
