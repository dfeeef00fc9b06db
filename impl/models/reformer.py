"""Reformer: a language model for long texts, by hashed attention and reversible layers.

Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451.

    x₁ = x₂ = words + positions,    y₁ = x₁ + Attn(LN(x₂)),    y₂ = x₂ + FFN(LN(y₁)),    for each of L layers

Hashing (`LSHAttention`) makes attention O(n log n) instead of O(n²); reversible layers (`ReversibleSequence`) make the
memory of activations O(n) instead of O(n·L); and the feed-forward network works on a chunk of the tokens at a time (§3,
Chunking).

Convention: norms are inside the residual branches, as in the paper; the logits are a projection of both halves,
LN([y₁, y₂]), as in the authors' code; positions are learned.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..layers.checks import check_sizes
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.lsh_attention import LSHAttention, lsh_buckets
from ..layers.normalization import LayerNorm
from ..layers.reversible import ReversibleBlock, ReversibleSequence
from ..layers.transformer import FeedForward

__all__ = ["LSHAttention", "Reformer", "ReversibleBlock", "ReversibleSequence", "lsh_buckets"]


class Reformer(nn.Module):
    """Language model of long texts. The default sizes are those of the paper's comparisons (§5).

    Args:
        vocab_size: number of tokens.
        embed_dim: width of the tokens in each of both halves.
        num_heads, num_buckets, chunk_length, num_hashes, is_causal: see `LSHAttention`.
        num_layers: L.
        dim_feedforward: width of the feed-forward networks.
        max_len: the longest text, in tokens.
        feed_forward_chunk: how many tokens go through a feed-forward network at a time; default all.
        dropout: probability of all dropouts: of attention weights, of each branch's output, of words and of the
            last features.

    Attributes:
        words, positions: tables, `Embedding`; norm, head: `LayerNorm` and `Linear` of both halves together.
        layers: a `ReversibleSequence` whose blocks have a `norm` and a `part` in each of their branches f and g: an
            `LSHAttention` in f, a `FeedForward` in g.

    Raises:
        ValueError: sizes that do not fit; tokens of another shape or dtype, a text longer than `max_len`.

    Source: Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, §2, §3 and §5.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 1024,
        num_heads: int = 8,
        num_layers: int = 3,
        dim_feedforward: int = 4096,
        max_len: int = 4096,
        num_buckets: int = 128,
        chunk_length: int = 64,
        num_hashes: int = 4,
        is_causal: bool = True,
        feed_forward_chunk: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(num_layers=num_layers, feed_forward_chunk=1 if feed_forward_chunk is None else feed_forward_chunk)
        self.max_len = max_len
        self.words, self.positions = Embedding(vocab_size, embed_dim), Embedding(max_len, embed_dim)
        hashing = num_buckets, chunk_length, num_hashes, is_causal, dropout
        self.layers = ReversibleSequence(
            *(
                ReversibleBlock(
                    _Branch(embed_dim, LSHAttention(embed_dim, num_heads, *hashing), dropout),
                    _Branch(embed_dim, FeedForward(embed_dim, dim_feedforward), dropout, feed_forward_chunk),
                )
                for _ in range(num_layers)
            )
        )
        self.dropout, self.norm = Dropout(dropout), LayerNorm(2 * embed_dim)
        self.head = Linear(2 * embed_dim, vocab_size, bias=False)

    def forward(
        self, tokens: Int[Tensor, "b n"], key_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n v"]:
        """Logits of every token at every position: of the next token, if causal.

        Args:
            tokens: token ids.
            key_mask: True at tokens, False at padding, to which no token attends.
        """
        return self.head(self.encode(tokens, key_mask))

    def encode(
        self, tokens: Int[Tensor, "b n"], key_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n two_d"]:
        """Features of every token, both halves side by side, after the last norm."""
        if tokens.dim() != 2 or tokens.shape[1] > self.max_len:
            raise ValueError(f"expected tokens (batch, at most {self.max_len}), got {tuple(tokens.shape)}")
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.words(tokens)) + self.positions(positions)
        return self.dropout(self.norm(torch.cat(self.layers(x, x, key_mask), -1)))


class _Branch(nn.Module):
    """dropout(part(LN(x))), for `chunk` tokens at a time if it is given."""

    def __init__(self, embed_dim, part, dropout, chunk=None):
        super().__init__()
        self.norm, self.part, self.dropout, self.chunk = LayerNorm(embed_dim), part, Dropout(dropout), chunk

    def forward(self, x, *context):
        if self.chunk is None:
            return self.dropout(self.part(self.norm(x), *context))
        return torch.cat([self.dropout(self.part(self.norm(some))) for some in x.split(self.chunk, 1)], 1)
