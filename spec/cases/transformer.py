"""Cases of transformer blocks and their feed-forward network."""

import torch

from impl.layers.attention import KeyValueCache, MultiHeadAttention
from impl.layers.transformer import FeedForward, TransformerDecoderBlock, TransformerEncoderBlock
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear


def _normal(*shapes, seed=0):
    def make():
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    return make


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


_X, _MEMORY = torch.ones(2, 5, 12), torch.ones(2, 7, 12)
_PADDED = torch.ones(2, 4, dtype=torch.bool)

FEED_FORWARD_BAD = {
    "input of another width": _rejects(lambda: FeedForward(6, 5)(torch.ones(2, 5)), "6", "5"),
}
BLOCK_BAD = {
    block: {
        "heads that do not divide": _rejects(lambda block=block: block(12, 5), "12", "5"),
    }
    for block in (TransformerEncoderBlock, TransformerDecoderBlock)
}
ENCODER_BAD = BLOCK_BAD[TransformerEncoderBlock] | {
    "neither heads nor attention": _rejects(lambda: TransformerEncoderBlock(12), "nhead", "self_attn", "None"),
    "heads and attention": _rejects(
        lambda: TransformerEncoderBlock(12, 3, self_attn=MultiHeadAttention(12, 3)), "nhead", "self_attn", "3"
    ),
    "a causal attention of another kind": _rejects(
        lambda: TransformerEncoderBlock(12, is_causal=True, self_attn=MultiHeadAttention(12, 3)), "is_causal"
    ),
    "input of another width": _rejects(lambda: TransformerEncoderBlock(12, 3)(torch.ones(2, 5, 11)), "(2, 5, 11)"),
    "input of two dimensions": _rejects(lambda: TransformerEncoderBlock(12, 3)(torch.ones(5, 12)), "(5, 12)"),
    "a key mask of the wrong length": _rejects(
        lambda: TransformerEncoderBlock(12, 3)(_X, key_mask=_PADDED), "(2, 1, 1, 4)"
    ),
    "a cache that is not causal": _rejects(
        lambda: TransformerEncoderBlock(12, 3)(_X, cache=KeyValueCache()), "is_causal"
    ),
}
DECODER_BAD = BLOCK_BAD[TransformerDecoderBlock] | {
    "input of another width": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(torch.ones(2, 5, 11), _MEMORY), "12", "(2, 5, 11)"
    ),
    "input of two dimensions": _rejects(lambda: TransformerDecoderBlock(12, 3)(torch.ones(5, 12), _MEMORY), "(5, 12)"),
    "memory of another width": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(_X, torch.ones(2, 7, 11)), "context", "(2, 7, 11)"
    ),
    "memory of two dimensions": _rejects(lambda: TransformerDecoderBlock(12, 3)(_X, torch.ones(7, 12)), "context"),
    "memory of another batch": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(_X, torch.ones(3, 7, 12)), "(3, 3, 7, 4)"
    ),
    "a key mask of the memory": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(_X, _MEMORY, key_mask=torch.ones(2, 7, dtype=torch.bool)), "(2, 1, 1, 7)"
    ),
    "a memory mask of the tokens": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(_X, _MEMORY, memory_key_mask=torch.ones(2, 5, dtype=torch.bool)),
        "(2, 1, 1, 5)",
    ),
    "a memory mask of three dimensions": _rejects(
        lambda: TransformerDecoderBlock(12, 3)(_X, _MEMORY, memory_attn_mask=torch.ones(2, 5, 7, dtype=torch.bool)),
        "(2, 5, 7)",
    ),
}


def _case(name, build, inputs, bad=None):
    return Case(item="transformer-block", name=name, build=build, inputs=inputs, bad=bad or {})


CASES = [
    _case(
        "FeedForward, GELU, dropout",
        lambda: FeedForward(6, 5, "gelu", dropout=0.3),
        _normal((2, 3, 6)),
        FEED_FORWARD_BAD,
    ),
    _case("TransformerEncoderBlock", lambda: TransformerEncoderBlock(4, 2, 3), _normal((2, 3, 4)), ENCODER_BAD),
    _case(
        "TransformerEncoderBlock, pre-norm, causal, no bias, another network",
        lambda: TransformerEncoderBlock(
            4, 2, dropout=0.3, norm_first=True, bias=False, is_causal=True, feed_forward=FeedForward(4, 3, torch.sin)
        ),
        _normal((2, 3, 4)),
    ),
    _case(
        "TransformerDecoderBlock, pre-norm, no bias",
        lambda: TransformerDecoderBlock(4, 2, 3, 0.3, "silu", norm_first=True, bias=False),
        _normal((2, 3, 4), (2, 5, 4)),
        DECODER_BAD,
    ),
]


def _feed_forward(prefix=""):
    into, out = f"{prefix}linear1", f"{prefix}linear2"
    return linear(into, "dim_feedforward", "d_model") | linear(out, "d_model", "dim_feedforward")


def _attention(name):
    projections = {f"{name}.in_proj_weight": "(3 * d_model, d_model)", f"{name}.in_proj_bias": "(3 * d_model,)"}
    return projections | linear(f"{name}.out_proj", "d_model", "d_model")


def _block(of, attentions, norms):
    """A block of one head: any width divides by it, so that each size can be varied by itself."""
    return Contract(
        item="transformer-block",
        name=of,
        of=globals()[of],
        calls=({"d_model": 4, "nhead": 1, "dim_feedforward": 3},),
        ranges={
            "d_model": "int >= 1",
            "nhead": "int >= 1",
            "dim_feedforward": "int >= 1",
            "dropout": "[0, 1)",
            "activation": _ACTIVATIONS,
            "layer_norm_eps": "[0, inf]",
        },
        state={key: shape for name in attentions for key, shape in _attention(name).items()}
        | _feed_forward()
        | {key: shape for name in norms for key, shape in affine(name, "d_model").items()},
        attributes=dict.fromkeys(norms, "a norm, called as a submodule: an identity may take its place"),
    )


_ACTIVATIONS = "'relu', 'gelu', 'gelu_tanh', 'silu'"
CONTRACTS = [
    Contract(
        item="transformer-block",
        name="FeedForward",
        of=FeedForward,
        calls=({"d_model": 4, "dim_feedforward": 3},),
        ranges={
            "d_model": "int >= 1",
            "dim_feedforward": "int >= 1",
            "activation": _ACTIVATIONS,
            "dropout": "[0, 1]",
        },
        state=_feed_forward(),
    ),
    _block("TransformerEncoderBlock", ["self_attn"], ["norm1", "norm2"]),
    _block("TransformerDecoderBlock", ["self_attn", "multihead_attn"], ["norm1", "norm2", "norm3"]),
]
