"""Transformer blocks: attention mixes the tokens, a feed-forward network treats each by itself, and both are residual.

Vaswani et al. 2017, arXiv:1706.03762, §3.1 to §3.3; the norm's place: Xiong et al. 2020, arXiv:2002.04745, Table 1.

    FFN(x) = act(x W₁ + b₁) W₂ + b₂                                    eq. 2, with act = ReLU
    post-norm   x ← LN(x + F(x)),     pre-norm   x ← x + F(LN(x)),     for F = attention, then F = FFN

An encoder block has self-attention and FFN; a decoder block has attention to its context, the encoder's output, between
the two. A decoder without a context, as in GPT, is an encoder block with `is_causal=True`.

A decoder block's attention to its context has the three projections in one matrix, W^Q, W^K and W^V one below the
other; `CrossAttention`, whose sequences may differ in width, keeps them apart.

Convention: arguments, their defaults, the parameters' names and initialisation are those of
torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, tokens are (batch, tokens, width), and the three dropouts
are torch's (of attention weights, inside of FFN, and of F(x)). Masks are those of `MultiHeadAttention`: True may
attend. In a stack of pre-norm blocks the last output is not normalized: the model adds a final norm.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .activation import GELU, SiLU
from .attention import KeyValueCache, MultiHeadAttention
from .checks import check_dropout, check_sizes, check_tokens
from .dropout import Dropout
from .linear import Linear, linear
from .multi_head import head_width, masks_together, output_map, split_heads, uniform_weight
from .normalization import LayerNorm
from .scaled_dot_product import attend


class FeedForward(nn.Module):
    """act(x W₁ + b₁) W₂ + b₂ for each token: two linear layers with a nonlinearity between.

    Args:
        d_model: width of the tokens.
        dim_feedforward: width between the two layers, d_ff.
        activation: "relu", "gelu", "gelu_tanh" (GPT-2's), "silu", or any function of a tensor.
        dropout: probability with which a hidden feature is dropped in training.
        bias: if True, the two linear layers add a bias.

    Raises:
        ValueError: a size below 1, an unknown name, `dropout` outside [0, 1]; an input of another width.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.3.
    """

    def __init__(
        self,
        d_model: int,
        dim_feedforward: int,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(d_model=d_model, dim_feedforward=dim_feedforward)
        self.activation = _named(activation)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.dropout = Dropout(dropout)

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return _transform(self, input)


def _transform(module: nn.Module, x: Tensor) -> Tensor:
    """FFN(x) by a module's linear1, activation, dropout and linear2: a block's own, or those of `FeedForward`."""
    return module.linear2(module.dropout(module.activation(module.linear1(x))))


def _named(activation):
    """The function of a name, or the function itself."""
    known = {"relu": torch.relu, "gelu": GELU(), "gelu_tanh": GELU("tanh"), "silu": SiLU()}
    if isinstance(activation, str) and activation not in known:
        raise ValueError(f"expected an activation of {', '.join(known)}, or a function, got {activation!r}")
    return known[activation] if isinstance(activation, str) else activation


class TransformerEncoderBlock(nn.Module):
    """Self-attention and a feed-forward network, each with a residual branch and a norm.

    Args:
        d_model: width of the tokens.
        nhead: heads of the attention.
        dim_feedforward: width of the feed-forward network's hidden layer.
        dropout: probability of all three dropouts.
        activation: of the feed-forward network; see `FeedForward`.
        layer_norm_eps: ε of the norms.
        norm_first: if True, pre-norm, else post-norm.
        bias: if True, linear layers and norms have a bias.
        is_causal: if True, a token attends to itself and earlier ones only.
        self_attn: attention of another kind, in place of `nhead` and `is_causal`: a module from (batch, tokens,
            d_model) to the same, kept under this name. It brings its own dropout of weights.
        feed_forward: another network in place of linear1 and linear2, e.g. `SwiGLU(d_model)`, kept under this name;
            `dim_feedforward` and `activation` are then unused, and dropout within is its own.

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
            raise ValueError("expected self_attn to bring its own mask, got is_causal=True as well")
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
            attention: arguments of the attention besides its input: `attn_mask`, `key_mask` and `cache` as in
                `MultiHeadAttention`.
        """
        check_tokens("input", input, self.d_model)
        x = input
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), **attention))
            return x + self.dropout2(_feed_forward(self, self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, **attention)))
        return self.norm2(x + self.dropout2(_feed_forward(self, x)))


def pre_norm_blocks(
    layers: int,
    width: int,
    heads: int,
    hidden: int,
    activation: str | Callable[[Tensor], Tensor],
    eps: float = 1e-5,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> nn.ModuleList:
    """A stack of pre-norm encoder blocks, those of vision transformers and of CLIP."""
    check_sizes(layers=layers)
    options = {"activation": activation, "layer_norm_eps": eps, "norm_first": True, "is_causal": is_causal}
    return nn.ModuleList(TransformerEncoderBlock(width, heads, hidden, dropout, **options) for _ in range(layers))


class _ContextAttention(nn.Module):
    """Multi-head attention to a context as wide as the queries: Vaswani et al. 2017, arXiv:1706.03762, §3.2.3."""

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
        """What each query finds in the context; masks as in `CrossAttention`."""
        width = self.in_proj_weight.shape[1]
        check_tokens("query", query, width)
        check_tokens("context", context, width)
        weights = self.in_proj_weight.split([width, 2 * width])
        biases = (None, None) if self.in_proj_bias is None else self.in_proj_bias.split([width, 2 * width])
        query, both = (
            split_heads(linear(t, w, b), self.head_dim) for t, w, b in zip((query, context), weights, biases)
        )
        key, value = both.chunk(2, dim=1)
        p = self.dropout if self.training else 0.0
        output, _ = attend(query, key, value, masks_together(attn_mask, key_mask), p)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class TransformerDecoderBlock(nn.Module):
    """Causal self-attention, attention to a context, and a feed-forward network, each residual and with a norm.

    Args:
        is_causal: if True, the default, a token attends to itself and earlier ones only: the paper's decoder always
            does. In torch the caller gives the mask.
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
        self.multihead_attn = _ContextAttention(d_model, nhead, dropout, bias)
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
            memory_attn_mask, memory_key_mask: of the attention to the context, where the first two do not apply.
        """
        x, own = input, {"attn_mask": attn_mask, "key_mask": key_mask, "cache": cache}
        context = memory, memory_attn_mask, memory_key_mask
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), **own))
            x = x + self.dropout2(self.multihead_attn(self.norm2(x), *context))
            return x + self.dropout3(_feed_forward(self, self.norm3(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, **own)))
        x = self.norm2(x + self.dropout2(self.multihead_attn(x, *context)))
        return self.norm3(x + self.dropout3(_feed_forward(self, x)))


def _keep_feed_forward(block, given, *sizes_and_settings):
    """Registers the network that was given, or the parts of a new one under the names that torch.nn has for them."""
    block.feed_forward = given
    if given is None:
        new = FeedForward(*sizes_and_settings)
        block.linear1, block.linear2 = new.linear1, new.linear2
        block.activation, block.dropout = new.activation, new.dropout


def _feed_forward(block, x):
    return _transform(block, x) if block.feed_forward is None else block.feed_forward(x)
