"""Longformer: a transformer encoder for long texts, whose tokens attend to a window, and a few tokens to all.

Beltagy, Peters & Cohan 2020, arXiv:2004.05150.

    x⁰ = LN(words + positions + types),    x ← LN(x + Attn(x)),    x ← LN(x + FFN(x)),    for each of L layers

with Attn the sliding-window attention of §3.1 (`SlidingWindowAttention`), whose window and dilation may differ from
layer to layer (§3.2). Trained as a masked language model from RoBERTa's weights (§5): logits of a masked token are
E LN(GELU(W x + b)) + c, where E is the table of words.

Convention: RoBERTa's post-norm layers, exact GELU, ε = 1e-5, dropout after the embeddings' norm. Positions count
tokens alone, from padding_idx + 1, so that the table has max_len + padding_idx + 1 rows, 4098 for 4096 tokens. The
token `padding_idx` pads shorter texts; no token attends to it. Lengths need not be multiples of the window.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layers.checks import check_sizes
from ..layers.dropout import Dropout
from ..layers.masked_language_head import MaskedLanguageHead, table
from ..layers.normalization import LayerNorm
from ..layers.sliding_window_attention import SlidingWindowAttention
from ..layers.transformer import FeedForward, TransformerEncoderBlock


class Longformer(nn.Module):
    """Masked language model of long texts. The defaults are Longformer-base.

    Args:
        vocab_size: number of tokens.
        embed_dim: width of the tokens.
        num_heads: heads; embed_dim/num_heads is their width.
        window, dilation: of each layer, or one value for all; see `SlidingWindowAttention`.
        num_layers: L.
        dim_feedforward: width of the feed-forward networks.
        max_len: the longest text, in tokens.
        num_types: how many kinds of text a token may be marked as.
        dropout: probability of all dropouts: of attention weights, of each branch's output, of the embeddings.
        padding_idx: the token that pads shorter texts.

    Attributes:
        words, positions, types: tables, `Embedding`, initialised as N(0, 0.02²); norm: the embeddings' `LayerNorm`.
        layers: `TransformerEncoderBlock`s; `self_attn` is `SlidingWindowAttention`, `feed_forward` a `FeedForward`.
        head: `dense`, `norm` and `bias` of the logits, which share the table of words.

    Raises:
        ValueError: sizes that do not fit; other than num_layers windows or dilations; tokens or types of other
            shapes or dtypes, a text longer than `max_len`.

    Source: Beltagy, Peters & Cohan 2020, arXiv:2004.05150, §3 and §5.
    """

    def __init__(
        self,
        vocab_size: int = 50265,
        embed_dim: int = 768,
        num_heads: int = 12,
        window: int | Sequence[int] = 512,
        dilation: int | Sequence[int] = 1,
        num_layers: int = 12,
        dim_feedforward: int = 3072,
        max_len: int = 4096,
        num_types: int = 1,
        dropout: float = 0.1,
        padding_idx: int = 1,
    ):
        super().__init__()
        check_sizes(num_layers=num_layers)
        windows, dilations = _each("window", window, num_layers), _each("dilation", dilation, num_layers)
        eps = 1e-5
        self.padding_idx, self.max_len = padding_idx, max_len
        self.words = table(vocab_size, embed_dim, padding_idx)
        self.positions = table(max_len + padding_idx + 1, embed_dim, padding_idx)
        self.types = table(num_types, embed_dim)
        self.norm, self.dropout = LayerNorm(embed_dim, eps), Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerEncoderBlock(
                embed_dim,
                dropout=dropout,
                layer_norm_eps=eps,
                self_attn=SlidingWindowAttention(embed_dim, num_heads, w, d, dropout),
                feed_forward=FeedForward(embed_dim, dim_feedforward, "gelu"),
            )
            for w, d in zip(windows, dilations)
        )
        self.head = MaskedLanguageHead(vocab_size, embed_dim, "none", eps)

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        global_positions: Int[Tensor, "b g"] | None = None,
        types: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Logits of every token at every position.

        Args:
            tokens: token ids.
            global_positions: positions of each text's global tokens; −1 pads shorter rows.
            types: which kind of text each token belongs to; default 0.
        """
        return self.head(self.encode(tokens, global_positions, types), self.words.weight)

    def encode(
        self,
        tokens: Int[Tensor, "b n"],
        global_positions: Int[Tensor, "b g"] | None = None,
        types: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Features of every token, after the last layer."""
        if tokens.dim() != 2 or tokens.shape[1] > self.max_len:
            raise ValueError(f"expected tokens (batch, at most {self.max_len}), got {tuple(tokens.shape)}")
        if types is not None and types.shape != tokens.shape:
            raise ValueError(f"expected types of shape {tuple(tokens.shape)}, got {tuple(types.shape)}")
        present = tokens != self.padding_idx
        positions = present.cumsum(1) * present + self.padding_idx
        kinds = torch.zeros_like(tokens) if types is None else types
        x = self.dropout(self.norm(self.words(tokens) + self.positions(positions) + self.types(kinds)))
        for layer in self.layers:
            x = layer(x, global_positions=global_positions, key_mask=present)
        return x


def _each(name, value, layers):
    """One value for each layer, from one for all or one for each."""
    found = [value] * layers if isinstance(value, int) else list(value)
    if len(found) != layers:
        raise ValueError(f"expected one {name} or {layers}, one for each layer, got {value}")
    return found
