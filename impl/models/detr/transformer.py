"""The transformer of DETR: post-norm layers whose positions are added to queries and keys, at every attention.

Carion, Massa, Synnaeve, Usunier, Kirillov & Zagoruyko 2020, arXiv:2005.12872, §3.2, A.3 and A.4.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...layers.attention import CrossAttention
from ...layers.dropout import Dropout
from ...layers.normalization import LayerNorm
from ...layers.positional import sinusoids
from ...layers.transformer import FeedForward


def image_positions(mask: Bool[Tensor, "b h w"], width: int) -> Float[Tensor, "b h w d"]:
    """Sinusoids of a pixel's row, then of its column, as shares of the image's height and width times 2π; float64.

    Args:
        mask: True at the image's pixels; rows and columns count from 1 among those.
        width: d, of the positions; half for the row, half for the column.

    Raises:
        ValueError: a width that 4 does not divide.

    Source: Carion et al. 2020, arXiv:2005.12872, A.4; 2π and ε = 1e-6 in the divisor as released.
    """
    if width < 4 or width % 4:
        raise ValueError(f"expected a width that is a multiple of 4, got {width}")
    shares = []
    for dim in (1, 2):
        count = mask.cumsum(dim).double()
        shares.append(2 * math.pi * count / (count.narrow(dim, -1, 1) + 1e-6))
    return torch.cat([sinusoids(share, width // 2) for share in shares], dim=-1)


class EncoderLayer(nn.Module):
    """Tokens attend to one another; positions are added to queries and keys, not to values."""

    def __init__(self, width, heads, hidden, dropout):
        super().__init__()
        self.self_attn = CrossAttention(width, heads, dropout=dropout)
        self.feed_forward = FeedForward(width, hidden, dropout=dropout)
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x, positions, real):
        at = x + positions
        x = self.norm1(x + self.dropout(self.self_attn(at, at, x, key_mask=real)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(nn.Module):
    """Objects attend to one another, then to the image; all at once, none is masked from another."""

    def __init__(self, width, heads, hidden, dropout):
        super().__init__()
        self.self_attn = CrossAttention(width, heads, dropout=dropout)
        self.cross_attn = CrossAttention(width, heads, dropout=dropout)
        self.feed_forward = FeedForward(width, hidden, dropout=dropout)
        self.norm1, self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, y, queries, memory, positions, real):
        at = y + queries
        y = self.norm1(y + self.dropout(self.self_attn(at, at, y)))
        y = self.norm2(y + self.dropout(self.cross_attn(y + queries, memory + positions, memory, key_mask=real)))
        return self.norm3(y + self.dropout(self.feed_forward(y)))
