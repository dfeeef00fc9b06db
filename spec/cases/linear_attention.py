"""Cases of linear attention and its random features."""

import torch

from impl.layers.linear_attention import (
    FavorAttention,
    LinearAttention,
    LinearAttentionState,
    linear_attention,
    orthogonal_projection,
    positive_features,
)
from spec.cases import Bad, Case
from spec.contract import Contract, linear

MODULES = (LinearAttention, FavorAttention)


def _random(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def _features(t, s):
    """φ(q) and φ(k) of 3 samples and 2 heads with 5 features, values of width 4, and log-weights, one of them −∞."""
    draw = _random()
    query, key, value, level = draw(3, 2, t, 5).exp(), draw(3, 2, s, 5).exp(), draw(3, 2, s, 4), draw(3, 1, s)
    level[:, :, 1] = -torch.inf
    return query, key, value, level


def _tokens(*shape, lengths=None):
    def make():
        x = _random()(*shape)
        return (x,) if lengths is None else (x, torch.arange(shape[1]) < torch.tensor(lengths)[:, None])

    return make


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _call(*shapes, **options):
    return lambda: linear_attention(*(torch.ones(shape) for shape in shapes), **options)


_QKV = (2, 3, 6, 5), (2, 3, 7, 5), (2, 3, 7, 4)
FUNCTION_BAD = {
    "another number of features": _rejects(_call((2, 6, 5), (2, 7, 3), (2, 7, 4)), "5", "3"),
    "fewer values than keys": _rejects(_call((2, 6, 5), (2, 7, 5), (2, 8, 4)), "7", "8"),
    "no keys": _rejects(_call((2, 6, 5), (2, 0, 5), (2, 0, 4)), "0"),
    "keys of another batch": _rejects(_call((2, 6, 5), (3, 7, 5), (2, 7, 4)), "(3, 7, 5)"),
    "values of another batch": _rejects(_call((2, 6, 5), (2, 7, 5), (3, 7, 4)), "(3, 7, 4)"),
    "a vector": _rejects(_call((5,), (5,), (5,)), "(5,)"),
    "causal with other numbers of queries and keys": _rejects(_call(*_QKV, is_causal=True), "6", "7"),
    "a state that is not causal": _rejects(lambda: _call(*_QKV, state=LinearAttentionState())(), "is_causal"),
    "log-weights of the queries": _rejects(_call(*_QKV, log_weight=torch.ones(6)), "(2, 3, 7)", "(6,)"),
    "one log-weight for all": _rejects(_call(*_QKV, log_weight=torch.ones(1)), "(2, 3, 7)", "(1,)"),
    "a log-weight without keys": _rejects(_call(*_QKV, log_weight=torch.tensor(1.0)), "(2, 3, 7)", "()"),
    "log-weights of another batch": _rejects(_call(*_QKV, log_weight=torch.ones(3, 1, 7)), "(3, 1, 7)"),
    "log-weights of more dimensions": _rejects(_call(*_QKV, log_weight=torch.ones(1, 2, 3, 7)), "(1, 2, 3, 7)"),
}
FEATURES_BAD = {
    "a projection of another width": _rejects(
        lambda: positive_features(torch.ones(2, 3, 4), torch.ones(6, 5)), "(2, 3, 4)", "(6, 5)"
    ),
    "a vector": _rejects(lambda: positive_features(torch.ones(4), torch.ones(6, 4)), "(4,)"),
    "a projection for every sample": _rejects(
        lambda: positive_features(torch.ones(2, 3, 4), torch.ones(2, 6, 4)), "(2, 6, 4)"
    ),
}
MODULE_BAD = {
    module: {
        "heads that do not divide": _rejects(lambda module=module: module(12, 5), "12", "5"),
        "input of another width": _rejects(lambda module=module: module(12, 3)(torch.ones(2, 5, 11)), "(2, 5, 11)"),
        "input of two dimensions": _rejects(lambda module=module: module(12, 3)(torch.ones(5, 12)), "(5, 12)"),
        "a key mask of another length": _rejects(
            lambda module=module: module(12, 3)(torch.ones(2, 5, 12), torch.ones(2, 4, dtype=torch.bool)), "(2, 4)"
        ),
        "a key mask of numbers": _rejects(
            lambda module=module: module(12, 3)(torch.ones(2, 5, 12), torch.ones(2, 5)), "(2, 5)", "float32"
        ),
        "a state that is not causal": _rejects(
            lambda module=module: module(12, 3)(torch.ones(2, 5, 12), state=LinearAttentionState()), "is_causal"
        ),
    }
    for module in MODULES
}


def _function(name, build, inputs, bad, exempt=None):
    return Case(
        item="linear-attention",
        name=name,
        build=lambda: build,
        inputs=inputs,
        bad=bad,
        exempt=exempt or {},
        is_function=True,
    )


def _module(name, build, inputs, bad=None):
    return Case(item="linear-attention", name=name, build=build, inputs=inputs, bad=bad or {})


CASES = [
    _function("linear_attention", linear_attention, lambda: _features(4, 7), FUNCTION_BAD),
    _function(
        "positive_features",
        positive_features,
        lambda: (_random()(2, 3, 4), _random(1)(6, 4)),
        FEATURES_BAD,
        {
            "gradient_correct": "relative to a level that is a constant to autograd; specs check them put together",
            "batch_independent": "the projection is no sample",
            "batch_independent_in_eval": "the projection is no sample",
            "empty_batch_is_defined": "the projection is no sample",
        },
    ),
    _module("LinearAttention", lambda: LinearAttention(6, 3), _tokens(2, 4, 6), MODULE_BAD[LinearAttention]),
    _module(
        "LinearAttention, causal, padded, no bias",
        lambda: LinearAttention(6, 2, bias=False, is_causal=True),
        _tokens(3, 4, 6, lengths=[4, 2, 3]),
    ),
    _module(
        "FavorAttention", lambda: FavorAttention(6, 3, num_features=5), _tokens(2, 4, 6), MODULE_BAD[FavorAttention]
    ),
    _module(
        "FavorAttention, causal, padded, no bias",
        lambda: FavorAttention(6, 2, bias=False, is_causal=True),
        _tokens(3, 4, 6, lengths=[4, 2, 3]),
    ),
]


def _heads(of, name, ranges=None, state=None, **arguments):
    return Contract(
        item="linear-attention",
        name=name,
        of=of,
        calls=({"embed_dim": 4, "num_heads": 1} | arguments,),
        ranges={"embed_dim": "int >= 1", "num_heads": "int >= 1"} | (ranges or {}),
        state={"in_proj_weight": "(3 * embed_dim, embed_dim)", "in_proj_bias": "(3 * embed_dim,)"}
        | linear("out_proj", "embed_dim", "embed_dim")
        | (state or {}),
        attributes={"head_dim": "embed_dim / num_heads", "is_causal": "as given"},
        remembers="nothing; a state is the caller's",
    )


_PLAIN = {"linear_attention": linear_attention, "positive_features": positive_features}
CONTRACTS = [
    Contract(
        item="linear-attention",
        name="LinearAttentionState",
        of=LinearAttentionState,
        remembers="S and z of all tokens so far, of one size however many",
    ),
    _heads(LinearAttention, "LinearAttention"),
    _heads(
        FavorAttention,
        "FavorAttention",
        ranges={"num_features": "int >= 1 or None"},
        state={"projection": "(num_features, embed_dim // num_heads)"},
        num_features=5,
    ),
    Contract(
        item="linear-attention",
        name="orthogonal_projection",
        of=orthogonal_projection,
        calls=({"num_features": 5, "width": 3},),
        ranges={"num_features": "int >= 1", "width": "int >= 1"},
    ),
    *(Contract(item="linear-attention", name=name, of=of) for name, of in _PLAIN.items()),
]
