"""Golden values of low-rank adaptation: peft's layers, confirmed by jax; trainable parameters of the paper's models.

peft gives the adapter of a convolution neither its dilation nor its groups, so a plain strided one is compared.
"""

import functools

import numpy as np

from spec.golden import Recipe, recipe

ALPHA, RANK = 7.0, 3
STRIDE, PADDING = (2, 1), (1, 2)
# Model → width, layers, and the ranks that the paper trains W_q and W_v with.
PUBLISHED = {
    "roberta_base": (768, 12, (8,)),
    "roberta_large": (1024, 24, (8,)),
    "deberta_xxl": (1536, 48, (16,)),
    "gpt3": (12288, 96, (1, 8)),
}


def _jax_layers():
    """Each layer as a function of x and its weights, in jax, with the sum W₀ + (α/r)·BA as one weight."""
    import jax
    import jax.numpy as jnp

    def linear(x, n):
        return x @ (n["weight"] + ALPHA / RANK * n["lora_B"] @ n["lora_A"]).T + n["bias"]

    def conv(x, n):
        change = jnp.tensordot(n["lora_B"][:, :, 0, 0], n["lora_A"], 1)
        sides = [(p, p) for p in PADDING]
        y = jax.lax.conv_general_dilated(x, n["weight"] + ALPHA / RANK * change, STRIDE, sides)
        return y + n["bias"][:, None, None]

    def embedding(x, n):
        one_hot = jnp.eye(len(n["weight"]))[x]
        return one_hot @ (n["weight"] + ALPHA / RANK * (n["lora_B"] @ n["lora_A"]).T)

    return {"linear": linear, "conv": conv, "embedding": embedding}


def _merged_by_hand(kind, n):
    """W₀ + (α/r)·BA, entry by entry, in NumPy."""
    a, b = n["lora_A"], n["lora_B"]
    if kind == "linear":
        return n["weight"] + ALPHA / RANK * np.einsum("or,ri->oi", b, a)
    if kind == "conv":
        return n["weight"] + ALPHA / RANK * np.einsum("or,rchw->ochw", b[:, :, 0, 0], a)
    return n["weight"] + ALPHA / RANK * np.einsum("dr,rn->nd", b, a)


def _peft_layer(base):
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    model = torch.nn.Sequential(base).double()
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"])
    return inject_adapter_in_model(config, model)[0].double()


def _factors(layer, kind):
    if kind == "embedding":
        return {"lora_A": layer.lora_embedding_A["default"], "lora_B": layer.lora_embedding_B["default"]}
    return {"lora_A": layer.lora_A["default"].weight, "lora_B": layer.lora_B["default"].weight}


def _trainable(width, layers, rank):
    """What peft trains in a model that holds W_q and W_v of every layer; no memory, on the meta device."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    with torch.device("meta"):
        blocks = [
            torch.nn.ModuleDict({n: torch.nn.Linear(width, width) for n in ("q_proj", "v_proj")}) for _ in range(layers)
        ]
        config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"])
        model = inject_adapter_in_model(config, torch.nn.ModuleList(blocks))
    return sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


@recipe(
    "lora",
    oracle="peft's Linear, Conv2d and Embedding in float64, merged weights, and what it trains on the meta device",
    second="the dense layer of W₀ + (α/r)·BA in jax with jax.vjp; merged weights in NumPy; counts by arithmetic",
    needs=("torch", "peft", "jax"),
)
def lora(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import torch

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    bases = {
        "linear": torch.nn.Linear(6, 5),
        "conv": torch.nn.Conv2d(4, 6, (2, 3), stride=STRIDE, padding=PADDING),
        "embedding": torch.nn.Embedding(7, 4),
    }
    inputs = {
        "linear": rng.normal(size=(3, 2, 6)),
        "conv": rng.normal(size=(2, 4, 5, 7)),
        "embedding": rng.integers(0, 7, size=(2, 5)),
    }
    for kind, base in bases.items():
        x = recipe.given(f"{kind}_x", inputs[kind])
        layer = _peft_layer(base)
        leaves = {"weight": base.weight} | ({} if kind == "embedding" else {"bias": base.bias}) | _factors(layer, kind)
        numbers = {}
        for name, leaf in leaves.items():
            numbers[name] = recipe.given(f"{kind}.{name}", rng.normal(size=leaf.shape))
            leaf.data.copy_(torch.from_numpy(numbers[name]))
        base.requires_grad_(False)
        tensor = torch.from_numpy(x)
        if kind != "embedding":
            tensor.requires_grad_()
        y = layer(tensor)
        cotangent = recipe.given(f"{kind}_cotangent", rng.normal(size=y.shape))
        wanted = ([] if kind == "embedding" else [tensor]) + [leaves["lora_A"], leaves["lora_B"]]
        slopes = torch.autograd.grad(y, wanted, torch.from_numpy(cotangent))

        counterpart = functools.partial(_jax_layers()[kind], jnp.asarray(x))
        second, pull = jax.vjp(counterpart, jax.tree.map(jnp.asarray, numbers))
        (second_slopes,) = pull(jnp.asarray(cotangent))
        recipe.expect(f"{kind}_y", y, second=second)
        if kind != "embedding":
            _, pull = jax.vjp(functools.partial(_jax_layers()[kind], n=numbers), jnp.asarray(x))
            recipe.expect(f"{kind}_slope_x", slopes[0], second=pull(jnp.asarray(cotangent))[0])
        for name, slope in zip(("lora_A", "lora_B"), slopes[-2:]):
            recipe.expect(f"{kind}_slope_{name}", slope, second=second_slopes[name])
        layer.merge()
        recipe.expect(f"{kind}_merged", base.weight, second=_merged_by_hand(kind, numbers))

    for name, (width, layers, ranks) in PUBLISHED.items():
        for rank in ranks:
            count = layers * 2 * rank * (width + width)
            recipe.expect(f"trainable_{name}_{rank}", _trainable(width, layers, rank), second=count)
