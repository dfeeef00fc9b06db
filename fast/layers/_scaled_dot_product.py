"""Scaled dot-product attention: every query takes the average of the values, weighted by how well their keys fit it.

Vaswani et al. 2017, arXiv:1706.03762, §3.2.1, eq. 1; grouped heads: Ainslie et al. 2023, arXiv:2305.13245, §2.2.

    Attention(Q, K, V) = softmax(Q Kᵀ/√d_k) V

Convention: in a boolean mask True means "may attend", as in torch's function of this name, not as in
torch.nn.MultiheadAttention; a floating mask is added to the scores. Causal masks are aligned at the bottom right (the
last query sees every key), where torch aligns them at the top left. A query that may attend to nothing gets 0. Scores
and softmax are float32 or wider, under autocast as well.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._autocast import without_autocast


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
        if min(query.dim(), key.dim(), value.dim()) < 3:
            found = [tuple(t.shape) for t in (query, key, value)]
            raise ValueError(f"expected heads in the third dimension from the end with enable_gqa, got shapes {found}")
        shared = query.shape[-3] // max(key.shape[-3], 1)  # query head h reads head h // shared of the keys
        key, value = (t.repeat_interleave(shared, dim=-3) for t in (key, value))
    _check(query, key, value, attn_mask, dropout_p)
    dtype = query.dtype
    query, key, value = (t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value))
    shape = (*query.shape[:-1], key.shape[-2])
    bias = _bias(attn_mask, is_causal, shape, query)
    keep = None
    if dropout_p:
        keep = torch.empty(shape, dtype=query.dtype, device=query.device).bernoulli_(1 - dropout_p).div_(1 - dropout_p)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    output, weights = _Attend.apply(query, key, value, bias, keep, scale)
    return output.to(dtype), weights.to(dtype)


def check_dropout(p):
    if not 0 <= p < 1:
        raise ValueError(f"expected a probability of dropout in [0, 1), got {p}")


def _check(query, key, value, attn_mask, dropout_p):
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


def _bias(attn_mask, is_causal, shape, like):
    """The masks as one number added to each score, −∞ where a query may not attend; None without a mask."""
    bias = attn_mask
    if attn_mask is not None:
        bias = attn_mask.to(like.dtype)
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros_like(bias).masked_fill_(~attn_mask, -math.inf)
    if is_causal:
        t, s = shape[-2:]
        future = torch.full((t, s), -math.inf, dtype=like.dtype, device=like.device).triu_(1 + s - t)
        bias = future if bias is None else bias + future
    return bias


class _Attend(torch.autograd.Function):
    """The backward pass in four products, with two passes over the scores in place.

    The weights P are an output although most callers drop them: a saved output is part of the graph, so that second
    derivatives flow through it; any other number that forward computes would be a constant to them.

        ∂V = Pᵀ ∂O,   ∂P = ∂O Vᵀ,   ∂S = P ∘ (∂P − rowsum(P ∘ ∂P)),   ∂Q = τ ∂S K,   ∂K = τ ∂Sᵀ Q,
    where rowsum(P ∘ ∂P) = rowsum(O ∘ ∂O) is taken of the narrower tensors; Dao et al. 2022, arXiv:2205.14135, App. B.2.
    """

    @staticmethod
    @without_autocast
    def forward(ctx, query, key, value, bias, keep, scale):
        scores = (query * scale) @ key.mT
        if bias is not None:
            scores.add_(bias)
        weights = scores.softmax(-1)
        if bias is not None:
            weights.masked_fill_((bias == -math.inf).all(-1, keepdim=True), 0)  # 0/0 where nothing may be attended to
        output = (weights if keep is None else weights * keep) @ value
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, key, value, bias, keep, weights, output)
        return output, weights

    @staticmethod
    @without_autocast
    def backward(ctx, d_output, d_weights):
        query, key, value, bias, keep, weights, output = ctx.saved_tensors
        d_output = torch.zeros_like(output) if d_output is None else d_output
        d_scores, dropped = d_output @ value.mT, weights
        if keep is not None:
            d_scores, dropped = d_scores.mul_(keep), weights * keep
        level = (output * d_output).sum(-1, keepdim=True)
        if d_weights is not None:
            d_scores, level = d_scores + d_weights, level + (weights * d_weights).sum(-1, keepdim=True)
        d_scores = d_scores.sub_(level).mul_(weights)
        d_query, d_key = (d_scores @ key) * ctx.scale, d_scores.mT @ (query * ctx.scale)
        d_bias = d_scores.sum_to_size(bias.shape) if ctx.needs_input_grad[3] else None
        return d_query, d_key, dropped.mT @ d_output, d_bias, None, None
