"""FlashAttention in the order of its first paper: keys outside, and an output that is normalised at every step.

Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; the masks become one tile of numbers.
"""

import math

import torch


def flash_attention(
    query,
    key,
    value,
    attn_mask=None,
    is_causal=False,
    scale=None,
    return_lse=False,
    block_q=128,
    block_k=128,
):
    dtype = query.dtype
    query, key, value = (t if t.dtype == torch.float64 else t.float() for t in (query, key, value))
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    output, lse = _KeysOutside.apply(query, key, value, attn_mask, is_causal, scale, block_q, block_k)
    return (output.to(dtype), lse) if return_lse else output.to(dtype)


def _tiles(t, s, block_q, block_k):
    for j in range(0, s, block_k):
        for i in range(0, t, block_q):
            yield slice(i, min(i + block_q, t)), slice(j, min(j + block_k, s))


def _cut(mask, rows, columns):
    shape = (1,) * (2 - mask.dim()) + tuple(mask.shape)
    mask = mask.view(shape) if mask.dim() < 2 else mask
    mask = mask[..., rows, :] if shape[-2] != 1 else mask
    return mask[..., columns] if shape[-1] != 1 else mask


def _scores(query, key, mask, is_causal, scale, rows, columns):
    """A tile of S, 0 where it is hidden, and what is not hidden."""
    t, s = query.shape[-2], key.shape[-2]
    scores = torch.einsum("...td,...sd->...ts", query[..., rows, :], key[..., columns, :]) * scale
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    if is_causal:
        i = torch.arange(rows.start, rows.stop, device=scores.device)
        seen = i[:, None] + s - t >= torch.arange(columns.start, columns.stop, device=scores.device)
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & _cut(mask, rows, columns)
    elif mask is not None:
        added = _cut(mask, rows, columns)
        seen = seen & (added > -math.inf)
        scores = scores + added.masked_fill(added == -math.inf, 0)
    return scores.masked_fill(~seen, 0), seen


class _KeysOutside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, is_causal, scale, block_q, block_k):
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        lse = query.new_full(query.shape[:-1], -math.inf)
        ctx.options = is_causal, scale, block_q, block_k
        for rows, columns in _tiles(query.shape[-2], key.shape[-2], block_q, block_k):
            scores, seen = _scores(query, key, mask, is_causal, scale, rows, columns)
            of_tile = torch.logsumexp(scores.masked_fill(~seen, -math.inf), -1)
            joint = torch.logaddexp(lse[..., rows], of_tile)
            level = joint.masked_fill(joint == -math.inf, 0)[..., None]
            kept = (lse[..., rows, None] - level).exp()
            weights = (scores - level).masked_fill(~seen, -math.inf).exp()
            output[..., rows, :] = kept * output[..., rows, :] + weights @ value[..., columns, :]
            lse[..., rows] = joint
        ctx.save_for_backward(query, key, value, mask, output, lse)
        return output, lse

    @staticmethod
    def backward(ctx, d_output, d_lse):
        query, key, value, mask, output, lse = ctx.saved_tensors
        is_causal, scale, block_q, block_k = ctx.options
        d_query, d_key, d_value = (torch.zeros_like(t) for t in (query, key, value))
        d_mask = torch.zeros_like(mask) if ctx.needs_input_grad[3] else None
        level = lse.masked_fill(lse == -math.inf, 0)[..., None]
        lift = d_lse[..., None] - (d_output * output).sum(-1, keepdim=True)
        for rows, columns in _tiles(query.shape[-2], key.shape[-2], block_q, block_k):
            scores, seen = _scores(query, key, mask, is_causal, scale, rows, columns)
            weights = (scores - level[..., rows, :]).masked_fill(~seen, -math.inf).exp()
            d_out = d_output[..., rows, :]
            d_scores = weights * (d_out @ value[..., columns, :].mT + lift[..., rows, :])
            d_value[..., columns, :] += weights.mT @ d_out
            d_query[..., rows, :] += scale * d_scores @ key[..., columns, :]
            d_key[..., columns, :] += scale * d_scores.mT @ query[..., rows, :]
            if d_mask is not None:
                part = _cut(d_mask, rows, columns)
                part += d_scores.sum_to_size(part.shape)
        return d_query, d_key, d_value, d_mask, None, None, None, None
