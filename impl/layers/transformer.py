"""Transformer blocks: attention mixes the tokens, a feed-forward network treats each by itself, and both are residual.

Vaswani et al. 2017, arXiv:1706.03762, §3.1 to §3.3; the norm's place: Xiong et al. 2020, arXiv:2002.04745, Table 1.

    FFN(x) = act(x W₁ + b₁) W₂ + b₂                                    eq. 2, with act = ReLU
    post-norm   x ← LN(x + F(x)),     pre-norm   x ← x + F(LN(x)),     for F = attention, then F = FFN

An encoder block has self-attention and FFN; a decoder block has attention to its context, the encoder's output, between
the two. A decoder without a context, as in GPT, is an encoder block with `is_causal=True`.

Convention: arguments, their defaults and the parameters' names are those of torch.nn.TransformerEncoderLayer and
TransformerDecoderLayer, tokens are (batch, tokens, width), and the three dropouts are torch's (of attention weights,
inside of FFN, and of F(x)). Masks are those of `MultiHeadAttention`: True may attend. In a stack of pre-norm blocks the
last output is not normalized: the model adds a final norm.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ._context_attention import ContextAttention
from ._feed_forward import FeedForward, transform
from .attention import KeyValueCache, MultiHeadAttention
from .checks import check_tokens
from .dropout import Dropout
from .normalization import LayerNorm

__all__ = ["FeedForward", "TransformerDecoderBlock", "TransformerEncoderBlock"]


class TransformerEncoderBlock(nn.Module):
    """Self-attention and a feed-forward network, each with a residual branch and a norm.

    Args:
        d_model: width of the tokens.
        nhead: heads of the attention.
        dim_feedforward: width of the feed-forward network's hidden layer.
        dropout: probability of all three dropouts.
        activation: of the feed-forward network; see `FeedForward`.
        layer_norm_eps: ε of the norms.
        norm_first: pre-norm instead of post-norm?
        bias: have linear maps and norms a bias?
        is_causal: may a token attend to itself and earlier ones only?
        self_attn: attention of another kind, in place of `nhead` and `is_causal`: a module from (batch, tokens,
            d_model) to the same. It brings its own dropout of weights.
        feed_forward: another network in place of linear1 and linear2, e.g. `SwiGLU(d_model)`; `dim_feedforward` and
            `activation` then say nothing, and dropout within is its own.

    Raises:
        ValueError: neither or both of `nhead` and `self_attn`; `is_causal` together with `self_attn`; sizes that do not
            divide, an unknown activation, `dropout` outside [0, 1), a negative ε; an input of another width.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.1; Xiong et al. 2020, arXiv:2002.04745, Table 1.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int | None = None,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        is_causal: bool = False,
        self_attn: nn.Module | None = None,
        feed_forward: nn.Module | None = None,
    ):
        super().__init__()
        if (nhead is None) == (self_attn is None):
            raise ValueError(f"expected either nhead or self_attn, got {nhead} and {self_attn}")
        if is_causal and self_attn is not None:
            raise ValueError("expected self_attn to bring its own mask, got is_causal=True beside it")
        self.d_model, self.norm_first = d_model, norm_first
        self.self_attn = (
            MultiHeadAttention(d_model, nhead, dropout, bias, is_causal) if self_attn is None else self_attn
        )
        _keep_feed_forward(self, feed_forward, d_model, dim_feedforward, activation, dropout, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def forward(self, input: Float[Tensor, "b t d"], **attention) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            attention: what the attention takes beside its input: `attn_mask`, `key_mask` and `cache` as in
                `MultiHeadAttention`.
        """
        check_tokens("input", input, self.d_model)
        x = input
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), **attention))
            return x + self.dropout2(_feed_forward(self, self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, **attention)))
        return self.norm2(x + self.dropout2(_feed_forward(self, x)))


class TransformerDecoderBlock(nn.Module):
    """Causal self-attention, attention to a context, and a feed-forward network, each residual and with a norm.

    Args:
        is_causal: may a token attend to itself and earlier ones only? On by default, unlike in torch, where the caller
            gives the mask: the paper's decoder has it always.
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias, feed_forward: as in
            `TransformerEncoderBlock`.

    Raises:
        ValueError: as `TransformerEncoderBlock`; a context of another width.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.1, §3.2.3.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        is_causal: bool = True,
        feed_forward: nn.Module | None = None,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout, bias, is_causal)
        self.multihead_attn = ContextAttention(d_model, nhead, dropout, bias)
        _keep_feed_forward(self, feed_forward, d_model, dim_feedforward, activation, dropout, bias)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(d_model, layer_norm_eps, bias=bias) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (Dropout(dropout) for _ in range(3))

    def forward(
        self,
        input: Float[Tensor, "b t d"],
        memory: Float[Tensor, "b s d"],
        attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        key_mask: Bool[Tensor, "b past_and_t"] | None = None,
        memory_attn_mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
        memory_key_mask: Bool[Tensor, "b s"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            memory: the context, the encoder's output.
            attn_mask, key_mask, cache: of the self-attention, as in `MultiHeadAttention`.
            memory_attn_mask, memory_key_mask: of the attention to the context; nothing of the first two applies there.
        """
        x, own = input, {"attn_mask": attn_mask, "key_mask": key_mask, "cache": cache}
        read = memory, memory_attn_mask, memory_key_mask
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), **own))
            x = x + self.dropout2(self.multihead_attn(self.norm2(x), *read))
            return x + self.dropout3(_feed_forward(self, self.norm3(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, **own)))
        x = self.norm2(x + self.dropout2(self.multihead_attn(x, *read)))
        return self.norm3(x + self.dropout3(_feed_forward(self, x)))


def _keep_feed_forward(block, given, *sizes_and_settings):
    """The network that was given, or the parts of a new one as the block's own, where torch.nn has them."""
    block.feed_forward = given
    if given is None:
        new = FeedForward(*sizes_and_settings)
        block.linear1, block.linear2 = new.linear1, new.linear2
        block.activation, block.dropout = new.activation, new.dropout


def _feed_forward(block, x):
    return transform(block, x) if block.feed_forward is None else block.feed_forward(x)
