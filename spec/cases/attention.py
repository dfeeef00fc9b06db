"""Cases of scaled dot-product attention, self-attention and cross-attention."""

import torch

from impl.layers.attention import CrossAttention, KeyValueCache, MultiHeadAttention, scaled_dot_product_attention
from spec.cases import Bad, Case
from spec.contract import Contract, linear
from spec.laws import double


def _normal(*shapes, seed=0):
    def make():
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    return make


def _masked(*shapes, mask):
    """Numbers of these shapes, then a mask that hides about a third, never the first key."""

    def make():
        hidden = torch.rand(mask, generator=torch.Generator().manual_seed(1)) < 0.33
        hidden[..., 0] = False
        return (*_normal(*shapes)(), ~hidden)

    return make


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


_QKV = (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)
_X, _CONTEXT = torch.ones(2, 5, 12), torch.ones(2, 7, 12)


def _function(*shapes, **options):
    return lambda: scaled_dot_product_attention(*(torch.ones(s) for s in shapes), **options)


def _masks(shape, dtype=torch.bool):
    return _function(*_QKV, attn_mask=torch.ones(shape, dtype=dtype))


FUNCTION_BAD = {
    "keys of another width": _rejects(_function((2, 5, 4), (2, 7, 3), (2, 7, 6)), "4", "3"),
    "fewer values than keys": _rejects(_function((2, 5, 4), (2, 7, 4), (2, 6, 6)), "7", "6"),
    "another number of heads of keys": _rejects(_function((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)), "(2, 1, 7, 4)"),
    "another number of heads of values": _rejects(_function((2, 3, 5, 4), (2, 3, 7, 4), (2, 1, 7, 6)), "(2, 1, 7, 6)"),
    "groups of other sizes": _rejects(
        _function((2, 3, 5, 4), (2, 2, 7, 4), (2, 2, 7, 6), enable_gqa=True), "(2, 3, 5, 4)"
    ),
    "more heads of keys than of queries": _rejects(
        _function((2, 2, 5, 4), (2, 4, 7, 4), (2, 4, 7, 6), enable_gqa=True), "(2, 2, 5, 4)"
    ),
    "groups without heads": _rejects(_function((5, 4), (7, 4), (7, 6), enable_gqa=True), "(5, 4)"),
    "groups of no keys": _rejects(_function((2, 3, 5, 4), (2, 0, 7, 4), (2, 0, 7, 6), enable_gqa=True), "(2, 0, 7, 4)"),
    "groups of values of their own": _rejects(
        _function((2, 6, 5, 4), (2, 3, 7, 4), (2, 2, 7, 6), enable_gqa=True), "(2, 4, 7, 6)"
    ),
    "another batch": _rejects(_function((2, 3, 5, 4), (4, 3, 7, 4), (4, 3, 7, 6)), "(4, 3, 7, 4)"),
    "a vector": _rejects(_function((4,), (4,), (4,)), "(4,)"),
    "a mask of other keys": _rejects(_masks((5, 6)), "(2, 3, 5, 7)", "(5, 6)"),
    "a mask of other queries": _rejects(_masks((6, 7)), "(2, 3, 5, 7)", "(6, 7)"),
    "a mask of more dimensions": _rejects(_masks((1, 2, 3, 5, 7)), "(1, 2, 3, 5, 7)"),
    "a mask of integers": _rejects(_masks((5, 7), torch.int64), "torch.int64"),
}
SIZES_BAD = {
    layer: {
        "heads that do not divide": _rejects(lambda layer=layer: layer(12, 5), "12", "5"),
    }
    for layer in (MultiHeadAttention, CrossAttention)
}
SELF_BAD = SIZES_BAD[MultiHeadAttention] | {
    "kv heads that do not divide": _rejects(
        lambda: MultiHeadAttention(12, 6, num_kv_heads=4), "num_kv_heads", "6", "4"
    ),
    "no heads of a given width": _rejects(lambda: MultiHeadAttention(12, 0, head_dim=4), "num_heads", "0"),
    "a width of 0 with a given head": _rejects(lambda: MultiHeadAttention(0, 3, head_dim=4), "embed_dim", "0"),
    "input of another width": _rejects(lambda: MultiHeadAttention(12, 3)(torch.ones(2, 5, 11)), "12", "(2, 5, 11)"),
    "input of two dimensions": _rejects(lambda: MultiHeadAttention(12, 3)(torch.ones(5, 12)), "(5, 12)"),
    "a mask of three dimensions": _rejects(
        lambda: MultiHeadAttention(12, 3)(_X, torch.ones(2, 5, 5, dtype=torch.bool)), "(2, 5, 5)"
    ),
    "a mask of the wrong length": _rejects(
        lambda: MultiHeadAttention(12, 3)(_X, torch.ones(5, 4, dtype=torch.bool)), "(5, 4)"
    ),
    "a key mask of the wrong length": _rejects(
        lambda: MultiHeadAttention(12, 3)(_X, key_mask=torch.ones(2, 4, dtype=torch.bool)), "(2, 1, 1, 4)"
    ),
    "a key mask of numbers": _rejects(lambda: MultiHeadAttention(12, 3)(_X, key_mask=torch.ones(2, 5)), "float32"),
    "a key mask of one dimension": _rejects(
        lambda: MultiHeadAttention(12, 3)(_X, key_mask=torch.ones(5, dtype=torch.bool)), "(5,)"
    ),
    "a cache that is not causal": _rejects(lambda: MultiHeadAttention(12, 3)(_X, cache=KeyValueCache()), "is_causal"),
}
CROSS_BAD = SIZES_BAD[CrossAttention] | {
    "a query of another width": _rejects(
        lambda: CrossAttention(12, 3)(torch.ones(2, 5, 11), _CONTEXT), "query", "(2, 5, 11)"
    ),
    "a query of two dimensions": _rejects(lambda: CrossAttention(12, 3)(torch.ones(5, 12), _CONTEXT), "query"),
    "keys of another width": _rejects(lambda: CrossAttention(12, 3, kdim=5)(_X, _CONTEXT), "key", "5", "(2, 7, 12)"),
    "values of another width": _rejects(
        lambda: CrossAttention(12, 3, vdim=5)(_X, _CONTEXT), "value", "5", "(2, 7, 12)"
    ),
    "values of another length": _rejects(lambda: CrossAttention(12, 3)(_X, _CONTEXT, torch.ones(2, 6, 12)), "7", "6"),
    "a context of another batch": _rejects(lambda: CrossAttention(12, 3)(_X, torch.ones(3, 7, 12)), "(3, 3, 7, 4)"),
    "a key mask of the queries": _rejects(
        lambda: CrossAttention(12, 3)(_X, _CONTEXT, key_mask=torch.ones(2, 5, dtype=torch.bool)), "(2, 1, 1, 5)"
    ),
    "a mask of three dimensions": _rejects(
        lambda: CrossAttention(12, 3)(_X, _CONTEXT, attn_mask=torch.ones(2, 5, 7, dtype=torch.bool)), "(2, 5, 7)"
    ),
}


def _self(name, inputs, *arguments, bad=None, **options):
    return Case(
        item="self-attention",
        name=f"MultiHeadAttention{name}",
        build=lambda: MultiHeadAttention(*arguments, **options),
        inputs=inputs,
        bad=bad or {},
    )


CASES = [
    Case(
        item="self-attention",
        name="scaled_dot_product_attention",
        build=lambda: scaled_dot_product_attention,
        inputs=_masked(*_QKV, mask=(2, 1, 5, 7)),
        bad=FUNCTION_BAD,
        is_function=True,
    ),
    _self("", _normal((2, 5, 6)), 6, 3, bad=SELF_BAD),
    _self(", causal, dropout", _normal((3, 4, 6)), 6, 2, dropout=0.3, is_causal=True),
    _self(
        ", grouped, masked, no bias",
        _masked((2, 5, 6), mask=(2, 4, 5, 5)),
        6,
        4,
        num_kv_heads=2,
        head_dim=3,
        bias=False,
    ),
    Case(
        item="cross-attention",
        name="CrossAttention",
        build=lambda: CrossAttention(6, 3),
        inputs=_normal((2, 4, 6), (2, 5, 6)),
        bad=CROSS_BAD,
    ),
    Case(
        item="cross-attention",
        name="CrossAttention, widths, dropout, no bias",
        build=lambda: CrossAttention(6, 2, kdim=5, vdim=3, dropout=0.3, bias=False),
        inputs=_normal((3, 4, 6), (3, 7, 5), (3, 7, 3)),
    ),
]

_ROWS = "(num_heads + 2 * (num_kv_heads or num_heads)) * (head_dim or embed_dim // num_heads)"
_HEADS = {"embed_dim": "int >= 1", "num_heads": "int >= 1", "dropout": "[0, 1)"}

CONTRACTS = [
    Contract(
        item="self-attention",
        name="scaled_dot_product_attention",
        of=scaled_dot_product_attention,
        calls=({"query": double(2, 5, 4), "key": double(2, 7, 4, seed=1), "value": double(2, 7, 6, seed=2)},),
        ranges={"dropout_p": "[0, 1)"},
    ),
    Contract(
        item="self-attention",
        name="KeyValueCache",
        of=KeyValueCache,
        attributes={
            "key": "keys (batch, kv heads, tokens so far, head_dim), None at first",
            "value": "values of the same shape, None at first",
        },
        remembers="the keys and values of all tokens so far",
    ),
    Contract(
        item="self-attention",
        name="MultiHeadAttention",
        of=MultiHeadAttention,
        calls=({"embed_dim": 4, "num_heads": 1},),
        ranges=_HEADS | {"num_kv_heads": "int >= 1 or None", "head_dim": "int >= 1 or None"},
        state={
            "in_proj_weight": f"({_ROWS}, embed_dim)",
            "in_proj_bias": f"({_ROWS},)",
        }
        | linear("out_proj", "embed_dim", "num_heads * (head_dim or embed_dim // num_heads)"),
        remembers="nothing; a cache is the caller's",
    ),
    Contract(
        item="cross-attention",
        name="CrossAttention",
        of=CrossAttention,
        calls=({"embed_dim": 4, "num_heads": 1, "kdim": 3, "vdim": 5},),
        ranges=_HEADS | {"kdim": "int >= 1 or None", "vdim": "int >= 1 or None"},
        state={
            "q_proj_weight": "(embed_dim, embed_dim)",
            "k_proj_weight": "(embed_dim, kdim)",
            "v_proj_weight": "(embed_dim, vdim)",
            "in_proj_bias": "(3 * embed_dim,)",
        }
        | linear("out_proj", "embed_dim", "embed_dim"),
    ),
]
