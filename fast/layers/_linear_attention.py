"""Attention whose weights are products of positive features: a sum over the past that is carried, not searched.

Katharopoulos et al. 2020, arXiv:2006.16236, eq. 4-6 and 8-12.

    y_i = φ(q_i)ᵀ S_i / φ(q_i)ᵀ z_i,   S_i = Σ_j φ(k_j) v_jᵀ,   z_i = Σ_j φ(k_j)   over all j, or causally over j ≤ i

Convention: no epsilon: the weights of a query sum to 1 however small they were, and a query that reads nothing gets 0.
A column of ones next to V makes z the last column of S. The features of a key may leave out a factor, whose logarithm
is given instead: sums are kept relative to the largest factor so far, as in an online softmax.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Causal sums go from chunk to chunk, and within one by a product with the chunk's own keys.
CHUNK = 64


class LinearAttentionState:
    """S and z of the tokens seen so far, of one size however many: `sums` (…, features, d_v + 1); None before any.

    `level` (…, 1) is the logarithm of the factor that all sums leave out.
    """

    def __init__(self):
        self.sums: Tensor | None = None
        self.level: Tensor | None = None


def linear_attention(
    query: Float[Tensor, "*b t m"],
    key: Float[Tensor, "*b s m"],
    value: Float[Tensor, "*b s d_v"],
    log_weight: Float[Tensor, "..."] | None = None,
    is_causal: bool = False,
    state: LinearAttentionState | None = None,
) -> Float[Tensor, "*b t d_v"]:
    """Σ_j (φ(q_i)ᵀ φ(k_j)) v_j over Σ_j φ(q_i)ᵀ φ(k_j).

    Args:
        query, key: φ(q_i) and φ(k_j), not negative.
        log_weight: broadcasts to (*b, s): logarithm of a factor of each key's features, −∞ for a key to leave out.
        is_causal: sum over keys up to i only; then s = t.
        state: holds the sums of earlier tokens and takes these in; only causally.

    Raises:
        ValueError: shapes that do not fit together, no keys, or a state without `is_causal`.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236, eq. 5 and 9.
    """
    _check(query, key, value, log_weight, is_causal, state)
    dtype = query.dtype
    query, key, value = (t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value))
    level = query.new_zeros(key.shape[-2]) if log_weight is None else log_weight.to(query.dtype)
    value = torch.cat([value, value.new_ones(*value.shape[:-1], 1)], -1)
    if is_causal:
        carried = (None, None) if state is None else (state.sums, state.level)
        read, *carried = _read_causally(query, key, value, level, *carried)
        if state is not None:
            state.sums, state.level = carried
    else:
        top = _finite(level.detach().amax(-1, keepdim=True))
        read = query @ (key.mT @ (value * (level - top).exp().unsqueeze(-1)))
    total, count = read[..., :-1], read[..., -1:]
    return (total / (count + (count == 0))).to(dtype)


def _read_causally(query, key, value, level, now, start):
    """Unnormalised sums (*b, t, d_v + 1) of what each query attends to, up to its position; sums and level after it.

    Args:
        now, start: sums and level before it, None at the beginning.
    """
    t = query.shape[-2]
    size = min(CHUNK, t)
    missing = -t % size
    if missing:
        query, key, value = (torch.constant_pad_nd(u, (0, 0, 0, missing)) for u in (query, key, value))
        level = torch.constant_pad_nd(level, (0, missing), -math.inf)
    query, key, value = (u.unflatten(-2, (-1, size)) for u in (query, key, value))  # (*b, chunks, size, …)

    # The largest logarithm up to each position: sums relative to it neither overflow nor depend on what comes later.
    start = level.new_full((1,), -math.inf) if start is None else start
    top = _finite(torch.maximum(level.detach().cummax(-1).values, start)).unflatten(-1, (-1, size))
    level, last = level.unflatten(-1, (-1, size)), top[..., -1]
    before = torch.cat([_finite(start).expand_as(last[..., :1]), last[..., :-1]], -1)

    future = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    decay = (level.unsqueeze(-2) - top.unsqueeze(-1)).masked_fill(future, -math.inf).exp()
    within = ((query @ key.mT) * decay) @ value
    sums = key.mT @ (value * (level - last.unsqueeze(-1)).exp().unsqueeze(-1))  # (*b, chunks, m, d_v + 1)
    now = torch.zeros_like(sums[..., 0, :, :]) if now is None else now
    earlier = []
    for kept, new in zip((before - last).exp()[..., None, None].unbind(-3), sums.unbind(-3)):
        earlier.append(now)
        now = now * kept + new
    past = (query @ torch.stack(earlier, -3)) * (before.unsqueeze(-1) - top).exp().unsqueeze(-1)
    return (within + past).flatten(-3, -2)[..., :t, :], now, last[..., -1:]


def _finite(level):
    """The lowest number in place of −∞, the level of no key at all: differences of levels are never NaN."""
    return level.clamp(min=torch.finfo(level.dtype).min)


def _check(query, key, value, log_weight, is_causal, state):
    shapes = [tuple(u.shape) for u in (query, key, value)]
    if min(map(len, shapes)) < 2 or not shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2]:
        raise ValueError(f"expected query, key and value with the same leading dimensions, got shapes {shapes}")
    if shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"expected as many features of keys as of queries, {shapes[0][-1]}, got {shapes[1][-1]}")
    if shapes[1][-2] != shapes[2][-2] or not shapes[1][-2]:
        raise ValueError(f"expected keys, and as many values as keys, got {shapes[1][-2]} and {shapes[2][-2]}")
    if is_causal and shapes[0][-2] != shapes[1][-2]:
        raise ValueError(f"expected as many queries as keys with is_causal, got {shapes[0][-2]} and {shapes[1][-2]}")
    if state is not None and not is_causal:
        raise ValueError("expected is_causal=True with a state, got False: earlier tokens would have to be redone")
    if log_weight is not None:
        fits = all(a in (1, b) for a, b in zip(reversed(log_weight.shape), reversed(shapes[1][:-1])))
        if log_weight.dim() > len(shapes[1]) - 1 or not fits or log_weight.shape[-1:] != shapes[1][-2:-1]:
            raise ValueError(f"expected log_weight to broadcast to {shapes[1][:-1]}, got {tuple(log_weight.shape)}")
