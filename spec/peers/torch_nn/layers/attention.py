"""Attention by torch's scaled_dot_product_attention, and the layers of torch.nn.MultiheadAttention around it."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["CrossAttention", "KeyValueCache", "MultiHeadAttention", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """torch's own takes a mask or is_causal, aligned at the top left; the fused kernels have no second derivative."""
    if is_causal:
        t, s = query.shape[-2], key.shape[-2]
        past = torch.ones(t, s, dtype=torch.bool, device=query.device).tril(s - t)
        if attn_mask is None:
            attn_mask = past
        elif attn_mask.dtype == torch.bool:
            attn_mask = attn_mask & past
        else:
            attn_mask = attn_mask.masked_fill(~past, -torch.inf)
    with sdpa_kernel(SDPBackend.MATH):
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, scale=scale, enable_gqa=enable_gqa
        )


class KeyValueCache:
    def __init__(self):
        self.key = self.value = None

    def append(self, key, value):
        if self.key is not None:
            key, value = torch.cat([self.key, key], -2), torch.cat([self.value, value], -2)
        self.key, self.value = key, value
        return key, value


class _Heads(nn.MultiheadAttention):
    """The parameters, their names and their start are torch.nn.MultiheadAttention's."""

    def attend(self, query, key, value, attn_mask, key_mask, causal, need_weights):
        if key_mask is not None:
            keys = key_mask[:, None, None]
            if attn_mask is None:
                attn_mask = keys
            elif attn_mask.dtype == torch.bool:
                attn_mask = attn_mask & keys
            else:
                attn_mask = attn_mask.masked_fill(~keys, -torch.inf)
        options = {"is_causal": causal, "enable_gqa": query.shape[1] != key.shape[1]}
        dropout = self.dropout if self.training else 0.0
        read = scaled_dot_product_attention(query, key, value, attn_mask, dropout, **options)
        output = self.out_proj(read.transpose(1, 2).flatten(2))
        if not need_weights:
            return output
        identity = torch.eye(key.shape[2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
        return output, scaled_dot_product_attention(query, key, identity, attn_mask, **options)

    def heads(self, tokens, weight, bias):
        return nn.functional.linear(tokens, weight, bias).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MultiHeadAttention(_Heads):
    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, is_causal=False, num_kv_heads=None, head_dim=None):
        super().__init__(embed_dim, 1, dropout, bias, batch_first=True)  # heads are cut below
        self.is_causal = is_causal
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.rows = [heads * self.head_dim for heads in (num_heads, kv_heads, kv_heads)]
        if sum(self.rows) != 3 * embed_dim:  # torch.nn has heads of one kind only
            self.in_proj_weight = nn.Parameter(torch.randn(sum(self.rows), embed_dim) / embed_dim**0.5)
            self.in_proj_bias = nn.Parameter(torch.zeros(sum(self.rows))) if bias else None
            self.out_proj = nn.Linear(self.rows[0], embed_dim, bias)

    def forward(self, input, attn_mask=None, key_mask=None, need_weights=False, cache=None):
        weights = self.in_proj_weight.split(self.rows)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(self.rows)
        query, key, value = (self.heads(input, w, b) for w, b in zip(weights, biases))
        if cache is not None:
            key, value = cache.append(key, value)
        return self.attend(query, key, value, attn_mask, key_mask, self.is_causal, need_weights)


class CrossAttention(_Heads):
    def __init__(self, embed_dim, num_heads, kdim=None, vdim=None, dropout=0.0, bias=True):
        super().__init__(embed_dim, num_heads, dropout, bias, kdim=kdim, vdim=vdim, batch_first=True)
        if self._qkv_same_embed_dim:  # torch.nn stacks the three where their widths are equal
            stacked = self.in_proj_weight.detach().chunk(3)
            for name, weight in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), stacked):
                self.register_parameter(name, nn.Parameter(weight.clone()))
            self.register_parameter("in_proj_weight", None)

    def forward(self, query, key, value=None, attn_mask=None, key_mask=None, need_weights=False):
        return self.read(query, *self.project(key, value), attn_mask, key_mask, need_weights)

    def biases(self):
        return (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)

    def project(self, key, value=None):
        _, of_keys, of_values = self.biases()
        value = key if value is None else value
        return self.heads(key, self.k_proj_weight, of_keys), self.heads(value, self.v_proj_weight, of_values)

    def read(self, query, key, value, attn_mask=None, key_mask=None, need_weights=False):
        query = self.heads(query, self.q_proj_weight, self.biases()[0])
        return self.attend(query, key, value, attn_mask, key_mask, False, need_weights)
