"""Attention next to torch's fused kernel, and its multi-head layers next to torch.nn.MultiheadAttention."""

import torch
from torch import nn

from impl.layers.attention import CrossAttention, MultiHeadAttention, scaled_dot_product_attention
from tools.bench import Pair


class _Multihead(nn.Module):
    """torch.nn.MultiheadAttention without weights, so that it may use its fused kernel."""

    def __init__(self, width, heads, causal=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True, **options)
        self.causal = causal

    def forward(self, query, context=None):
        context = query if context is None else context
        mask = nn.Transformer.generate_square_subsequent_mask(len(query[0])) if self.causal else None
        return self.attention(query, context, context, attn_mask=mask, is_causal=self.causal, need_weights=False)[0]


def _function(**options):
    kernel = torch.nn.functional.scaled_dot_product_attention
    return lambda: lambda *t: scaled_dot_product_attention(*t, **options), lambda: lambda *t: kernel(*t, **options)


def _pair(item, name, ours, theirs, *shapes):
    return Pair(item=item, name=name, ours=ours, theirs=theirs, inputs=lambda: tuple(torch.randn(s) for s in shapes))


_TOKENS, _CONTEXT = (4, 256, 192), (4, 320, 128)
PAIRS = [
    _pair("self-attention", "function", *_function(), *[(2, 6, 256, 64)] * 3),
    _pair("self-attention", "function, causal", *_function(is_causal=True), *[(2, 6, 256, 64)] * 3),
    _pair(
        "self-attention",
        "MultiHeadAttention",
        lambda: MultiHeadAttention(192, 3),
        lambda: _Multihead(192, 3),
        _TOKENS,
    ),
    _pair(
        "self-attention",
        "MultiHeadAttention, causal",
        lambda: MultiHeadAttention(192, 3, is_causal=True),
        lambda: _Multihead(192, 3, causal=True),
        _TOKENS,
    ),
    _pair(
        "cross-attention",
        "CrossAttention",
        lambda: CrossAttention(192, 3, kdim=128, vdim=128),
        lambda: _Multihead(192, 3, kdim=128, vdim=128),
        _TOKENS,
        _CONTEXT,
    ),
]
