"""Attention of a decoder to its context, with the three projections in one matrix.

Vaswani et al. 2017, arXiv:1706.03762, §3.2.3: queries come from the decoder, keys and values from the encoder's output.

Convention: parameters are those of torch.nn.MultiheadAttention where both sequences are equally wide: in_proj_weight
holds W^Q, W^K and W^V, one below the other. `CrossAttention`, whose sequences may differ in width, keeps them apart.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .checks import check_dropout, check_tokens
from .linear import linear
from .multi_head import head_width, masks_together, output_map, uniform_weight
from .scaled_dot_product import attend


class ContextAttention(nn.Module):
    """Multi-head attention to a context as wide as the queries.

    Args:
        embed_dim: width of the queries, of the context, and of the output.
        num_heads: h.
        dropout: probability with which an attention weight is dropped in training.
        bias: do the four linear maps add a bias?

    Raises:
        ValueError: sizes below 1, or embed_dim no multiple of num_heads; `dropout` outside [0, 1); inputs or masks of
            other shapes.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        check_dropout(dropout)
        self.head_dim, self.dropout = head_width(embed_dim, num_heads), dropout
        self.in_proj_weight = uniform_weight(3 * embed_dim, embed_dim)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = output_map(embed_dim, embed_dim, bias)  # W^O

    def forward(
        self,
        query: Float[Tensor, "b t d"],
        context: Float[Tensor, "b s d"],
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        key_mask: Bool[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """What each query reads from the context; masks as in `CrossAttention`."""
        width = self.in_proj_weight.shape[1]
        check_tokens("query", query, width)
        check_tokens("context", context, width)
        weights = self.in_proj_weight.split([width, 2 * width])
        biases = (None, None) if self.in_proj_bias is None else self.in_proj_bias.split([width, 2 * width])
        query, both = (self._heads(linear(t, w, b)) for t, w, b in zip((query, context), weights, biases))
        key, value = both.chunk(2, dim=1)
        p = self.dropout if self.training else 0.0
        output, _ = attend(query, key, value, masks_together(attn_mask, key_mask), p)
        return self.out_proj(output.transpose(1, 2).flatten(2))

    def _heads(self, tokens):
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (b, heads, tokens, head_dim)
