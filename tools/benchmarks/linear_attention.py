"""Linear attention next to torch's fused softmax attention, at lengths where linear cost is below quadratic."""

import torch
from torch import nn

from impl.layers.linear_attention import FavorAttention, LinearAttention
from tools.bench import Pair

WIDTH, HEADS = 192, 3


class _Softmax(nn.Module):
    """torch has no linear attention: the same projections around its fused kernel, over all pairs."""

    def __init__(self, causal):
        super().__init__()
        self.project, self.out_proj, self.causal = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), causal

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, 1)
        read = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(read.transpose(1, 2).flatten(2))


def _pair(layer, length, causal, **options):
    return Pair(
        item="linear-attention",
        name=f"{layer.__name__}{', causal' if causal else ''}, {length}",
        ours=lambda: layer(WIDTH, HEADS, is_causal=causal, **options),
        theirs=lambda: _Softmax(causal),
        inputs=lambda: (torch.randn(1, length, WIDTH),),
    )


PAIRS = [
    _pair(LinearAttention, 2048, False),
    _pair(LinearAttention, 2048, True),
    _pair(FavorAttention, 2048, False, num_features=128),
    _pair(FavorAttention, 2048, True, num_features=128),
]
