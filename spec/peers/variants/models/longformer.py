"""Longformer of torch.nn's parts, with windows that are gathered token by token."""

import torch
from torch import nn

from ..layers.sliding_window_attention import SlidingWindowAttention


class _Layer(nn.Module):
    def __init__(self, width, heads, window, dilation, hidden, p):
        super().__init__()
        self.self_attn = SlidingWindowAttention(width, heads, window, dilation, p)
        parts = {"linear1": nn.Linear(width, hidden), "act": nn.GELU()}
        self.feed_forward = _Named(parts | {"linear2": nn.Linear(hidden, width)})
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout1, self.dropout2 = nn.Dropout(p), nn.Dropout(p)

    def forward(self, x, positions, present):
        x = self.norm1(x + self.dropout1(self.self_attn(x, positions, present)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class _Named(nn.Module):
    def __init__(self, parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        for part in self.children():
            x = part(x)
        return x


class Longformer(nn.Module):
    def __init__(
        self,
        vocab_size=50265,
        embed_dim=768,
        num_heads=12,
        window=512,
        dilation=1,
        num_layers=12,
        dim_feedforward=3072,
        max_len=4096,
        num_types=1,
        dropout=0.1,
        padding_idx=1,
    ):
        super().__init__()
        self.padding_idx, self.max_len = padding_idx, max_len
        self.words = nn.Embedding(vocab_size, embed_dim, padding_idx)
        self.positions = nn.Embedding(max_len + padding_idx + 1, embed_dim, padding_idx)
        self.types = nn.Embedding(num_types, embed_dim)
        for table in (self.words, self.positions, self.types):
            nn.init.normal_(table.weight, std=0.02)
        for table in (self.words, self.positions):
            nn.init.zeros_(table.weight.data[padding_idx])
        self.norm, self.dropout = nn.LayerNorm(embed_dim), nn.Dropout(dropout)
        windows, dilations = ([s] * num_layers if isinstance(s, int) else s for s in (window, dilation))
        self.layers = nn.ModuleList(
            _Layer(embed_dim, num_heads, w, d, dim_feedforward, dropout) for w, d in zip(windows, dilations)
        )
        self.head = _Named(
            {"dense": nn.Linear(embed_dim, embed_dim), "act": nn.GELU(), "norm": nn.LayerNorm(embed_dim)}
        )
        self.head.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens, global_positions=None, types=None):
        features = self.encode(tokens, global_positions, types)
        return nn.functional.linear(self.head(features), self.words.weight, self.head.bias)

    def encode(self, tokens, global_positions=None, types=None):
        present = tokens.ne(self.padding_idx)
        place = torch.where(present, present.cumsum(1), 0) + self.padding_idx
        x = (
            self.words(tokens)
            + self.positions(place)
            + self.types(torch.zeros_like(tokens) if types is None else types)
        )
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x, global_positions, present)
        return x
