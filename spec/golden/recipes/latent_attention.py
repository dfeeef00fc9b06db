"""Golden values of multi-head latent attention: transformers' DeepSeek-V2, confirmed by jax.

Weights are frozen under DeepSeek's names, which are ours. transformers takes RMSNorm, RoPE and the softmax in float32
whatever it is given; the recipe lifts those casts, so that the values are float64 throughout.
"""

from contextlib import ExitStack
from unittest import mock

import numpy as np

from spec.golden import Recipe, recipe

WIDTH, HEADS, RANK, CONTENT, ROPE, VALUE, QUERY_RANK, LENGTH = 12, 3, 7, 5, 4, 2, 8, 6
SIZES = {"kv_lora_rank": RANK, "qk_nope_head_dim": CONTENT, "qk_rope_head_dim": ROPE, "v_head_dim": VALUE}


def _layer(q_lora_rank, width=WIDTH, heads=HEADS, **sizes):
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention

    config = DeepseekV2Config(
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        q_lora_rank=q_lora_rank,
        attn_implementation="eager",
        **sizes,
    )
    return DeepseekV2Attention(config, layer_idx=0), config


def _formula(x, weights):
    """Appendix C for all samples and heads at once, in jax; RoPE as a rotation matrix of each position."""
    import jax
    import jax.numpy as jnp

    def norm(t, weight):
        return weight * t / jnp.sqrt(jnp.mean(t**2, axis=-1, keepdims=True) + 1e-6)

    place = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, ROPE, 2) / ROPE)
    turn = np.zeros((x.shape[1], ROPE, ROPE))
    for n in range(ROPE // 2):
        block = np.array([[np.cos(place[:, n]), -np.sin(place[:, n])], [np.sin(place[:, n]), np.cos(place[:, n])]])
        turn[:, 2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = block.transpose(2, 0, 1)

    joint = x @ weights["kv_a_proj_with_mqa.weight"].T
    latent = norm(joint[..., :RANK], weights["kv_a_layernorm.weight"])
    rope_key = jnp.einsum("tij,btj->bti", turn, joint[..., RANK:])
    if "q_proj.weight" in weights:
        query = x @ weights["q_proj.weight"].T
    else:
        query = norm(x @ weights["q_a_proj.weight"].T, weights["q_a_layernorm.weight"]) @ weights["q_b_proj.weight"].T
    query = query.reshape(*x.shape[:2], HEADS, CONTENT + ROPE)
    made = (latent @ weights["kv_b_proj.weight"].T).reshape(*x.shape[:2], HEADS, CONTENT + VALUE)
    scores = jnp.einsum("bthd,bshd->bhts", query[..., :CONTENT], made[..., :CONTENT])
    turned = jnp.einsum("tij,bthj->bthi", turn, query[..., CONTENT:])
    scores = (scores + jnp.einsum("bthd,bsd->bhts", turned, rope_key)) / np.sqrt(CONTENT + ROPE)
    allowed = np.tril(np.ones((x.shape[1], x.shape[1]), dtype=bool))
    read = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1, where=allowed), made[..., CONTENT:])
    return read.reshape(*x.shape[:2], -1) @ weights["o_proj.weight"].T, latent, rope_key


@recipe(
    "latent-attention",
    oracle="transformers DeepseekV2Attention and its compressed cache; parameters counted on the meta device",
    second="appendix C as sums of products in float64 with jax.vjp, RoPE as matrices; the counts by arithmetic",
    needs=("torch", "transformers", "jax"),
)
def latent_attention(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import torch
    from transformers import DynamicCache
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2RotaryEmbedding

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x = recipe.given("x", rng.normal(size=(2, LENGTH, WIDTH)))
    cotangent = recipe.given("cotangent", rng.normal(size=x.shape))
    future = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    for tag, q_lora_rank in (("compressed", QUERY_RANK), ("direct", None)):
        layer, config = _layer(q_lora_rank, **SIZES)
        weights = {
            name: recipe.given(f"{tag}.{name}", 0.7 * rng.normal(size=old.shape))
            for name, old in layer.state_dict().items()
        }
        layer = layer.double().eval()
        layer.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        leaf = torch.from_numpy(x).requires_grad_()
        cache = DynamicCache()
        with ExitStack() as lifted:
            # A cast makes a copy, which view_as_complex relies on.
            lifted.enter_context(mock.patch.object(torch.Tensor, "float", lambda t: t.double().contiguous()))
            for name in ("float32", "float"):
                lifted.enter_context(mock.patch.object(torch, name, torch.float64))
            angles = DeepseekV2RotaryEmbedding(config)(leaf, torch.arange(LENGTH)[None])
            output, _ = layer(leaf, future, past_key_values=cache, position_embeddings=angles)
        names = list(weights)
        leaves = [leaf, *(layer.get_parameter(n) for n in names)]
        slopes = torch.autograd.grad(output, leaves, torch.from_numpy(cotangent))

        counterparts = {name: jnp.asarray(w) for name, w in weights.items()}
        (second, latent, rope_key), pull = jax.vjp(_formula, jnp.asarray(x), counterparts)
        of_x, of_weights = pull((jnp.asarray(cotangent), 0 * latent, 0 * rope_key))
        recipe.expect(f"y_{tag}", output, second=second)
        recipe.expect(f"latent_{tag}", cache.layers[0].keys[:, 0], second=latent)
        recipe.expect(f"rope_key_{tag}", cache.layers[0].values[:, 0], second=rope_key)
        recipe.expect(f"slope_{tag}.x", slopes[0], second=of_x)
        for name, slope in zip(names, slopes[1:], strict=True):
            recipe.expect(f"slope_{tag}.{name}", slope, second=of_weights[name])
    sizes = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    for name, width, heads, rank in (("v2", 5120, 128, 1536), ("v2_lite", 2048, 16, None)):
        with torch.device("meta"):
            layer, _ = _layer(rank, width, heads, **sizes)
        query = width * heads * 192 if rank is None else width * rank + rank + rank * heads * 192
        count = query + width * 576 + 512 + 512 * heads * 256 + heads * 128 * width
        recipe.expect(f"parameters_{name}", sum(p.numel() for p in layer.parameters()), second=count)
