"""Blocks as a loop over their branches: attention by einsum, dropout and activations as functions."""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["FeedForward", "TransformerDecoderBlock", "TransformerEncoderBlock"]

_KNOWN = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh")}


class FeedForward(nn.Module):
    def __init__(self, d_model, dim_feedforward, activation="relu", dropout=0.0, bias=True):
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)
        self.rate, self.activation = dropout, _KNOWN.get(activation, activation)

    def forward(self, x):
        return self.linear2(F.dropout(self.activation(self.linear1(x)), self.rate, self.training))


class _Attention(nn.Module):
    def __init__(self, width, heads, rate, bias, is_causal):
        super().__init__()
        self.heads, self.rate, self.is_causal = heads, rate, is_causal
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.out_proj = nn.Linear(width, width, bias)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, x, context=None, attn_mask=None, key_mask=None, cache=None):
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        read = (x, *[x if context is None else context] * 2)
        q, k, v = (
            F.linear(t, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t, w, b in zip(read, self.in_proj_weight.chunk(3), biases)
        )
        if cache is not None:
            k, v = cache.append(k, v)
        t, s = q.shape[2], k.shape[2]
        allowed = torch.ones(t, s, dtype=torch.bool, device=x.device).tril(s - t if self.is_causal else s)
        for mask in (attn_mask, None if key_mask is None else key_mask[:, None, None]):
            allowed = allowed if mask is None else allowed & mask
        scores = torch.einsum("bhtd,bhsd->bhts", q, k).div(q.shape[-1] ** 0.5)
        weights = torch.where(allowed, scores, float("-inf")).softmax(-1).masked_fill(~allowed, 0)
        found = torch.einsum("bhts,bhsd->bthd", F.dropout(weights, self.rate, self.training), v)
        return self.out_proj(found.flatten(2))


class _Block(nn.Module):
    def _set_up(self, branches, d_model, dim_feedforward, rate, activation, eps, norm_first, bias, feed_forward):
        self.rate, self.norm_first, self.feed_forward = rate, norm_first, feed_forward
        if feed_forward is None:  # the maps are the block's own
            inside = FeedForward(d_model, dim_feedforward, activation, rate, bias)
            self.linear1, self.linear2, self.activation = inside.linear1, inside.linear2, inside.activation
        for n in range(branches):
            setattr(self, f"norm{n + 1}", nn.LayerNorm(d_model, eps, bias=bias))

    def _run(self, x, *branches):
        network = self.feed_forward if self.feed_forward is not None else lambda t: FeedForward.forward(self, t)
        for n, branch in enumerate((*branches, network), 1):
            norm = getattr(self, f"norm{n}")
            x = x + F.dropout(branch(norm(x) if self.norm_first else x), self.rate, self.training)
            x = x if self.norm_first else norm(x)
        return x


class TransformerEncoderBlock(_Block):
    def __init__(
        self,
        d_model,
        nhead=None,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        is_causal=False,
        self_attn=None,
        feed_forward=None,
    ):
        super().__init__()
        self.self_attn = self_attn if self_attn is not None else _Attention(d_model, nhead, dropout, bias, is_causal)
        self._set_up(2, d_model, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias, feed_forward)

    def forward(self, input, **attention):
        return self._run(input, lambda t: self.self_attn(t, **attention))


class TransformerDecoderBlock(_Block):
    def __init__(
        self,
        d_model,
        nhead,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        is_causal=True,
        feed_forward=None,
    ):
        super().__init__()
        self.self_attn = _Attention(d_model, nhead, dropout, bias, is_causal)
        self.multihead_attn = _Attention(d_model, nhead, dropout, bias, False)
        self._set_up(3, d_model, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias, feed_forward)

    def forward(
        self,
        input,
        memory,
        attn_mask=None,
        key_mask=None,
        memory_attn_mask=None,
        memory_key_mask=None,
        cache=None,
    ):
        return self._run(
            input,
            lambda t: self.self_attn(t, None, attn_mask, key_mask, cache),
            lambda t: self.multihead_attn(t, memory, memory_attn_mask, memory_key_mask),
        )
