"""Scaled dot-product attention: every query takes the average of the values, weighted by how well their keys fit it.

Vaswani et al. 2017, arXiv:1706.03762, §3.2.1, eq. 1; grouped heads: Ainslie et al. 2023, arXiv:2305.13245, §2.2.

    Attention(Q, K, V) = softmax(Q Kᵀ/√d_k) V

Convention: in a boolean mask True means "may attend", as in torch's function of this name, not as in
torch.nn.MultiheadAttention; a floating mask is added to the scores. Causal masks are aligned at the bottom right (the
last query sees every key), where torch aligns them at the top left. A query that may attend to nothing gets 0. Scores
and softmax are float32 or wider; under autocast the two products are made as autocast makes them.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import check_dropout
from .numerics import at_least_float32, masked_softmax


def scaled_dot_product_attention(
    query: Float[Tensor, "*queries t d_k"],
    key: Float[Tensor, "*keys s d_k"],
    value: Float[Tensor, "*keys s d_v"],
    attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*queries t d_v"]:
    """softmax(scale · Q Kᵀ + mask) V.

    Args:
        query, key, value: Q, K and V; leading dimensions, heads the last of them, are alike.
        attn_mask: broadcasts to (*queries, t, s); True where a query may attend, or values added to the scores.
        dropout_p: probability with which a weight is dropped, at every call.
        is_causal: query i may attend to keys up to i + s − t only; together with `attn_mask`, where both allow it.
        scale: factor of Q Kᵀ; default 1/√d_k.
        enable_gqa: if True, there may be fewer heads of keys and values than of queries, and each serves as many
            neighbouring heads of queries.

    Raises:
        ValueError: shapes that do not fit together, a mask of integers, or `dropout_p` outside [0, 1).

    Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]


def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The output of `scaled_dot_product_attention` and its weights (*queries, t, s) before dropout."""
    if enable_gqa:
        _check_heads(query, key, value)
        shared = query.shape[-3] // max(key.shape[-3], 1)  # query head h attends to head h // shared of the keys
        key, value = (t.repeat_interleave(shared, dim=-3) for t in (key, value))
    _check_shapes(query, key, value, attn_mask, dropout_p)
    dtype = query.dtype
    query, key, value = (at_least_float32(t) for t in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.mT  # (*queries, t, s)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    if is_causal:
        t, s = scores.shape[-2:]
        future = torch.ones(t, s, dtype=torch.bool, device=scores.device).triu(1 + s - t)
        scores = scores.masked_fill(future, -math.inf)
    weights = masked_softmax(scores)
    kept = weights * torch.empty_like(weights).bernoulli_(1 - dropout_p) / (1 - dropout_p) if dropout_p else weights
    return (kept @ value).to(dtype), weights.to(dtype)


def _check_heads(query, key, value):
    if min(query.dim(), key.dim(), value.dim()) < 3:
        found = [tuple(t.shape) for t in (query, key, value)]
        raise ValueError(f"expected heads in the third dimension from the end with enable_gqa, got shapes {found}")


def _check_shapes(query, key, value, attn_mask, dropout_p):
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if min(map(len, shapes)) < 2 or not shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2]:
        raise ValueError(f"expected query, key and value with the same leading dimensions, got shapes {shapes}")
    if shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"expected keys as wide as queries, {shapes[0][-1]}, got {shapes[1][-1]}")
    if shapes[1][-2] != shapes[2][-2]:
        raise ValueError(f"expected as many values as keys, {shapes[1][-2]}, got {shapes[2][-2]}")
    check_dropout(dropout_p)
    if attn_mask is None:
        return
    if attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise ValueError(f"expected attn_mask to be boolean (True: may attend) or floating, got {attn_mask.dtype}")
    scores = (*shapes[0][:-1], shapes[1][-2])
    fits = all(a in (1, b) for a, b in zip(reversed(attn_mask.shape), reversed(scores)))
    if attn_mask.dim() > len(scores) or not fits:
        raise ValueError(f"expected attn_mask to broadcast to {scores}, got shape {tuple(attn_mask.shape)}")
