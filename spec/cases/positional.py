"""Cases of positional embeddings, rotary embeddings and the embedding table."""

import torch

from impl.layers.embedding import Embedding
from impl.layers.positional import (
    LearnedPositionalEmbedding,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    interpolated_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    rotary_frequencies,
    sinusoids,
    token_positions,
)
from spec.cases import Bad, Case
from spec.contract import Contract


def _normal(*shape):
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


_FREQUENCIES = torch.ones(3, dtype=torch.float64)
_X, _PLACES = torch.ones(2, 3, 6), torch.arange(4)
_NOTHING_LEARNED = {"every_parameter_receives_gradient": "it has no parameters"}

SINUSOIDAL_BAD = {
    "another width": _rejects(lambda: SinusoidalPositionalEncoding(4)(_X), "4", "(2, 3, 6)"),
    "a vector": _rejects(lambda: SinusoidalPositionalEncoding(6)(torch.ones(6)), "(6,)"),
    "positions of other tokens": _rejects(lambda: SinusoidalPositionalEncoding(6)(_X, _PLACES), "(3,)", "(4,)"),
    "positions of another batch": _rejects(
        lambda: SinusoidalPositionalEncoding(6)(_X, _PLACES[:3].expand(4, 3)), "(4, 3)"
    ),
}
LEARNED_BAD = {
    "another width": _rejects(lambda: LearnedPositionalEmbedding(7, 4)(_X), "4", "(2, 3, 6)"),
    "a vector": _rejects(lambda: LearnedPositionalEmbedding(7, 6)(torch.ones(6)), "(6,)"),
    "a text too long": _rejects(lambda: LearnedPositionalEmbedding(2, 6)(_X), "max_len", "2", "3"),
    "a text too far": _rejects(lambda: LearnedPositionalEmbedding(7, 6)(_X, 5), "max_len", "7", "5"),
    "a negative position": _rejects(lambda: LearnedPositionalEmbedding(7, 6)(_X, -1), "7", "-1"),
    "positions of other tokens": _rejects(lambda: LearnedPositionalEmbedding(7, 6)(_X, _PLACES), "(4,)"),
}
ROTARY_BAD = {
    "factors that are equal": _rejects(lambda: llama3_frequencies(_FREQUENCIES, 8.0, 4.0, 4.0), "4.0"),
    "factors that fall": _rejects(lambda: llama3_frequencies(_FREQUENCIES, 8.0, 4.0, 1.0), "1.0"),
    "a factor of 0": _rejects(lambda: llama3_frequencies(_FREQUENCIES, 8.0, 0.0, 4.0), "0.0"),
    "an odd part with frequencies of its own": _rejects(
        lambda: RotaryEmbedding(7, rotary_dim=5, frequencies=torch.ones(2).double()), "even", "5"
    ),
    "a part wider than the whole": _rejects(lambda: RotaryEmbedding(6, rotary_dim=8), "6", "8"),
    "too few frequencies": _rejects(lambda: RotaryEmbedding(6, frequencies=torch.ones(2).double()), "(2,)"),
    "another width": _rejects(lambda: RotaryEmbedding(4)(_X), "4", "(2, 3, 6)"),
    "a vector": _rejects(lambda: RotaryEmbedding(6)(torch.ones(6)), "(6,)"),
    "positions of other tokens": _rejects(lambda: RotaryEmbedding(6)(_X, _PLACES), "(4,)"),
    "a batch of positions of one text": _rejects(
        lambda: RotaryEmbedding(6)(torch.ones(3, 6), _PLACES[:3].expand(3, 3)), "(3, 3)"
    ),
}
EMBEDDING_BAD = {
    "padding outside the vocabulary": _rejects(lambda: Embedding(7, 5, padding_idx=7), "padding_idx", "7"),
}


def _symbols():
    return (torch.tensor([[0, 3, 1, 3], [5, 2, 6, 0]]),)


_POSITIONAL, _ROPE = "positional-embedding", "rope"
CASES = [
    Case(
        item=_POSITIONAL,
        name="SinusoidalPositionalEncoding",
        build=lambda: SinusoidalPositionalEncoding(6, dropout=0.3),
        inputs=_normal(2, 3, 6),
        bad=SINUSOIDAL_BAD,
        exempt=_NOTHING_LEARNED,
    ),
    Case(
        item=_POSITIONAL,
        name="LearnedPositionalEmbedding",
        build=lambda: LearnedPositionalEmbedding(3, 5),
        inputs=_normal(2, 3, 5),
        bad=LEARNED_BAD,
    ),
    Case(
        item=_POSITIONAL,
        name="Embedding, padding",
        build=lambda: Embedding(7, 5, padding_idx=4),
        inputs=_symbols,
        bad=EMBEDDING_BAD,
    ),
    Case(
        item=_ROPE,
        name="RotaryEmbedding",
        build=lambda: RotaryEmbedding(6),
        inputs=_normal(2, 4, 3, 6),
        bad=ROTARY_BAD,
        exempt=_NOTHING_LEARNED,
    ),
    Case(
        item=_ROPE,
        name="RotaryEmbedding, halves, partial",
        build=lambda: RotaryEmbedding(7, 100.0, interleaved=False, rotary_dim=4),
        inputs=_normal(2, 3, 7),
        exempt=_NOTHING_LEARNED,
    ),
]

CONTRACTS = [
    Contract(
        item=_POSITIONAL,
        name="SinusoidalPositionalEncoding",
        of=SinusoidalPositionalEncoding,
        calls=({"d_model": 4},),
        ranges={"d_model": "even >= 2", "dropout": "[0, 1]", "base": "(0, inf]"},
    ),
    Contract(
        item=_POSITIONAL,
        name="LearnedPositionalEmbedding",
        of=LearnedPositionalEmbedding,
        calls=({"max_len": 3, "d_model": 5},),
        ranges={"max_len": "int >= 1", "d_model": "int >= 1"},
        state={"weight": "(max_len, d_model)"},
    ),
    Contract(
        item=_POSITIONAL,
        name="Embedding",
        of=Embedding,
        calls=(
            {"num_embeddings": 7, "embedding_dim": 5},
            {"num_embeddings": 7, "embedding_dim": 5, "padding_idx": 3},
        ),
        ranges={"num_embeddings": "int >= 1", "embedding_dim": "int >= 1", "padding_idx": "int >= 0 or None"},
        state={"weight": "(num_embeddings, embedding_dim)"},
        library="torch.nn.Embedding",
        inputs=lambda arguments: _symbols(),
    ),
    Contract(
        item=_POSITIONAL,
        name="sinusoids",
        of=sinusoids,
        calls=({"positions": torch.arange(3), "d_model": 4},),
        ranges={"d_model": "even >= 2", "base": "(0, inf]"},
    ),
    Contract(
        item=_ROPE,
        name="RotaryEmbedding",
        of=RotaryEmbedding,
        calls=({"dim": 6},),
        ranges={"dim": "even >= 2", "base": "(0, inf]", "rotary_dim": "even >= 2 or None"},
    ),
    Contract(
        item=_ROPE,
        name="rotary_frequencies",
        of=rotary_frequencies,
        calls=({"dim": 6},),
        ranges={"dim": "even >= 2", "base": "(0, inf]"},
    ),
    Contract(
        item=_ROPE,
        name="interpolated_frequencies",
        of=interpolated_frequencies,
        calls=({"frequencies": torch.ones(3).double(), "scale": 2.0},),
        ranges={"scale": "[1, inf]"},
    ),
    Contract(
        item=_ROPE,
        name="ntk_frequencies",
        of=ntk_frequencies,
        calls=({"dim": 6, "scale": 2.0},),
        ranges={"dim": "even >= 4", "scale": "[1, inf]"},
    ),
    Contract(
        item=_ROPE,
        name="llama3_frequencies",
        of=llama3_frequencies,
        calls=({"frequencies": torch.ones(3).double()},),
        ranges={"scale": "[1, inf]"},
    ),
    Contract(item=_POSITIONAL, name="token_positions", of=token_positions),
]
