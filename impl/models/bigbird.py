"""BigBird: a transformer encoder for long texts, whose block-sparse attention costs in proportion to the length.

Zaheer et al. 2020, arXiv:2007.14062.

    x⁰ = LN(words + positions + types),    x ← LN(x + Attn(x)),    x ← LN(x + FFN(x)),    for each of L layers

with Attn the block-sparse attention of §2: global, window and random blocks (`BlockSparseAttention`). Trained as a
masked language model (§4): logits of a masked token are E LN(GELU(W x + b)) + c, where E is the table of
words.

Convention: BigBird-ITC as the authors released it: BERT's post-norm layers, GELU by tanh, ε = 1e-12, dropout before
the embeddings' norm. The token `padding_idx` pads shorter texts; no token attends to it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layers.block_sparse_attention import BlockSparseAttention
from ..layers.checks import check_sizes
from ..layers.dropout import Dropout
from ..layers.masked_language_head import MaskedLanguageHead, table
from ..layers.normalization import LayerNorm
from ..layers.transformer import FeedForward, TransformerEncoderBlock

__all__ = ["BigBird", "BlockSparseAttention"]


class BigBird(nn.Module):
    """Masked language model of long texts. The defaults are BigBird-base.

    Args:
        vocab_size: number of tokens.
        embed_dim: width of the tokens.
        num_heads, block_size, num_random_blocks, num_window_blocks, num_global_blocks: see `BlockSparseAttention`.
        num_layers: L.
        dim_feedforward: width of the feed-forward networks.
        max_len: the longest text, in tokens.
        num_types: how many kinds of text a token may be marked as (question and document, say).
        dropout: probability of all dropouts: of attention weights, of each branch's output, of the embeddings.
        padding_idx: the token that pads shorter texts.

    Attributes:
        words, positions, types: tables, `Embedding`, initialised as N(0, 0.02²); norm: the embeddings' `LayerNorm`.
        layers: `TransformerEncoderBlock`s; `self_attn` is `BlockSparseAttention`, `feed_forward` a `FeedForward`.
        head: `dense`, `norm` and `bias` of the logits, which share the table of words.

    Raises:
        ValueError: sizes that do not fit; tokens or types of other shapes or dtypes; a text longer than `max_len`.

    Source: Zaheer et al. 2020, arXiv:2007.14062, §2, §4 and table 8.
    """

    def __init__(
        self,
        vocab_size: int = 50358,
        embed_dim: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        dim_feedforward: int = 3072,
        max_len: int = 4096,
        block_size: int = 64,
        num_random_blocks: int = 3,
        num_window_blocks: int = 3,
        num_global_blocks: int = 2,
        num_types: int = 2,
        dropout: float = 0.1,
        padding_idx: int = 0,
    ):
        super().__init__()
        check_sizes(num_layers=num_layers, block_size=block_size)
        eps = 1e-12
        self.padding_idx, self.max_len = padding_idx, max_len
        self.words, self.positions = table(vocab_size, embed_dim, padding_idx), table(max_len, embed_dim)
        self.types = table(num_types, embed_dim)
        self.dropout, self.norm = Dropout(dropout), LayerNorm(embed_dim, eps)
        blocks = num_random_blocks, num_window_blocks, num_global_blocks, -(-max_len // block_size)
        self.layers = nn.ModuleList(
            TransformerEncoderBlock(
                embed_dim,
                dropout=dropout,
                layer_norm_eps=eps,
                self_attn=BlockSparseAttention(embed_dim, num_heads, block_size, *blocks, dropout),
                feed_forward=FeedForward(embed_dim, dim_feedforward, "gelu_tanh"),
            )
            for _ in range(num_layers)
        )
        self.head = MaskedLanguageHead(vocab_size, embed_dim, "tanh", eps)

    def forward(self, tokens: Int[Tensor, "b n"], types: Int[Tensor, "b n"] | None = None) -> Float[Tensor, "b n v"]:
        """Logits of every token at every position.

        Args:
            tokens: token ids.
            types: which kind of text each token belongs to; default 0.
        """
        return self.head(self.encode(tokens, types), self.words.weight)

    def encode(self, tokens: Int[Tensor, "b n"], types: Int[Tensor, "b n"] | None = None) -> Float[Tensor, "b n d"]:
        """Features of every token, after the last layer."""
        if tokens.dim() != 2 or tokens.shape[1] > self.max_len:
            raise ValueError(f"expected tokens (batch, at most {self.max_len}), got {tuple(tokens.shape)}")
        if types is not None and types.shape != tokens.shape:
            raise ValueError(f"expected types of shape {tuple(tokens.shape)}, got {tuple(types.shape)}")
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        kinds = torch.zeros_like(tokens) if types is None else types
        x = self.norm(self.dropout(self.words(tokens) + self.types(kinds) + self.positions(positions)))
        for layer in self.layers:
            x = layer(x, key_mask=tokens != self.padding_idx)
        return x
