"""Attention by hashing whose rounds are one softmax: every score of a token side by side, repetitions shared out."""

import torch
from torch import nn


def lsh_buckets(vectors, rotations):
    both = torch.cat([rotations, -rotations], -1)
    return (vectors[:, :, None] @ both.transpose(1, 2)[None]).max(-1).indices


class LSHAttention(nn.Module):
    def __init__(
        self,
        embed_dim,
        num_heads,
        num_buckets,
        chunk_length,
        num_hashes=1,
        is_causal=False,
        dropout=0.0,
        bias=False,
    ):
        super().__init__()
        self.num_buckets, self.chunk_length, self.is_causal, self.p = num_buckets, chunk_length, is_causal, dropout
        self.qk_proj, self.v_proj, self.out_proj = (nn.Linear(embed_dim, embed_dim, bias) for _ in range(3))
        self.register_buffer("rotations", torch.randn(num_heads, embed_dim // num_heads, num_hashes, num_buckets // 2))

    def forward(self, input, key_mask=None):
        b, n, _ = input.shape
        heads, width, rounds, half = self.rotations.shape
        wide = torch.promote_types(input.dtype, torch.float32)
        query, value = (p(input).to(wide).view(b, n, heads, width).transpose(1, 2) for p in (self.qk_proj, self.v_proj))
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        buckets = torch.zeros(b, heads, rounds, n, dtype=torch.int64, device=input.device)
        if half:
            buckets = lsh_buckets(query.detach(), rotations.to(query.dtype))
        if key_mask is not None:
            buckets = torch.where(key_mask[:, None, None], buckets, self.num_buckets)
        m, place = self.chunk_length, torch.arange(n, device=input.device)
        order = (buckets * n + place).argsort(-1)
        rank = order.argsort(-1)
        # Of each token in each round the 2m places of its chunk and the one before, and who stands there.
        start = (rank // m - 1) * m
        spot = start[..., None] + torch.arange(2 * m, device=input.device)
        valid = (spot >= 0) & (spot < n)
        who = order.gather(-1, spot.clamp(0, max(n - 1, 0)).flatten(3)).view(spot.shape)
        bucket = buckets.gather(-1, who.flatten(3)).view(spot.shape)
        valid = valid & (bucket == buckets[..., None])
        if self.is_causal:
            valid = valid & (who <= place[:, None])
        who, valid = (t.transpose(2, 3).flatten(3) for t in (who, valid))  # (b, heads, n, rounds · 2m)
        same = (who[..., :, None] == who[..., None, :]) & valid[..., None, :]
        key = query / (query.square().sum(-1, keepdim=True) + width * 1e-6).sqrt()
        lead = torch.arange(b * heads, device=input.device).view(b, heads, 1, 1) * n
        keys, values = (t.flatten(0, 2)[who + lead] for t in (key, value))
        scores = torch.einsum("bhnd,bhnkd->bhnk", query, keys) - same.sum(-1).clamp(min=1).to(query.dtype).log()
        scores = torch.where(who == place[:, None], scores - 1e5, scores).masked_fill(~valid, -torch.inf)
        weights = nn.functional.dropout(scores.softmax(-1), self.p, self.training)
        read = torch.einsum("bhnk,bhnkd->bhnd", weights, values)
        return self.out_proj(read.transpose(1, 2).flatten(2).to(input.dtype))


class ReversibleBlock(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1, x2, *context):
        x1 = self.f(x2, *context) + x1
        return x1, self.g(x1) + x2

    def inverse(self, y1, y2, *context):
        y2 = y2 - self.g(y1)
        return y1 - self.f(y2, *context), y2
