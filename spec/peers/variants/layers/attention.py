"""Attention in plain operators and by autograd alone: exp of masked scores over their sum, heads by einsum."""

import torch
from torch import nn

__all__ = ["CrossAttention", "KeyValueCache", "MultiHeadAttention", "scaled_dot_product_attention"]


def _weights(query, key, attn_mask, is_causal, scale):
    wide = torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("...td,...sd->...ts", query.to(wide), scale * key.to(wide))
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    if is_causal:
        t, s = scores.shape[-2:]
        here, there = torch.arange(t, device=scores.device), torch.arange(s, device=scores.device)
        allowed = allowed & (there <= here[:, None] + (s - t))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        allowed = allowed & attn_mask
    elif attn_mask is not None:
        allowed = allowed & (attn_mask != -torch.inf)
        scores = scores + torch.where(attn_mask == -torch.inf, 0, attn_mask.to(wide))
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    grown = (scores - scores.detach().amax(-1, keepdim=True)).exp() * allowed
    total = grown.sum(-1, keepdim=True)
    return (grown / torch.where(total == 0, 1, total)).to(query.dtype)


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if enable_gqa:
        serving = torch.arange(query.shape[-3], device=query.device) * key.shape[-3] // query.shape[-3]
        key, value = key.index_select(-3, serving), value.index_select(-3, serving)
    weights = _weights(query, key, attn_mask, is_causal, scale)
    weights = nn.functional.dropout(weights, dropout_p) if dropout_p else weights
    return torch.einsum("...ts,...sd->...td", weights, value)


class KeyValueCache:
    def __init__(self):
        self.key, self.value = None, None

    def append(self, key, value):
        for name, new in (("key", key), ("value", value)):
            old = getattr(self, name)
            setattr(self, name, new if old is None else torch.cat([old, new], 2))
        return self.key, self.value


class _Layer(nn.Module):
    def start(self, embed_dim, inner, bias, **shapes):
        for name, (rows, columns) in shapes.items():
            weight = torch.empty(rows, columns)
            self.register_parameter(name, nn.Parameter(nn.init.xavier_uniform_(weight)))
        rows = sum(rows for rows, _ in shapes.values())
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(rows)) if bias else None)
        self.out_proj = nn.Linear(inner, embed_dim, bias)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def heads(self, tokens, weight, bias):
        weight = weight.unflatten(0, (-1, self.head_dim))
        read = torch.einsum("btd,hed->bhte", tokens, weight)
        return read if bias is None else read + bias.reshape(-1, 1, self.head_dim)

    def join(self, query, key, value, attn_mask, key_mask, is_causal, need_weights):
        if key_mask is not None:
            hidden = ~key_mask[:, None, None]
            if attn_mask is None:
                attn_mask = ~hidden
            else:
                fill = False if attn_mask.dtype == torch.bool else -torch.inf
                attn_mask = attn_mask.masked_fill(hidden, fill)
        options = {"is_causal": is_causal, "enable_gqa": True}
        p = self.dropout if self.training else 0.0
        read = scaled_dot_product_attention(query, key, value, attn_mask, p, **options)
        weight = self.out_proj.weight.unflatten(1, (-1, self.head_dim))
        output = torch.einsum("bhte,dhe->btd", read, weight)
        output = output if self.out_proj.bias is None else output + self.out_proj.bias
        if not need_weights:
            return output
        shared = query.shape[1] // key.shape[1]
        return output, _weights(query, key.repeat_interleave(shared, 1), attn_mask, is_causal, None)


class MultiHeadAttention(_Layer):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, is_causal=False, num_kv_heads=None, head_dim=None):
        super().__init__()
        self.dropout, self.is_causal = dropout, is_causal
        self.head_dim = head_dim or embed_dim // num_heads
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.rows = [self.head_dim * heads for heads in (num_heads, kv_heads, kv_heads)]
        self.start(embed_dim, self.rows[0], bias, in_proj_weight=(sum(self.rows), embed_dim))

    def forward(self, input, attn_mask=None, key_mask=None, need_weights=False, cache=None):
        weights = self.in_proj_weight.split(self.rows)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(self.rows)
        query, key, value = (self.heads(input, w, b) for w, b in zip(weights, biases))
        if cache is not None:
            key, value = cache.append(key, value)
        return self.join(query, key, value, attn_mask, key_mask, self.is_causal, need_weights)


class CrossAttention(_Layer):
    def __init__(self, embed_dim, num_heads, kdim=None, vdim=None, dropout=0.0, bias=True):
        super().__init__()
        self.dropout, self.head_dim = dropout, embed_dim // num_heads
        widths = {"q": embed_dim, "k": kdim or embed_dim, "v": vdim or embed_dim}
        shapes = {f"{name}_proj_weight": (embed_dim, width) for name, width in widths.items()}
        self.start(embed_dim, embed_dim, bias, **shapes)

    def forward(self, query, key, value=None, attn_mask=None, key_mask=None, need_weights=False):
        return self.read(query, *self.project(key, value), attn_mask, key_mask, need_weights)

    def project(self, key, value=None):
        value = key if value is None else value
        return self.made("k", 1, key), self.made("v", 2, value)

    def read(self, query, key, value, attn_mask=None, key_mask=None, need_weights=False):
        return self.join(self.made("q", 0, query), key, value, attn_mask, key_mask, False, need_weights)

    def made(self, name, place, tokens):
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[place]
        return self.heads(tokens, getattr(self, f"{name}_proj_weight"), bias)
