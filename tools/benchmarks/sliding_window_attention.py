"""Sliding-window attention next to torch's fused attention to all tokens with a banded mask."""

import torch
from torch import nn

from impl.layers.sliding_window_attention import SlidingWindowAttention
from tools.bench import Memory, Pair

WIDTH, HEADS, WINDOW = 192, 3, 64


class _Banded(nn.Module):
    """torch has no windows: every pair is scored, and a mask cuts the band."""

    def __init__(self):
        super().__init__()
        self.project, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        query, key, value = self.project(x).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, 1)
        position = torch.arange(x.shape[1])
        mask = (position[:, None] - position).abs() <= WINDOW // 2
        read = nn.functional.scaled_dot_product_attention(query, key, value, mask)
        return self.out_proj(read.transpose(1, 2).flatten(2))


def _pair(length):
    return Pair(
        item="sliding-window-attention",
        name=f"SlidingWindowAttention, {length}",
        ours=lambda: SlidingWindowAttention(WIDTH, HEADS, WINDOW, global_attention=False),
        theirs=_Banded,
        inputs=lambda: (torch.randn(1, length, WIDTH),),
    )


PAIRS = [_pair(1024), _pair(2048)]

MEMORY = [
    Memory(
        item="sliding-window-attention",
        name=f"window {WINDOW}, {n} tokens",
        ours=lambda: SlidingWindowAttention(WIDTH, HEADS, WINDOW, global_attention=False),
        inputs=lambda n=n: (torch.randn(1, n, WIDTH),),
        scores=(1, HEADS, n, n),
    )
    for n in (1024, 4096)
]
