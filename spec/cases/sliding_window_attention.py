"""Cases of sliding-window attention."""

import torch

from impl.layers.sliding_window_attention import SlidingWindowAttention
from spec.cases import Bad, Case
from spec.contract import Contract, linear

# A bias of the keys adds one number to all scores of a query, and the softmax does not see it.
KEY_BIAS = {"every_parameter_receives_gradient": "a bias of the keys gets none: softmax(z + c) = softmax(z)"}
SELF = SlidingWindowAttention
_X = torch.ones(2, 7, 12)


def _inputs(shape, *more):
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0)), *more)


def _positions(*rows):
    return torch.tensor(rows)


BAD = {
    "heads that do not divide": Bad(call=lambda: SELF(12, 5, 4), mentions=("12", "5")),
    "input of another width": Bad(call=lambda: SELF(12, 3, 4)(torch.ones(2, 7, 11)), mentions=("12", "(2, 7, 11)")),
    "input of two dimensions": Bad(call=lambda: SELF(12, 3, 4)(torch.ones(7, 12)), mentions=("(7, 12)",)),
    "a key mask of another length": Bad(
        call=lambda: SELF(12, 3, 4)(_X, None, torch.ones(2, 6, dtype=torch.bool)), mentions=("(2, 7)", "(2, 6)")
    ),
    "a key mask of numbers": Bad(call=lambda: SELF(12, 3, 4)(_X, None, torch.ones(2, 7)), mentions=("float32",)),
    "global positions of another batch": Bad(
        call=lambda: SELF(12, 3, 4)(_X, _positions([0], [1], [2])), mentions=("(3, 1)",)
    ),
    "global positions without a batch": Bad(call=lambda: SELF(12, 3, 4)(_X, torch.tensor([0, 1])), mentions=("(2,)",)),
    "a global mask in place of positions": Bad(
        call=lambda: SELF(12, 3, 4)(_X, torch.ones(2, 7, dtype=torch.bool)), mentions=("torch.bool",)
    ),
    "global positions without global attention": Bad(
        call=lambda: SELF(12, 3, 4, global_attention=False)(_X, _positions([0], [1])), mentions=("global_attention",)
    ),
}

CASES = [
    Case(
        item="sliding-window-attention",
        name="SlidingWindowAttention, global tokens, no bias",
        build=lambda: SELF(4, 2, 2, bias=False),
        inputs=_inputs((3, 5, 4), _positions([0, 3], [4, -1], [2, 1])),
        bad=BAD,
    ),
    Case(
        item="sliding-window-attention",
        name="SlidingWindowAttention, dilated, padded, dropout",
        build=lambda: SELF(6, 3, 4, dilation=2, dropout=0.3, global_attention=False),
        inputs=_inputs((2, 7, 6), None, torch.arange(7) < torch.tensor([[7], [5]])),
        exempt=KEY_BIAS,
    ),
]

CONTRACTS = [
    Contract(
        item="sliding-window-attention",
        name="SlidingWindowAttention",
        of=SELF,
        calls=({"embed_dim": 4, "num_heads": 1, "window": 2},),
        ranges={
            "embed_dim": "int >= 1",
            "num_heads": "int >= 1",
            "window": "even >= 2",
            "dilation": "int >= 1",
            "dropout": "[0, 1)",
        },
        state={
            key: shape
            for name in ("q_proj", "k_proj", "v_proj", "out_proj", "q_global_proj", "k_global_proj", "v_global_proj")
            for key, shape in linear(name, "embed_dim", "embed_dim").items()
        },
        attributes={"head_dim": "embed_dim / num_heads"},
    ),
]
