"""FlashAttention: exact attention tile by tile, in memory linear in the number of tokens.

Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691; the online softmax: Milakov & Gimelshein 2018,
arXiv:1805.02867. For each block of queries, over the blocks j of keys:

    S_j = τ Q K_jᵀ,   m' = max(m, rowmax S_j),   P_j = exp(S_j − m'),
    ℓ ← e^{m − m'} ℓ + rowsum P_j,   O ← e^{m − m'} O + P_j V_j,   m ← m';   at the end O ← O/ℓ,   L = m + log ℓ

Convention: masks as in scaled dot-product attention: True means "may attend", values are added to the scores, a causal
mask is aligned at the bottom right (the last query sees every key), a query that may attend to nothing gets O = 0 and
L = −∞. Scores, softmax and L are float32 or wider. A second derivative is right, but not in linear memory.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._autocast import without_autocast


def flash_attention(
    query: Float[Tensor, "*batch t d_k"],
    key: Float[Tensor, "*batch s d_k"],
    value: Float[Tensor, "*batch s d_v"],
    attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    block_q: int = 128,
    block_k: int = 128,
) -> Float[Tensor, "*batch t d_v"] | tuple[Float[Tensor, "*batch t d_v"], Float[Tensor, "*batch t"]]:
    """softmax(scale · Q Kᵀ + mask) V; on request also L = log Σ_s exp(scale · Q Kᵀ + mask).

    Args:
        query, key, value: Q, K and V; leading dimensions (samples, heads) are alike.
        attn_mask: broadcasts to (*batch, t, s); True where a query may attend, or values added to the scores.
        is_causal: query i may attend to keys up to i + s − t only; together with `attn_mask`, where both allow it.
        scale: τ, factor of Q Kᵀ; default 1/√d_k.
        return_lse: if True, return (O, L): parts of the keys can be attended to apart and merged by their L.
        block_q, block_k: B_r and B_c, queries and keys of a tile; no result depends on them. Tiles are cut from the
            first query and key on; where causality hides a whole tile, it is skipped.

    Raises:
        ValueError: shapes that do not fit together, a mask of integers, a block below 1.

    Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
    """
    _check(query, key, value, attn_mask, block_q, block_k)
    dtype = query.dtype
    query, key, value = (t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value))
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    lag = key.shape[-2] - query.shape[-2] if is_causal else None  # how far the last key is ahead of the last query
    output, lse = _Flash.apply(query, key, value, attn_mask, lag, scale, block_q, block_k)
    return (output.to(dtype), lse) if return_lse else output.to(dtype)


class _Flash(torch.autograd.Function):
    """Saves Q, K, V, O and L alone; the backward pass recomputes each tile of P from L.

        P = exp(S − L),   D = rowsum(O ∘ ∂O) − ∂L,   ∂S = P ∘ (∂O Vᵀ − D)
        ∂V = Pᵀ ∂O,   ∂Q = τ ∂S K,   ∂K = τ ∂Sᵀ Q

    L is an output although most callers drop it: a saved output is part of the graph, so that second derivatives flow
    through it; anything else that forward computes would be a constant to them.
    """

    @staticmethod
    @without_autocast
    def forward(ctx, query, key, value, mask, lag, scale, block_q, block_k):
        output = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
        lse = torch.empty(query.shape[:-1], dtype=query.dtype, device=query.device)
        for rows in _blocks(query.shape[-2], block_q):
            q = query[..., rows, :] * scale
            peak = torch.full_like(q[..., :1], -math.inf)  # m
            total = torch.zeros_like(peak)  # ℓ
            out = torch.zeros_like(output[..., rows, :])
            for columns in _visible(key.shape[-2], rows, lag, block_k):
                scores = _scores(q, key[..., columns, :], mask, rows, columns, lag)
                higher = torch.maximum(peak, scores.amax(-1, keepdim=True))
                level = higher.masked_fill(higher == -math.inf, 0)  # nothing seen yet: −∞ − (−∞) is NaN
                weights = scores.sub_(level).exp_()
                shrink = (peak - level).exp_()
                total = total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
                out = out.mul_(shrink).add_(weights @ value[..., columns, :])
                peak = higher
            lse[..., rows] = (peak + total.log()).squeeze(-1)
            output[..., rows, :] = out.div_(total.masked_fill_(total == 0, 1))
        ctx.save_for_backward(query, key, value, mask, output, lse)
        ctx.options = lag, scale, block_q, block_k
        return output, lse

    @staticmethod
    @without_autocast
    def backward(ctx, d_output, d_lse):
        query, key, value, mask, output, lse = ctx.saved_tensors
        lag, scale, block_q, block_k = ctx.options
        d_query, d_key, d_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        d_mask = torch.zeros_like(mask) if ctx.needs_input_grad[3] else None
        norm = lse.masked_fill(lse == -math.inf, 0)[..., None]
        slack = (output * d_output).sum(-1, keepdim=True) - d_lse[..., None]  # D
        for rows in _blocks(query.shape[-2], block_q):
            q, d_out = query[..., rows, :] * scale, d_output[..., rows, :]
            for columns in _visible(key.shape[-2], rows, lag, block_k):
                k = key[..., columns, :]
                weights = _scores(q, k, mask, rows, columns, lag).sub_(norm[..., rows, :]).exp_()
                d_value[..., columns, :].add_(weights.mT @ d_out)
                d_scores = (d_out @ value[..., columns, :].mT).sub_(slack[..., rows, :]).mul_(weights)
                d_query[..., rows, :].add_(d_scores @ k, alpha=scale)
                d_key[..., columns, :].add_(d_scores.mT @ q)
                if d_mask is not None:
                    d_tile = _tile(d_mask, rows, columns)
                    d_tile.add_(d_scores.sum_to_size(d_tile.shape))
        return d_query, d_key, d_value, d_mask, None, None, None, None


def _blocks(length, size):
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _visible(keys, rows, lag, size):
    """The blocks of keys that some query of these rows may attend to; the others cost nothing."""
    return [columns for columns in _blocks(keys, size) if lag is None or columns.start < rows.stop + lag]


def _scores(q, k, mask, rows, columns, lag):
    """A tile of S, −∞ where a query may not attend; `q` is scaled."""
    scores = q @ k.mT
    if mask is not None and mask.dtype == torch.bool:
        scores.masked_fill_(~_tile(mask, rows, columns), -math.inf)
    elif mask is not None:
        scores.add_(_tile(mask, rows, columns))
    if lag is not None and columns.stop > rows.start + lag + 1:  # the tile reaches beyond the first row's last key
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores.masked_fill_(future.triu_(rows.start + lag + 1 - columns.start), -math.inf)
    return scores


def _tile(mask, rows, columns):
    """The part of a mask that belongs to a tile; a dimension of size 1 belongs to all."""
    if mask.dim() > 1 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return mask[..., columns] if mask.dim() and mask.shape[-1] > 1 else mask


def _check(query, key, value, attn_mask, block_q, block_k):
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if min(map(len, shapes)) < 2 or not shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2]:
        raise ValueError(f"expected query, key and value with the same leading dimensions, got shapes {shapes}")
    if shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"expected keys as wide as queries, {shapes[0][-1]}, got {shapes[1][-1]}")
    if shapes[1][-2] != shapes[2][-2]:
        raise ValueError(f"expected as many values as keys, {shapes[1][-2]}, got {shapes[2][-2]}")
    if min(block_q, block_k) < 1:
        raise ValueError(f"expected block_q >= 1 and block_k >= 1, got {block_q} and {block_k}")
    if attn_mask is None:
        return
    if attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise ValueError(f"expected attn_mask to be boolean (True: may attend) or floating, got {attn_mask.dtype}")
    scores = (*shapes[0][:-1], shapes[1][-2])
    fits = all(a in (1, b) for a, b in zip(reversed(attn_mask.shape), reversed(scores)))
    if attn_mask.dim() > len(scores) or not fits:
        raise ValueError(f"expected attn_mask to broadcast to {scores}, got shape {tuple(attn_mask.shape)}")
