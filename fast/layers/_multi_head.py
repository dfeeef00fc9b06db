"""Parts of multi-head attention that every layer of it shares: projections, their initialisation, checks, masks.

Vaswani et al. 2017, arXiv:1706.03762, §3.2.2.

Convention: as in torch.nn.MultiheadAttention, projections start uniform in ±√(6/(rows + columns)) (Glorot & Bengio
2010, eq. 16, of the stacked matrix where several are stacked), all biases at 0, and W^O as any linear layer.
"""

import math

import torch
from torch import Tensor, nn

from .linear import Linear


def uniform_weight(rows: int, columns: int) -> nn.Parameter:
    bound = math.sqrt(6 / (rows + columns))
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))


def output_map(width: int, embed_dim: int, bias: bool) -> Linear:
    """W^O, which mixes the concatenated heads."""
    layer = Linear(width, embed_dim, bias)
    if bias:
        layer.bias.data.zero_()
    return layer


def head_width(embed_dim: int, num_heads: int) -> int:
    """d_k = embed_dim/num_heads."""
    check_sizes(embed_dim=embed_dim, num_heads=num_heads)
    if embed_dim % num_heads:
        raise ValueError(f"expected embed_dim to be a multiple of num_heads, got {embed_dim} and {num_heads}")
    return embed_dim // num_heads


def check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} >= 1, got {size}")


def check_tokens(name: str, tokens: Tensor, width: int) -> None:
    if tokens.dim() != 3 or tokens.shape[-1] != width:
        raise ValueError(f"expected {name} of shape (batch, tokens, {width}), got {tuple(tokens.shape)}")


def masks_together(attn_mask: Tensor | None, key_mask: Tensor | None) -> Tensor | None:
    """One mask of both: attend where `attn_mask` allows it and the key is not padding."""
    if attn_mask is not None and attn_mask.dim() not in (2, 4):
        # Three dimensions would be read as (heads, t, s), silently right where there are as many heads as samples.
        raise ValueError(f"expected attn_mask of 2 or 4 dimensions, got shape {tuple(attn_mask.shape)}")
    if key_mask is None:
        return attn_mask
    if key_mask.dim() != 2 or key_mask.dtype != torch.bool:
        raise ValueError(f"expected key_mask (batch, s) of booleans, got {tuple(key_mask.shape)} of {key_mask.dtype}")
    keys = key_mask[:, None, None]  # (b, 1, 1, s)
    if attn_mask is None:
        return keys
    return attn_mask & keys if attn_mask.dtype == torch.bool else attn_mask.masked_fill(~keys, -math.inf)
