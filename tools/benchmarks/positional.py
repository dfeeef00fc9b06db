"""Positions next to torch.nn.Embedding's table and transformers' rotary embedding."""

import torch
from torch import nn

from impl.layers.positional import LearnedPositionalEmbedding, RotaryEmbedding, SinusoidalPositionalEncoding
from tools.bench import Pair


class _Table(nn.Module):
    """A table of vectors added to the tokens, learned or not."""

    def __init__(self, learned):
        super().__init__()
        self.learned = learned
        if learned:
            self.table = nn.Embedding(1024, 192)
        else:
            self.register_buffer("rows", torch.randn(1024, 192))

    def forward(self, x):
        return x + (self.table(torch.arange(x.shape[1])) if self.learned else self.rows[: x.shape[1]])


def _transformers():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    angles = LlamaRotaryEmbedding(LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=512))

    def rotate(query):
        cos, sin = angles(query, torch.arange(query.shape[2])[None])
        return apply_rotary_pos_emb(query, query[:, :1], cos, sin)[0]  # it turns a pair, of which the second is small

    return rotate


def _pair(item, name, ours, theirs, *shape):
    return Pair(item=item, name=name, ours=ours, theirs=theirs, inputs=lambda: (torch.randn(shape),))


PAIRS = [
    _pair(
        "positional-embedding",
        "Sinusoidal",
        lambda: SinusoidalPositionalEncoding(192),
        lambda: _Table(False),
        8,
        512,
        192,
    ),
    _pair(
        "positional-embedding",
        "Learned",
        lambda: LearnedPositionalEmbedding(1024, 192),
        lambda: _Table(True),
        8,
        512,
        192,
    ),
    _pair(
        "rope", "RotaryEmbedding, halves", lambda: RotaryEmbedding(64, interleaved=False), _transformers, 4, 4, 512, 64
    ),
]
