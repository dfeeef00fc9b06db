"""Cases of Reformer, its attention by hashing and its reversible layers."""

import torch
from torch import nn

from impl.models.reformer import LSHAttention, Reformer, ReversibleBlock, ReversibleSequence, lsh_buckets
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear

LSH = LSHAttention
# A bucket is a step function: a vector at an edge moves to another bucket when values are rounded.
EDGES = {
    "keeps_dtype": "rounding to bfloat16 moves vectors to other buckets; float32 and float64 have specs of their own"
}


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _attention(*shape, mask=None):
    return lambda: LSH(12, 3, 4, 5)(torch.ones(shape), mask)


def _model(**options):
    torch.manual_seed(0)
    sizes = {"embed_dim": 4, "num_heads": 2, "num_layers": 1, "dim_feedforward": 3, "max_len": 9}
    return Reformer(5, **sizes | {"num_buckets": 2, "chunk_length": 4, "num_hashes": 2} | options)


def _block(seed):
    torch.manual_seed(seed)
    return ReversibleBlock(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))


def _normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


ATTENTION_BAD = {
    "heads that do not divide": _rejects(lambda: LSH(12, 5, 4, 5), "12", "5"),
    "an odd number of buckets": _rejects(lambda: LSH(12, 3, 3, 5), "even", "3"),
    "input of another width": _rejects(_attention(2, 7, 11), "12", "(2, 7, 11)"),
    "input of two dimensions": _rejects(_attention(7, 12), "(7, 12)"),
    "a mask of another length": _rejects(
        _attention(2, 7, 12, mask=torch.ones(2, 6, dtype=torch.bool)), "(2, 7)", "(2, 6)"
    ),
    "a mask of numbers": _rejects(_attention(2, 7, 12, mask=torch.ones(2, 7)), "float32"),
}

MODEL_BAD = {
    "heads that do not divide": _rejects(lambda: _model(num_heads=3), "4", "3"),
    "too long a text": _rejects(lambda: _model()(torch.ones(2, 13, dtype=torch.int64)), "9", "(2, 13)"),
    "tokens that are no whole numbers": _rejects(lambda: _model()(torch.ones(2, 5)), "float32"),
    "tokens without a batch": _rejects(lambda: _model()(torch.ones(5, dtype=torch.int64)), "(5,)"),
}

CASES = [
    Case(
        item="reformer",
        name="LSHAttention, causal, padded, dropout",
        build=lambda: LSH(4, 2, 6, 3, 3, is_causal=True, dropout=0.3, bias=True),
        inputs=lambda: (_normal(2, 7, 4), torch.arange(7) < torch.tensor([[7], [5]])),
        bad=ATTENTION_BAD,
        exempt=EDGES,
    ),
    Case(
        item="reformer",
        name="LSHAttention, one bucket",
        build=lambda: LSH(6, 3, 1, 2),
        inputs=lambda: (_normal(2, 5, 6),),
    ),
    Case(
        item="reformer",
        name="ReversibleSequence",
        build=lambda: ReversibleSequence(_block(0), _block(1)),
        inputs=lambda: (_normal(2, 5, 3), _normal(5, 2, 3).transpose(0, 1)),
        bad={"no blocks": _rejects(lambda: ReversibleSequence(), "none")},
    ),
    Case(
        item="reformer",
        name="ReversibleBlock",
        build=lambda: _block(0),
        inputs=lambda: (_normal(2, 5, 3), _normal(5, 2, 3).transpose(0, 1)),
    ),
    Case(
        item="reformer",
        name="Reformer, dropout",
        build=lambda: _model(dropout=0.2, feed_forward_chunk=4),
        inputs=lambda: (torch.tensor([[0, 3, 4, 1, 2, 4], [2, 4, 1, 0, 3, 3]]),),
        bad=MODEL_BAD,
        exempt=EDGES | {"gradient_correct": "the golden specs compare every parameter's gradient"},
    ),
]

_HASHING = dict.fromkeys(("embed_dim", "num_heads", "num_buckets", "chunk_length", "num_hashes"), "int >= 1")
_HASHING |= {"dropout": "[0, 1)"}
_ROTATIONS = "(num_heads, embed_dim // num_heads, num_hashes, num_buckets // 2)"
_FIRST = "layers.blocks.0"

_PLAIN = {"ReversibleSequence": ReversibleSequence, "lsh_buckets": lsh_buckets}
CONTRACTS = [
    Contract(
        item="reformer",
        name="LSHAttention",
        of=LSH,
        calls=({"embed_dim": 4, "num_heads": 1, "num_buckets": 6, "chunk_length": 3, "num_hashes": 2, "bias": True},),
        ranges=_HASHING,
        state={"rotations": _ROTATIONS}
        | linear("qk_proj", "embed_dim", "embed_dim")
        | linear("v_proj", "embed_dim", "embed_dim")
        | linear("out_proj", "embed_dim", "embed_dim"),
        attributes={
            "rotations": "R, a buffer, sampled at construction",
            "chunk_length": "as given",
            "is_causal": "as given",
        },
    ),
    Contract(
        item="reformer",
        name="ReversibleBlock",
        of=ReversibleBlock,
        calls=({"f": nn.Linear(3, 3), "g": nn.Linear(3, 3)},),
        state=linear("f", "3", "3") | linear("g", "3", "3"),
        attributes={"f": "as given", "g": "as given"},
    ),
    Contract(
        item="reformer",
        name="Reformer",
        of=Reformer,
        calls=(
            {
                "vocab_size": 5,
                "embed_dim": 4,
                "num_heads": 1,
                "num_layers": 1,
                "dim_feedforward": 3,
                "max_len": 9,
                "num_buckets": 2,
                "chunk_length": 4,
            },
        ),
        ranges=_HASHING
        | dict.fromkeys(("vocab_size", "num_layers", "dim_feedforward", "max_len"), "int >= 1")
        | {"feed_forward_chunk": "int >= 1 or None"},
        state={"words.weight": "(vocab_size, embed_dim)", "positions.weight": "(max_len, embed_dim)"}
        | affine(f"{_FIRST}.f.norm", "embed_dim")
        | {f"{_FIRST}.f.part.rotations": _ROTATIONS}
        | {f"{_FIRST}.f.part.{name}_proj.weight": "(embed_dim, embed_dim)" for name in ("qk", "v", "out")}
        | affine(f"{_FIRST}.g.norm", "embed_dim")
        | linear(f"{_FIRST}.g.part.linear1", "dim_feedforward", "embed_dim")
        | linear(f"{_FIRST}.g.part.linear2", "embed_dim", "dim_feedforward")
        | affine("norm", "2 * embed_dim")
        | {"head.weight": "(vocab_size, 2 * embed_dim)"},
        attributes={
            "words": "the table of words, called as a submodule",
            "layers": "a ReversibleSequence, called; so are its blocks, their branches f and g, and norm and part",
        },
    ),
    *(Contract(item="reformer", name=name, of=of) for name, of in _PLAIN.items()),
]
