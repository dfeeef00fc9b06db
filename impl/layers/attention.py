"""Multi-head attention: tokens attend to one another, or to another sequence, in several subspaces at once.

Vaswani et al. 2017, arXiv:1706.03762, §3.2.2 and §3.2.3; grouped heads: Ainslie et al. 2023, arXiv:2305.13245, §2.2.

    MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O,   head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)
    self-attention: Q = K = V;   cross-attention: Q from one sequence, K and V from another

Convention: parameters are named, laid out and initialised as in torch.nn.MultiheadAttention, rows of head 1 first,
but True in a mask means "may attend" here. The output is a tensor alone unless `need_weights` asks for each head's
weights.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .checks import check_dropout, check_sizes, check_tokens
from .linear import linear
from .multi_head import head_width, masks_together, output_map, split_heads, uniform_weight
from .scaled_dot_product import attend, scaled_dot_product_attention

__all__ = ["CrossAttention", "KeyValueCache", "MultiHeadAttention", "scaled_dot_product_attention"]


class KeyValueCache:
    """The keys and values (B, kv heads, S, head_dim) of the tokens seen so far; both None before the first."""

    key: Tensor | None = None
    value: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of new tokens; returns those of all."""
        if self.key is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention, causal on request, with as many or fewer heads of keys and values as of queries.

    Args:
        embed_dim: width of the tokens.
        num_heads: h, heads of the queries.
        dropout: probability with which an attention weight is dropped in training.
        bias: if True, the four linear layers add a bias.
        is_causal: if True, a token attends to itself and earlier tokens only.
        num_kv_heads: heads of keys and values, default num_heads; each serves num_heads/num_kv_heads
            neighbouring heads of queries.
        head_dim: width of a head, d_k; default embed_dim/num_heads.

    Raises:
        ValueError: sizes below 1 or that do not divide; `dropout` outside [0, 1); inputs or masks of other shapes; a
            cache without `is_causal`.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        is_causal: bool = False,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
    ):
        super().__init__()
        check_dropout(dropout)
        head_dim = head_width(embed_dim, num_heads) if head_dim is None else head_dim
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_sizes(embed_dim=embed_dim, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        if num_heads % num_kv_heads:
            raise ValueError(f"expected num_kv_heads to divide num_heads = {num_heads}, got {num_kv_heads}")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.dropout, self.is_causal = dropout, is_causal
        rows = (num_heads + 2 * num_kv_heads) * head_dim
        self.in_proj_weight = uniform_weight(rows, embed_dim)  # W^Q, W^K and W^V, one below the other
        self.in_proj_bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.out_proj = output_map(num_heads * head_dim, embed_dim, bias)  # W^O

    def forward(
        self,
        input: Float[Tensor, "b t d"],
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        key_mask: Bool[Tensor, "b s"] | None = None,
        need_weights: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"] | tuple[Float[Tensor, "b t d"], Float[Tensor, "b heads t s"]]:
        """Each token's new features, and on request the weights (b, heads, t, s) before dropout.

        Args:
            attn_mask: (t, s) or broadcasting to (b, heads, t, s): True where a token may attend, or values added
                to the scores.
            key_mask: True at real tokens, False at padding, to which no token attends.
            cache: holds the s − t tokens before these, and takes these in.
        """
        check_tokens("input", input, self.in_proj_weight.shape[1])
        if cache is not None and not self.is_causal:
            raise ValueError("expected is_causal=True with a cache, got False: earlier tokens would have to be redone")
        packed = linear(input, self.in_proj_weight, self.in_proj_bias)
        heads = split_heads(packed, self.head_dim)  # (b, heads of Q, K and V, t, head_dim)
        query, key, value = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        if cache is not None:
            key, value = cache.append(key, value)
        mask, p = masks_together(attn_mask, key_mask), self.dropout if self.training else 0.0
        output, weights = attend(query, key, value, mask, p, self.is_causal, enable_gqa=True)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        return (output, weights) if need_weights else output

    def extra_repr(self) -> str:
        return f"{self.in_proj_weight.shape[1]}, {self.num_heads}, dropout={self.dropout}, is_causal={self.is_causal}"


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another, its context.

    Args:
        embed_dim: width of the queries and of the output.
        num_heads: h.
        kdim, vdim: widths of the sequences that keys and values are projected from; default embed_dim.
        dropout: probability with which an attention weight is dropped in training.
        bias: if True, the four linear layers add a bias.

    Raises:
        ValueError: sizes below 1, or embed_dim no multiple of num_heads; `dropout` outside [0, 1); inputs or masks of
            other shapes.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.2.3: queries from the decoder, keys and values from the encoder.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        check_dropout(dropout)
        kdim, vdim = (embed_dim if size is None else size for size in (kdim, vdim))
        check_sizes(kdim=kdim, vdim=vdim)
        self.head_dim, self.dropout = head_width(embed_dim, num_heads), dropout
        self.q_proj_weight = uniform_weight(embed_dim, embed_dim)
        self.k_proj_weight = uniform_weight(embed_dim, kdim)
        self.v_proj_weight = uniform_weight(embed_dim, vdim)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None  # of all three
        self.out_proj = output_map(embed_dim, embed_dim, bias)  # W^O

    def forward(
        self,
        query: Float[Tensor, "b t d"],
        key: Float[Tensor, "b s kdim"],
        value: Float[Tensor, "b s vdim"] | None = None,
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        key_mask: Bool[Tensor, "b s"] | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "b t d"] | tuple[Float[Tensor, "b t d"], Float[Tensor, "b heads t s"]]:
        """What each query finds in the context, and on request the weights (b, heads, t, s) before dropout.

        Args:
            key, value: the context; values are projected from the keys' sequence unless another is given.
            attn_mask, key_mask: as in `MultiHeadAttention`.
        """
        return self.read(query, *self.project(key, value), attn_mask, key_mask, need_weights)

    def project(
        self, key: Float[Tensor, "b s kdim"], value: Float[Tensor, "b s vdim"] | None = None
    ) -> tuple[Float[Tensor, "b heads s head"], Float[Tensor, "b heads s head"]]:
        """The context's keys and values of each head: a decoder computes them once and uses them at every step."""
        value = key if value is None else value
        check_tokens("key", key, self.k_proj_weight.shape[1])
        check_tokens("value", value, self.v_proj_weight.shape[1])
        return self._heads(key, self.k_proj_weight, 1), self._heads(value, self.v_proj_weight, 2)

    def read(
        self,
        query: Float[Tensor, "b t d"],
        key: Float[Tensor, "b heads s head"],
        value: Float[Tensor, "b heads s head"],
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        key_mask: Bool[Tensor, "b s"] | None = None,
        need_weights: bool = False,
    ) -> Float[Tensor, "b t d"] | tuple[Float[Tensor, "b t d"], Float[Tensor, "b heads t s"]]:
        """`forward` with what `project` made of the context."""
        check_tokens("query", query, self.q_proj_weight.shape[1])
        mask, p = masks_together(attn_mask, key_mask), self.dropout if self.training else 0.0
        output, weights = attend(self._heads(query, self.q_proj_weight, 0), key, value, mask, p)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        return (output, weights) if need_weights else output

    def _heads(self, tokens, weight, third):
        """A projection with its third of the bias."""
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[third]
        return split_heads(linear(tokens, weight, bias), self.head_dim)
