"""Linear attention: with a kernel of features φ in place of exp, N tokens attend to one another in O(N).

Katharopoulos et al. 2020, arXiv:2006.16236, §3.2; Choromanski et al. 2021 (Performer), arXiv:2009.14794, §2.

    y_i = Σ_j φ(q_i)ᵀφ(k_j) v_j / Σ_j φ(q_i)ᵀφ(k_j) = φ(q_i)ᵀ (Σ_j φ(k_j) v_jᵀ) / φ(q_i)ᵀ (Σ_j φ(k_j))
    LinearAttention    φ(x) = elu(x) + 1
    FavorAttention     φ(x) = exp(−‖x‖²/2)/√m · exp(ω x), x = q/d^¼ or k/d^¼: softmax attention on average over ω

Convention: parameters are those of self-attention, so that weights move both ways. elu + 1 takes queries and keys as
they are, without 1/√d. A mask is True where a key may be read; no epsilon anywhere.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ._linear_attention import LinearAttentionState, linear_attention
from ._multi_head import check_sizes, check_tokens, head_width, output_map, uniform_weight
from ._random_features import orthogonal_projection, positive_features
from .linear import linear

__all__ = [
    "FavorAttention",
    "LinearAttention",
    "LinearAttentionState",
    "linear_attention",
    "orthogonal_projection",
    "positive_features",
]


class LinearAttention(nn.Module):
    """Multi-head self-attention with the weights φ(q_i)ᵀφ(k_j), φ = elu + 1, over their sum.

    Args:
        embed_dim: width of the tokens.
        num_heads: heads; embed_dim/num_heads is their width.
        bias: if True, the four linear layers add a bias.
        is_causal: if True, a token attends to itself and earlier tokens only.

    Raises:
        ValueError: sizes below 1 or that do not divide; inputs or masks of other shapes; a state without `is_causal`.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236, eq. 5, 7 and 9.
    """

    def __init__(self, embed_dim: int, num_heads: int, bias: bool = True, is_causal: bool = False):
        super().__init__()
        self.head_dim, self.is_causal = head_width(embed_dim, num_heads), is_causal
        self.in_proj_weight = uniform_weight(3 * embed_dim, embed_dim)  # W^Q, W^K and W^V, one below the other
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = output_map(embed_dim, embed_dim, bias)  # W^O

    def forward(
        self,
        input: Float[Tensor, "b t d"],
        key_mask: Bool[Tensor, "b t"] | None = None,
        state: LinearAttentionState | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            key_mask: True at tokens, False at padding, to which no token attends.
            state: holds the sums of the tokens before these, and takes these in.
        """
        query, key, value = _project(self, input)
        absent = _log_of_mask(key_mask, input)
        read = linear_attention(_elu_plus_one(query), _elu_plus_one(key), value, absent, self.is_causal, state)
        return self.out_proj(read.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"{self.in_proj_weight.shape[1]}, head_dim={self.head_dim}, is_causal={self.is_causal}"


class FavorAttention(nn.Module):
    """Multi-head self-attention by positive orthogonal random features, an estimate of softmax attention (FAVOR+).

    Args:
        embed_dim, num_heads, bias, is_causal: as in `LinearAttention`.
        num_features: m, random features of each query and key; default head_dim · ln(head_dim), as theorem 4 asks.

    Attributes:
        projection: ω (m, head_dim), a buffer that all heads share, sampled at construction and by `redraw` only.

    Raises:
        ValueError: sizes below 1 or that do not divide; inputs or masks of other shapes; a state without `is_causal`.

    Source: Choromanski et al. 2021, arXiv:2009.14794, §2.2-2.4 and Algorithm 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_features: int | None = None,
        bias: bool = True,
        is_causal: bool = False,
    ):
        super().__init__()
        self.head_dim, self.is_causal = head_width(embed_dim, num_heads), is_causal
        if num_features is None:
            num_features = max(1, int(self.head_dim * math.log(self.head_dim)))
        check_sizes(num_features=num_features)
        self.in_proj_weight = uniform_weight(3 * embed_dim, embed_dim)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = output_map(embed_dim, embed_dim, bias)
        self.register_buffer("projection", orthogonal_projection(num_features, self.head_dim))

    def forward(
        self,
        input: Float[Tensor, "b t d"],
        key_mask: Bool[Tensor, "b t"] | None = None,
        state: LinearAttentionState | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Each token's new features; `key_mask` and `state` as in `LinearAttention`."""
        query, key, value = _project(self, input)
        # Half of 1/√d for each: ‖x‖² is of the scaled vector too. Scores and features are float32 or wider.
        wide, scale = torch.promote_types(input.dtype, torch.float32), self.head_dim**-0.25
        projection = self.projection.to(wide)
        query, _ = positive_features(query.to(wide) * scale, projection)  # a query's own factor cancels
        key, level = positive_features(key.to(wide) * scale, projection)
        absent = _log_of_mask(key_mask, input)
        level = level if absent is None else level + absent
        read = linear_attention(query, key, value.to(wide), level, self.is_causal, state).to(input.dtype)
        return self.out_proj(read.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Samples ω again, in place: an unlucky sample should not last (§4.2 redraws between steps of training)."""
        self.projection.copy_(orthogonal_projection(*self.projection.shape, generator))

    def extra_repr(self) -> str:
        shown = f"{self.in_proj_weight.shape[1]}, head_dim={self.head_dim}, num_features={len(self.projection)}"
        return f"{shown}, is_causal={self.is_causal}"


def _project(module, input):
    """Queries, keys and values (b, heads, t, head_dim)."""
    check_tokens("input", input, module.in_proj_weight.shape[1])
    packed = linear(input, module.in_proj_weight, module.in_proj_bias)
    return packed.unflatten(-1, (-1, module.head_dim)).transpose(1, 2).chunk(3, 1)


def _elu_plus_one(x):
    """x + 1 above 0, exp(x) below: never 0, where elu(x) + 1 rounds to it from −17 on; its derivative at 0 is 1."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def _log_of_mask(key_mask, input):
    """(b, 1, t): 0 at tokens and −∞ at padding."""
    if key_mask is None:
        return None
    if key_mask.shape != input.shape[:2] or key_mask.dtype != torch.bool:
        found = f"{tuple(key_mask.shape)} of {key_mask.dtype}"
        raise ValueError(f"expected key_mask {tuple(input.shape[:2])} of booleans, got {found}")
    absent = torch.zeros(key_mask.shape, dtype=input.dtype, device=input.device).masked_fill_(~key_mask, -math.inf)
    return absent.unsqueeze(1)
