"""Multi-head latent attention against transformers' DeepSeek-V2 and jax."""

import pytest
import torch

from impl.layers.latent_attention import LatentCache, MultiHeadLatentAttention
from spec.golden import load

pytestmark = pytest.mark.item("latent-attention")

SIZES = {"embed_dim": 12, "num_heads": 3, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4}
SIZES |= {"v_head_dim": 2}
RANKS = {"compressed": 8, "direct": None}


def with_deepseeks_weights(golden, tag):
    module = MultiHeadLatentAttention(**SIZES, q_lora_rank=RANKS[tag]).double()
    module.load_state_dict(golden.state_dict(tag))
    return module


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("tag", list(RANKS))
def test_deepseeks_weights_move_over(tag, absorbed):
    """With DeepSeek-V2's weights, output and the gradients to tokens and every weight are transformers'.

    Source: transformers' DeepseekV2Attention; appendix C in jax.
    Convention: names, shapes and the order of heads, contents and rotated parts in each matrix are DeepSeek's.
    """
    golden = load("latent-attention")
    module, x = with_deepseeks_weights(golden, tag), golden["x"].requires_grad_()
    output = module(x, absorbed=absorbed)
    golden.check(f"y_{tag}", output)
    slopes = torch.autograd.grad(output, [x, *module.parameters()], golden["cotangent"])
    for name, slope in zip(["x", *(n for n, _ in module.named_parameters())], slopes, strict=True):
        golden.check(f"slope_{tag}.{name}", slope)


@pytest.mark.parametrize("tag", list(RANKS))
def test_the_cache_is_deepseeks(tag):
    """After 4 + 2 tokens the cache holds the c^KV and k^R that transformers' compressed cache holds.

    Source: transformers' DeepseekV2Attention with a DynamicCache.
    """
    golden = load("latent-attention")
    module, cache = with_deepseeks_weights(golden, tag), LatentCache()
    for chunk in golden["x"].split([4, 2], 1):
        module(chunk, cache=cache)
    golden.check(f"latent_{tag}", cache.latent)
    golden.check(f"rope_key_{tag}", cache.rope_key)


@pytest.mark.parametrize(
    ("name", "width", "heads", "rank", "count"),
    [("v2", 5120, 128, 1536, 149_227_520), ("v2_lite", 2048, 16, None, 13_763_072)],
)
def test_published_sizes_have_their_parameters(name, width, heads, rank, count):
    """A layer of DeepSeek-V2 has 149,227,520 parameters of attention, one of V2-Lite, without W^DQ, 13,763,072.

    Source: DeepSeek-AI 2024, §3.1.2 and appendix B; counted in transformers' layers on the meta device.
    """
    with torch.device("meta"):
        module = MultiHeadLatentAttention(width, heads, 512, 128, 64, 128, rank)
    found = torch.tensor(sum(p.numel() for p in module.parameters()))
    assert found == count, f"expected {count:,}, found {found:,}"
    load("latent-attention").check(f"parameters_{name}", found)
