"""Reformer's attention next to transformers' of the same size.

Their reversible layers add to .grad as they go, which no call of torch.autograd.grad times.
"""

import torch
from torch import nn

from impl.models.reformer import LSHAttention
from tools.bench import Pair

WIDTH, HEADS, CHUNK = 192, 3, 64


def _config(rounds):
    from transformers import ReformerConfig

    return ReformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_head_size=WIDTH // HEADS,
        attn_layers=["lsh"],
        num_hidden_layers=1,
        axial_pos_embds=False,
        max_position_embeddings=2048,
        num_buckets=32,
        num_hashes=rounds,
        lsh_attn_chunk_length=CHUNK,
        lsh_attention_probs_dropout_prob=0.0,
        is_decoder=True,
        use_cache=False,
    )


class _Attention(nn.Module):
    def __init__(self, rounds):
        super().__init__()
        from transformers.models.reformer.modeling_reformer import LSHSelfAttention

        self.attention, self.dense = LSHSelfAttention(_config(rounds)), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.dense(self.attention(x).hidden_states)


def _attention(rounds):
    return Pair(
        item="reformer",
        name=f"LSHAttention, {rounds} rounds",
        ours=lambda: LSHAttention(WIDTH, HEADS, 32, CHUNK, rounds, is_causal=True),
        theirs=lambda: _Attention(rounds),
        inputs=lambda: (torch.randn(2, 1024, WIDTH),),
    )


PAIRS = [_attention(1), _attention(4)]
