"""Golden values of FlashAttention: torch's own kernel of it for CPUs, confirmed by jax and scipy."""

import numpy as np

from spec.golden import Recipe, recipe

# t, s, d_k, d_v; torch's kernel wants one width of keys and values, and aligns causal masks at the top left.
CASES = {"plain": (5, 7), "causal": (9, 9), "later": (4, 11), "masked": (6, 8), "biased": (5, 9), "huge": (7, 6)}
WIDTH = 4


@recipe(
    "flash-attention",
    oracle="torch.ops.aten._scaled_dot_product_flash_attention_for_cpu and its backward in float64: O, L, gradients",
    second="jax: softmax of whole matrices and jax.vjp; scipy.special.logsumexp",
    needs=("torch", "jax", "scipy"),
)
def flash_attention(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import torch
    from scipy.special import logsumexp

    jax.config.update("jax_enable_x64", True)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    for n, (tag, (t, s)) in enumerate(CASES.items()):
        rng = np.random.default_rng(n)
        shapes = {"query": (2, 3, t, WIDTH), "key": (2, 3, s, WIDTH), "value": (2, 3, s, WIDTH)}
        # Scores of about ±70 saturate; much larger ones would make the last digits a matter of the order of sums.
        sizes = (6, 6, 1) if tag == "huge" else (1, 1, 1)
        arrays = [
            recipe.given(f"{k}_{tag}", rng.normal(size=shape) * size) for (k, shape), size in zip(shapes.items(), sizes)
        ]
        cotangent = recipe.given(f"cotangent_{tag}", rng.normal(size=shapes["query"]))
        scale = 0.3 if tag == "biased" else WIDTH**-0.5
        added = np.zeros((1, 1, t, s))  # what the mask adds to the scores
        if tag == "masked":
            mask = rng.random((2, 1, t, s)) < 0.66
            mask[..., 0] = True
            added = np.where(recipe.given("mask", mask), 0, -np.inf)
        elif tag == "biased":
            added = recipe.given("bias", rng.normal(size=(2, 3, t, s)))
        elif tag in ("causal", "later"):
            added = np.where(np.tril(np.ones((t, s), dtype=bool), s - t), 0, -np.inf)[None, None]
        options = {"scale": scale}
        if tag not in ("plain", "causal", "huge"):
            options["attn_mask"] = torch.from_numpy(added).expand(2, 3, t, s).contiguous()
        leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
        output, lse = kernel(*leaves, 0.0, tag == "causal", **options)
        grads = torch.autograd.grad(output, leaves, torch.from_numpy(cotangent))

        def formula(query, key, value, added=added, scale=scale):
            scores = jnp.einsum("bhtd,bhsd->bhts", query, key) * scale + added
            return jnp.einsum("bhts,bhsd->bhtd", jax.nn.softmax(scores, axis=-1), value)

        counterpart, pull = jax.vjp(formula, *map(jnp.asarray, arrays))
        recipe.expect(f"output_{tag}", output, second=counterpart)
        scores = np.einsum("bhtd,bhsd->bhts", *arrays[:2]) * scale + added
        recipe.expect(f"lse_{tag}", lse, second=logsumexp(scores, axis=-1))
        for name, grad, other in zip(shapes, grads, pull(jnp.asarray(cotangent))):
            recipe.expect(f"d_{name}_{tag}", grad, second=other)
