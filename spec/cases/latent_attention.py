"""Cases of multi-head latent attention: queries compressed or not, padding on the left of one sample."""

import torch

from impl.layers.latent_attention import LatentCache, MultiHeadLatentAttention
from spec.cases import Bad, Case
from spec.contract import Contract

SIZES = {"embed_dim": 6, "num_heads": 3, "kv_lora_rank": 5, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2}
SIZES |= {"v_head_dim": 4}


def _normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _build(**options):
    return MultiHeadLatentAttention(**(SIZES | options))


def _bad(*mentions, **options):
    return Bad(call=lambda: _build(**options), mentions=mentions)


def _bad_input(*arguments, mentions, **options):
    return Bad(call=lambda: _build()(*arguments, **options), mentions=mentions)


def _with_a_past():
    module, cache = _build(), LatentCache()
    module(torch.ones(2, 3, 6), cache=cache)
    return module(torch.ones(2, 4, 6), torch.ones(2, 4, dtype=torch.bool), cache)


BAD = {
    "a base that is no number": _bad("rope_theta", "nan", rope_theta=float("nan")),
    "tokens of another width": _bad_input(torch.ones(2, 4, 5), mentions=("6", "(2, 4, 5)")),
    "a sequence without a batch": _bad_input(torch.ones(4, 6), mentions=("(4, 6)",)),
    "four dimensions": _bad_input(torch.ones(2, 1, 4, 6), mentions=("(2, 1, 4, 6)",)),
    "a mask of other tokens": _bad_input(
        torch.ones(2, 4, 6), torch.ones(2, 5, dtype=torch.bool), mentions=("(2, 4)", "(2, 5)")
    ),
    "a mask of another batch": _bad_input(
        torch.ones(2, 4, 6), torch.ones(1, 4, dtype=torch.bool), mentions=("(2, 4)", "(1, 4)")
    ),
    "a mask of numbers": _bad_input(torch.ones(2, 4, 6), torch.ones(2, 4), mentions=("torch.float32",)),
    "a mask that forgets the past": Bad(call=_with_a_past, mentions=("(2, 7)", "(2, 4)")),
}

CASES = [
    Case(
        item="latent-attention",
        name="MultiHeadLatentAttention",
        build=_build,
        inputs=lambda: (_normal(2, 4, 6), torch.tensor([[True] * 4, [False, False, True, True]])),
        bad=BAD,
    ),
    Case(
        item="latent-attention",
        name="MultiHeadLatentAttention, compressed queries",
        build=lambda: _build(q_lora_rank=7, rope_theta=50.0, eps=0.1),
        inputs=lambda: (_normal(3, 4, 6),),
    ),
]

_DOWN = {"kv_a_proj_with_mqa.weight": "(kv_lora_rank + qk_rope_head_dim, embed_dim)"}
_DOWN |= {"kv_a_layernorm.weight": "(kv_lora_rank,)"}
_UP = {
    "kv_b_proj.weight": "(num_heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank)",
    "o_proj.weight": "(embed_dim, num_heads * v_head_dim)",
}
_QUERIES = "num_heads * (qk_nope_head_dim + qk_rope_head_dim)"

CONTRACTS = [
    Contract(
        item="latent-attention",
        name="LatentCache",
        of=LatentCache,
        attributes={
            "latent": "c^KV (batch, tokens so far, kv_lora_rank), None at first",
            "rope_key": "k^R (batch, tokens so far, qk_rope_head_dim), None at first",
        },
        remembers="c^KV and k^R of all tokens so far",
    ),
    Contract(
        item="latent-attention",
        name="MultiHeadLatentAttention",
        of=MultiHeadLatentAttention,
        calls=(SIZES,),
        ranges=dict.fromkeys(SIZES, "int >= 1")
        | {
            "qk_rope_head_dim": "even >= 2",
            "q_lora_rank": "int >= 1 or None",
            "rope_theta": "(0, inf]",
            "eps": "[0, inf]",
        },
        state={"q_proj.weight": f"({_QUERIES}, embed_dim)"} | _DOWN | _UP,
    ),
    Contract(
        item="latent-attention",
        name="MultiHeadLatentAttention, compressed queries",
        of=MultiHeadLatentAttention,
        calls=(SIZES | {"q_lora_rank": 7},),
        state={
            "q_a_proj.weight": "(q_lora_rank, embed_dim)",
            "q_a_layernorm.weight": "(q_lora_rank,)",
            "q_b_proj.weight": f"({_QUERIES}, q_lora_rank)",
        }
        | _DOWN
        | _UP,
    ),
]
