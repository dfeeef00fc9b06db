"""Cases of BigBird and its block-sparse attention."""

import torch

from impl.models.bigbird import BigBird, BlockSparseAttention
from spec.cases import Bad, Case
from spec.contract import Contract, linear, masked_language_model

# A bias of the keys adds one number to all scores of a query, and the softmax does not see it.
UNSEEN = {"every_parameter_receives_gradient": "a bias of the keys gets none: softmax(z + c) = softmax(z)"}
SPARSE = BlockSparseAttention


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _sparse(*shape, mask=None):
    return lambda: SPARSE(12, 3, 2, max_blocks=4)(torch.ones(shape), mask)


def _model(**options):
    torch.manual_seed(0)
    settings = {"vocab_size": 7, "embed_dim": 4, "num_heads": 2, "num_layers": 1, "dim_feedforward": 6, "max_len": 12}
    return BigBird(**settings | {"block_size": 2, "num_random_blocks": 1, "padding_idx": 5} | options)


ATTENTION_BAD = {
    "heads that do not divide": _rejects(lambda: SPARSE(12, 5), "12", "5"),
    "input of another width": _rejects(_sparse(2, 7, 11), "12", "(2, 7, 11)"),
    "input of two dimensions": _rejects(_sparse(7, 12), "(7, 12)"),
    "more blocks than foreseen": _rejects(_sparse(2, 9, 12), "4", "9"),
    "a mask of another length": _rejects(
        _sparse(2, 7, 12, mask=torch.ones(2, 6, dtype=torch.bool)), "(2, 7)", "(2, 6)"
    ),
    "a mask of numbers": _rejects(_sparse(2, 7, 12, mask=torch.ones(2, 7)), "float32"),
}

MODEL_BAD = {
    "padding that is no token": _rejects(lambda: _model(padding_idx=7), "padding_idx", "7"),
    "heads that do not divide": _rejects(lambda: _model(num_heads=3), "4", "3"),
    "too long a text": _rejects(lambda: _model()(torch.ones(2, 13, dtype=torch.int64)), "12", "(2, 13)"),
    "tokens that are no whole numbers": _rejects(lambda: _model()(torch.ones(2, 5)), "float32"),
    "types that are no whole numbers": _rejects(
        lambda: _model()(torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 5)), "float32"
    ),
    "tokens without a batch": _rejects(lambda: _model()(torch.ones(5, dtype=torch.int64)), "(5,)"),
    "types of another length": _rejects(
        lambda: _model()(torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)), "(2, 5)", "(2, 4)"
    ),
}

CASES = [
    Case(
        item="bigbird",
        name="BlockSparseAttention, no bias",
        build=lambda: SPARSE(6, 3, 2, 1, 1, 1, max_blocks=5, bias=False),
        inputs=lambda: (torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)),),
        bad=ATTENTION_BAD,
    ),
    Case(
        item="bigbird",
        name="BlockSparseAttention, padded, dropout",
        build=lambda: SPARSE(6, 2, 3, 1, 3, 0, max_blocks=6, dropout=0.3),
        inputs=lambda: (
            torch.randn(3, 14, 6, generator=torch.Generator().manual_seed(0)),
            torch.arange(14) < torch.tensor([[14], [9], [12]]),
        ),
        exempt=UNSEEN,
    ),
    Case(
        item="bigbird",
        name="BigBird, two types",
        build=_model,
        inputs=lambda: (
            torch.tensor([[0, 3, 6, 1, 2, 4, 6, 3, 0], [2, 6, 1, 0, 3, 3, 4, 6, 1]]),
            torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 1, 0, 0]]),
        ),
        bad=MODEL_BAD,
        exempt=UNSEEN | {"gradient_correct": "the golden specs compare every parameter's gradient"},
    ),
]

_BLOCKS = {
    "block_size": "int >= 1",
    "num_random_blocks": "int >= 0",
    "num_window_blocks": "odd >= 1",
    "num_global_blocks": "int >= 0",
    "dropout": "[0, 1)",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")

CONTRACTS = [
    Contract(
        item="bigbird",
        name="BlockSparseAttention",
        of=SPARSE,
        calls=({"embed_dim": 4, "num_heads": 1, "block_size": 2, "num_random_blocks": 2, "max_blocks": 5},),
        ranges=_BLOCKS | dict.fromkeys(("embed_dim", "num_heads", "max_blocks"), "int >= 1"),
        state={"draws": "(num_heads, max_blocks, num_random_blocks)"}
        | {key: shape for name in _PROJECTIONS for key, shape in linear(name, "embed_dim", "embed_dim").items()},
        attributes={"draws": "integers, a buffer, sampled at construction; the docstring says how they choose blocks"},
    ),
    Contract(
        item="bigbird",
        name="BigBird",
        of=BigBird,
        calls=(
            {
                "vocab_size": 7,
                "embed_dim": 4,
                "num_heads": 1,
                "num_layers": 1,
                "dim_feedforward": 6,
                "max_len": 12,
                "block_size": 2,
                "num_random_blocks": 1,
            },
        ),
        ranges=_BLOCKS
        | dict.fromkeys(
            ("vocab_size", "embed_dim", "num_heads", "num_layers", "dim_feedforward", "max_len", "num_types"),
            "int >= 1",
        )
        | {"padding_idx": "int >= 0"},
        state=masked_language_model(_PROJECTIONS, positions="max_len")
        | {"layers.0.self_attn.draws": "(num_heads, -(-max_len // block_size), num_random_blocks)"},
        attributes={
            "norm": "the embeddings' norm, called as a submodule",
            "layers": "the blocks, called as submodules; so are their self_attn, feed_forward, norm1, norm2",
            "head": "the module that makes logits of features",
        },
    ),
]
