"""Linear attention: with a kernel of features φ in place of exp, attention among N tokens costs O(N).

Katharopoulos et al. 2020, arXiv:2006.16236, §3.2; Choromanski et al. 2021 (Performer), arXiv:2009.14794, §2.

    y_i = Σ_j φ(q_i)ᵀφ(k_j) v_j / Σ_j φ(q_i)ᵀφ(k_j) = φ(q_i)ᵀ S_i / φ(q_i)ᵀ z_i,
    S_i = Σ_j φ(k_j) v_jᵀ,   z_i = Σ_j φ(k_j)          over all j, or causally over j ≤ i: a sum that is carried along
    LinearAttention    φ(x) = elu(x) + 1
    FavorAttention     φ(x) = exp(−‖x‖²/2)/√m · (exp(ω_1ᵀx), …, exp(ω_mᵀx)),   ω_i ~ N(0, I_d),   x = q/d^¼ or k/d^¼:
                       E_ω[φ(x)ᵀφ(y)] = exp(xᵀy), softmax attention on average

Convention: no epsilon: the weights of a query sum to 1 however small they were, and a query that attends to nothing
gets 0. The features of a key may leave out a factor, whose logarithm is given instead: sums are kept relative to the
largest factor so far, as in an online softmax. The ω_i of a block of d are orthogonal, with lengths of independent
normal vectors, χ_d, so that each alone is still N(0, I). Parameters are named and initialised as those of
self-attention, and weights move both ways. elu + 1 takes queries and keys as they are, without 1/√d. A mask is True
where a key may be attended to.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .checks import check_sizes, check_tokens
from .linear import linear
from .multi_head import head_width, output_map, split_heads, uniform_weight
from .numerics import at_least_float32

CHUNK = 64  # causal sums go from chunk to chunk; within a chunk queries meet its keys one by one


class LinearAttentionState:
    """S and z of the tokens seen so far, of one size however many: `sums` (…, features, d_v + 1); None before any.

    `level` (…, 1) is the logarithm of the factor that all sums leave out.
    """

    def __init__(self):
        self.sums: Tensor | None = None
        self.level: Tensor | None = None


def linear_attention(
    query: Float[Tensor, "*b t m"],
    key: Float[Tensor, "*b s m"],
    value: Float[Tensor, "*b s d_v"],
    log_weight: Float[Tensor, "..."] | None = None,
    is_causal: bool = False,
    state: LinearAttentionState | None = None,
) -> Float[Tensor, "*b t d_v"]:
    """Σ_j (φ(q_i)ᵀ φ(k_j)) v_j over Σ_j φ(q_i)ᵀ φ(k_j).

    Args:
        query, key: φ(q_i) and φ(k_j), not negative.
        log_weight: broadcasts to (*b, s): logarithm of a factor of each key's features, −∞ for a key to leave out.
        is_causal: sum over keys up to i only; then s = t.
        state: holds the sums of earlier tokens and takes these in; only causally.

    Raises:
        ValueError: shapes that do not fit together, no keys, or a state without `is_causal`.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236, eq. 5 and 9.
    """
    _check(query, key, value, log_weight, is_causal, state)
    dtype = query.dtype
    query, key, value = (at_least_float32(t) for t in (query, key, value))
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)  # with a column of ones z is the last column of S
    level = query.new_zeros(key.shape[-2]) if log_weight is None else log_weight.to(query.dtype)
    if is_causal:
        earlier = (None, None) if state is None else (state.sums, state.level)
        read, sums, level = _read_causally(query, key, value, level.unsqueeze(-1), *earlier)
        if state is not None:
            state.sums, state.level = sums, level
    else:
        top = _finite(level.detach().amax(-1, keepdim=True))
        read = query @ (key.mT @ (value * (level - top).exp().unsqueeze(-1)))
    total, count = read[..., :-1], read[..., -1:]
    return (total / (count + (count == 0))).to(dtype)


def _read_causally(query, key, value, level, sums, top):
    """φ(q_i)ᵀ S_i before the division, (*b, t, d_v + 1), chunk by chunk; S and its level before them and after."""
    read = []
    if sums is None:
        sums = query.new_zeros(*key.shape[:-2], key.shape[-1], value.shape[-1])
        top = _finite(query.new_full((1,), -math.inf))
    for q, k, v, w in zip(*(t.split(CHUNK, -2) for t in (query, key, value, level))):
        # The largest logarithm up to each token: sums relative to it neither overflow nor depend on what comes later.
        tops = _finite(torch.maximum(w.detach().cummax(-2).values, top.unsqueeze(-1)))  # (…, chunk, 1)
        future = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
        decay = (w.mT - tops).masked_fill(future, -math.inf).exp()
        read.append((q @ k.mT * decay) @ v + (q @ sums) * (top.unsqueeze(-1) - tops).exp())
        last = tops[..., -1, :]
        kept, new = (top - last).exp().unsqueeze(-1), k.mT @ (v * (w - last.unsqueeze(-1)).exp())
        sums, top = sums * kept + new, last
    return torch.cat(read, -2), sums, top


def _finite(level):
    """The lowest number in place of −∞, the level of no key at all: differences of levels are never NaN."""
    return level.clamp(min=torch.finfo(level.dtype).min)


def orthogonal_projection(
    num_features: int, width: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "m d"]:
    """ω_1, …, ω_m as rows, each block of `width` of them orthogonal and independent of the others.

    Raises:
        ValueError: sizes below 1.

    Source: Choromanski et al. 2021, arXiv:2009.14794, §2.4 and Algorithm 1.
    """
    check_sizes(num_features=num_features, width=width)
    blocks = math.ceil(num_features / width)
    normal = torch.randn(2, blocks, width, width, generator=generator, dtype=dtype)
    # QR leaves the signs of R's diagonal to the library; only the Q of a positive one has no preferred direction.
    basis, upper = torch.linalg.qr(normal[0])
    basis = basis * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    lengths = normal[1].square().sum(-1, keepdim=True).sqrt()
    return (basis.mT * lengths).flatten(0, 1)[:num_features]


def positive_features(
    x: Float[Tensor, "*b t d"], projection: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, "*b t m"], Float[Tensor, "*b t"]]:
    """φ(x) of every vector over the largest of its own features, and the logarithm of that one, a constant.

    Args:
        x: for attention, a query or key over d^¼, so that xᵀy = qᵀk/√d.
        projection: ω_1, …, ω_m as rows. With −ω_i next to every ω_i these are the paper's hyperbolic features.

    Raises:
        ValueError: vectors and projection of other widths.

    Source: Choromanski et al. 2021, arXiv:2009.14794, Lemma 1.
    """
    if x.dim() < 2 or projection.dim() != 2 or x.shape[-1] != projection.shape[-1]:
        found = f"{tuple(x.shape)} and {tuple(projection.shape)}"
        raise ValueError(f"expected x (…, t, d) and a projection (m, d) of one width, got {found}")
    exponents, half = x @ projection.mT, x.square().sum(-1, keepdim=True) / 2
    # The level is a constant to autograd, taken out here and put back by whoever needs it. Of ‖x‖²/2 only the slope
    # is left next to it: the difference of large numbers would round.
    top = exponents.detach().amax(-1, keepdim=True)
    features = (exponents - (top + (half - half.detach()))).exp()
    level = (top - half.detach()).squeeze(-1)
    return features, level - math.log(len(projection)) / 2


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
        num_features: m, random features of each query and key; default head_dim · ln(head_dim), as theorem 4 asks,
            rounded down, at least 1.

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
        # The root of 1/√d for each: ‖x‖² is of the scaled vector too. Scores and features are float32 or wider.
        scale, projection = self.head_dim**-0.25, at_least_float32(self.projection)
        query, _ = positive_features(at_least_float32(query) * scale, projection)  # a query's own factor cancels
        key, level = positive_features(at_least_float32(key) * scale, projection)
        absent = _log_of_mask(key_mask, input)
        level = level if absent is None else level + absent
        read = linear_attention(query, key, at_least_float32(value), level, self.is_causal, state).to(input.dtype)
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
    return split_heads(packed, module.head_dim).chunk(3, 1)


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
    return torch.where(key_mask, 0.0, -math.inf).to(input.dtype).unsqueeze(1)


def _check(query, key, value, log_weight, is_causal, state):
    shapes = [tuple(u.shape) for u in (query, key, value)]
    if min(map(len, shapes)) < 2 or not shapes[0][:-2] == shapes[1][:-2] == shapes[2][:-2]:
        raise ValueError(f"expected query, key and value with the same leading dimensions, got shapes {shapes}")
    if shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"expected as many features of keys as of queries, {shapes[0][-1]}, got {shapes[1][-1]}")
    if shapes[1][-2] != shapes[2][-2] or not shapes[1][-2]:
        raise ValueError(f"expected keys, and as many values as keys, got {shapes[1][-2]} and {shapes[2][-2]}")
    if is_causal and shapes[0][-2] != shapes[1][-2]:
        raise ValueError(f"expected as many queries as keys with is_causal, got {shapes[0][-2]} and {shapes[1][-2]}")
    if state is not None and not is_causal:
        raise ValueError("expected is_causal=True with a state, got False: earlier tokens would have to be redone")
    if log_weight is not None:
        fits = all(a in (1, b) for a, b in zip(reversed(log_weight.shape), reversed(shapes[1][:-1])))
        if log_weight.dim() > len(shapes[1]) - 1 or not fits or log_weight.shape[-1:] != shapes[1][-2:-1]:
            raise ValueError(f"expected log_weight to broadcast to {shapes[1][:-1]}, got {tuple(log_weight.shape)}")
