"""Cases of Longformer."""

import torch

from impl.models.longformer import Longformer
from spec.cases import Bad, Case
from spec.contract import Contract, masked_language_model


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _model(**options):
    torch.manual_seed(0)
    settings = {"embed_dim": 4, "num_heads": 2, "window": 2, "dilation": 2, "num_layers": 1, "dim_feedforward": 3}
    return Longformer(7, **settings | {"max_len": 8, "num_types": 2, "padding_idx": 5} | options)


def _tokens(*shape):
    return torch.ones(shape, dtype=torch.int64)


BAD = {
    "padding that is no token": _rejects(lambda: _model(padding_idx=7), "padding_idx", "7"),
    "heads that do not divide": _rejects(lambda: _model(num_heads=3), "4", "3"),
    "a window too many": _rejects(lambda: _model(window=(2, 4)), "window", "(2, 4)"),
    "a dilation too few": _rejects(lambda: _model(num_layers=3, dilation=[1, 2]), "dilation", "[1, 2]"),
    "too long a text": _rejects(lambda: _model()(_tokens(2, 9)), "8", "(2, 9)"),
    "tokens that are no whole numbers": _rejects(lambda: _model()(torch.ones(2, 5)), "float32"),
    "types that are no whole numbers": _rejects(lambda: _model()(_tokens(2, 5), None, torch.zeros(2, 5)), "float32"),
    "tokens without a batch": _rejects(lambda: _model()(_tokens(5)), "(5,)"),
    "types of another length": _rejects(lambda: _model()(_tokens(2, 5), None, _tokens(2, 4)), "(2, 5)", "(2, 4)"),
    "global positions of another batch": _rejects(lambda: _model()(_tokens(2, 5), _tokens(3, 1)), "(3, 1)"),
}

CASES = [
    Case(
        item="longformer",
        name="Longformer, global tokens, two types",
        build=_model,
        inputs=lambda: (
            torch.tensor([[0, 3, 6, 1, 2, 4], [2, 6, 1, 0, 3, 3]]),
            torch.tensor([[0, 3], [4, -1]]),
            torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 1, 1]]),
        ),
        bad=BAD,
        exempt={
            # A bias of the keys adds one number to all scores of a query, and the softmax does not see it.
            "every_parameter_receives_gradient": "a bias of the keys gets none: softmax(z + c) = softmax(z)",
            "gradient_correct": "the golden specs compare every parameter's gradient",
        },
    ),
]

CONTRACTS = [
    Contract(
        item="longformer",
        name="Longformer",
        of=Longformer,
        calls=(
            {
                "vocab_size": 7,
                "embed_dim": 4,
                "num_heads": 1,
                "window": 2,
                "num_layers": 1,
                "dim_feedforward": 3,
                "max_len": 8,
                "num_types": 2,
                "padding_idx": 0,
            },
        ),
        ranges=dict.fromkeys(
            ("vocab_size", "embed_dim", "num_heads", "num_layers", "dim_feedforward", "num_types", "dilation"),
            "int >= 1",
        )
        | {"window": "even >= 2", "dropout": "[0, 1)", "padding_idx": "int >= 0"},
        state=masked_language_model(
            ("q_proj", "k_proj", "v_proj", "out_proj", "q_global_proj", "k_global_proj", "v_global_proj"),
            positions="padding_idx + 1 + max_len",
        ),
        attributes={
            "norm": "the embeddings' norm, called as a submodule",
            "layers": "the blocks, called as submodules; so are their self_attn, feed_forward, norm1, norm2",
            "head": "the module that makes logits of features",
        },
    ),
]
