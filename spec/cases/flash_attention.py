"""Cases of FlashAttention: tiles that do not divide the lengths, masks of several shapes, the log-sum-exp."""

import torch

from impl.layers.flash_attention import flash_attention
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double

ITEM = "flash-attention"
_QKV = (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)
_SMALL = (2, 5, 3), (2, 7, 3), (2, 7, 4)


def _normal(*shapes):
    def make():
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    return make


def _masked(mask):
    """Numbers, then a mask that hides about a third, never the first key."""

    def make():
        hidden = torch.rand(mask, generator=torch.Generator().manual_seed(1)) < 0.33
        hidden[..., 0] = False
        return (*_normal(*_SMALL)(), ~hidden)

    return make


def _with(**options):
    return lambda: lambda *inputs: flash_attention(*inputs, block_q=3, block_k=4, **options)


def _call(*shapes, **options):
    return lambda: flash_attention(*(torch.ones(s) for s in shapes), **options)


def _masks(shape, dtype=torch.bool):
    return _call(*_QKV, attn_mask=torch.ones(shape, dtype=dtype))


BAD = {
    "keys of another width": Bad(call=_call((2, 5, 4), (2, 7, 3), (2, 7, 6)), mentions=("4", "3")),
    "fewer values than keys": Bad(call=_call((2, 5, 4), (2, 7, 4), (2, 6, 6)), mentions=("7", "6")),
    "other heads of keys": Bad(call=_call((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)), mentions=("(2, 1, 7, 4)",)),
    "other heads of values": Bad(call=_call((2, 3, 5, 4), (2, 3, 7, 4), (2, 1, 7, 6)), mentions=("(2, 1, 7, 6)",)),
    "queries without heads": Bad(call=_call((2, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)), mentions=("(2, 5, 4)",)),
    "a vector": Bad(call=_call((4,), (4,), (4,)), mentions=("(4,)",)),
    "a mask of other keys": Bad(call=_masks((5, 6)), mentions=("(2, 3, 5, 7)", "(5, 6)")),
    "a mask of other queries": Bad(call=_masks((6, 7)), mentions=("(2, 3, 5, 7)", "(6, 7)")),
    "a mask of other heads": Bad(call=_masks((2, 5, 7)), mentions=("(2, 3, 5, 7)", "(2, 5, 7)")),
    "a mask of too many dimensions": Bad(call=_masks((1, 2, 3, 5, 7)), mentions=("(1, 2, 3, 5, 7)",)),
    "a mask of integers": Bad(call=_masks((5, 7), torch.int64), mentions=("torch.int64",)),
}

_BY_HAND = {"transforms": "its backward pass by blocks is the concept; it has no forward mode"}
_OF_TILES = _BY_HAND | {
    "from_scratch": "the record's function is a call with fixed options; the first record stands for it"
}

CASES = [
    Case(
        item=ITEM,
        name="flash_attention",
        build=lambda: flash_attention,
        inputs=_normal((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 1)),
        bad=BAD,
        exempt=_BY_HAND,
        is_function=True,
    ),
    Case(
        item=ITEM,
        name="flash_attention, mask of numbers, causal, tiles of 3 by 4",
        build=_with(is_causal=True),
        inputs=_normal(*_SMALL, (2, 5, 7)),
        exempt=_OF_TILES,
        is_function=True,
    ),
    Case(
        item=ITEM,
        name="flash_attention, mask of booleans, with the log-sum-exp, tiles of 3 by 4",
        build=_with(scale=0.3, return_lse=True),
        inputs=_masked((2, 1, 7)),
        exempt=_OF_TILES | {"keeps_dtype": "L stays float32 for inputs of half precision, by convention"},
        is_function=True,
    ),
]

CONTRACTS = [
    Contract(
        item=ITEM,
        name="flash_attention",
        of=flash_attention,
        calls=({"query": double(2, 5, 4), "key": double(2, 7, 4, seed=1), "value": double(2, 7, 6, seed=2)},),
        ranges={"block_q": "int >= 1", "block_k": "int >= 1"},
        remembers="for the backward pass its inputs, the output and one log-sum-exp a query",
    ),
]
