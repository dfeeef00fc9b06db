"""Linear attention by a softmax over the kernel's logarithms within blocks, and a plain recurrence between them.

Features, levels and the decay of the sums are formed otherwise than in the reference: logarithms until the end of a
block of 32, Gram-Schmidt in place of QR, autograd alone.
"""

import math

import torch
from torch import nn

__all__ = [
    "FavorAttention",
    "LinearAttention",
    "LinearAttentionState",
    "linear_attention",
    "orthogonal_projection",
    "positive_features",
]
BLOCK = 32


def orthogonal_projection(num_features, width, generator=None, dtype=None):
    blocks = -(-num_features // width)
    rows, lengths = (torch.randn(blocks, width, width, generator=generator, dtype=dtype).double() for _ in range(2))
    found = []
    for n in range(width):
        row = rows[:, n]
        for _ in range(2):  # once more, for what rounding left
            for other in found:
                row = row - (row * other).sum(-1, keepdim=True) * other
        found.append(row / row.norm(dim=-1, keepdim=True))
    projection = torch.stack(found, 1) * lengths.norm(dim=-1, keepdim=True)
    return projection.reshape(-1, width)[:num_features].to(dtype or torch.get_default_dtype())


def positive_features(x, projection):
    products = torch.einsum("...d,md->...m", x, projection)
    level = products.amax(-1, keepdim=True).detach()
    norm = (x * x).sum(-1, keepdim=True) / 2
    features = (products - level).exp() * (norm.detach() - norm).exp()
    return features, (level - norm.detach())[..., 0] - 0.5 * math.log(projection.shape[0])


class LinearAttentionState:
    def __init__(self):
        self.sums, self.level = None, None


def linear_attention(query, key, value, log_weight=None, is_causal=False, state=None):
    dtype = query.dtype
    query, key, value = (t.to(torch.promote_types(dtype, torch.float32)) for t in (query, key, value))
    lowest = torch.finfo(query.dtype).min
    level = query.new_zeros(key.shape[:-1]) if log_weight is None else log_weight.to(query.dtype).expand(key.shape[:-1])
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    if not is_causal:
        return _divided(query @ _gathered(key, value, level, level.detach().amax(-1).clamp(min=lowest))).to(dtype)
    sums = query.new_zeros(*key.shape[:-2], key.shape[-1], value.shape[-1])
    top = query.new_full(key.shape[:-2], lowest)
    if state is not None and state.sums is not None:
        sums, top = state.sums, state.level[..., 0].expand(key.shape[:-2])
    read = []
    for q, k, v, w in zip(*(t.split(BLOCK, -2) for t in (query, key, value, level.unsqueeze(-1)))):
        w = w.squeeze(-1)
        highest = torch.maximum(w.detach().cummax(-1).values, top[..., None]).clamp(min=lowest)
        n = k.shape[-2]
        allowed = torch.arange(n, device=k.device) <= torch.arange(n, device=k.device)[:, None]
        decay = torch.where(allowed, w[..., None, :] - highest[..., None], -torch.inf).exp()
        near = (torch.einsum("...im,...jm->...ij", q, k) * decay) @ v
        read.append(near + (top[..., None] - highest).exp()[..., None] * (q @ sums))
        new = highest[..., -1]
        sums = sums * (top - new).exp()[..., None, None] + _gathered(k, v, w, new)
        top = new
    if state is not None:
        state.sums, state.level = sums, top[..., None]
    return _divided(torch.cat(read, -2)).to(dtype)


def _gathered(key, value, level, top):
    return torch.einsum("...jm,...jv,...j->...mv", key, value, (level - top[..., None]).exp())


def _divided(sums):
    count = sums[..., -1:]
    return torch.where(count == 0, torch.zeros_like(sums), sums / torch.where(count == 0, 1, count))[..., :-1]


class _Layer(nn.Module):
    def __init__(self, embed_dim, num_heads, bias, is_causal):
        super().__init__()
        self.num_heads, self.head_dim, self.is_causal = num_heads, embed_dim // num_heads, is_causal
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * embed_dim, embed_dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, input, key_mask=None, state=None):
        packed = nn.functional.linear(input, self.in_proj_weight, self.in_proj_bias)
        split = packed.reshape(*input.shape[:2], 3, self.num_heads, self.head_dim)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        query, _ = self.kernel(query)
        key, level = self.kernel(key)
        if key_mask is not None:
            level = level.masked_fill(~key_mask[:, None], -torch.inf)
        read = linear_attention(query, key, value.to(query.dtype), level, self.is_causal, state).to(input.dtype)
        return self.out_proj(read.transpose(1, 2).reshape(input.shape))


class LinearAttention(_Layer):
    def __init__(self, embed_dim, num_heads, bias=True, is_causal=False):
        super().__init__(embed_dim, num_heads, bias, is_causal)

    def kernel(self, x):
        below = torch.where(x > 0, torch.zeros_like(x), x)
        return torch.where(x > 0, 1 + x, below.exp()), x.new_zeros(x.shape[:-1])


class FavorAttention(_Layer):
    def __init__(self, embed_dim, num_heads, num_features=None, bias=True, is_causal=False):
        super().__init__(embed_dim, num_heads, bias, is_causal)
        d = self.head_dim
        count = max(1, math.floor(d * math.log(d))) if num_features is None else num_features
        self.register_buffer("projection", orthogonal_projection(count, d))

    def kernel(self, x):
        wide = torch.promote_types(x.dtype, torch.float32)
        return positive_features(x.to(wide) / self.head_dim**0.25, self.projection.to(wide))

    def redraw(self, generator=None):
        self.projection.data.copy_(orthogonal_projection(*self.projection.shape, generator))
