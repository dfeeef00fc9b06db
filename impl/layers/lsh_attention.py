"""Attention by locality-sensitive hashing: a token attends to those in its bucket, which are likely to be similar.

Kitaev, Kaiser & Levskaya 2020 (Reformer), arXiv:2001.04451, §2 and appendix A; hash: Andoni et al. 2015,
arXiv:1509.02897.

    h(x) = argmax([xR; −xR])                                          b buckets, R of d_k × b/2 normal values
    o_i = Σ_{j ∈ P_i} exp(q_i·k_j − m_ij − z_i) v_j,                  k_j = q_j/‖q_j‖, z_i so that the weights sum to 1
    m_ij = 10⁵ if i = j,   else log N_ij, the number of rounds in which i attends to j,   P_i the union over rounds
         = Σ_r exp(z_i^r − z_i) o_i^r                                 with o^r, z^r of one round; log-sums of weights

In a round tokens are sorted by bucket, then position, and cut into chunks; i attends to the tokens of its bucket in its
own chunk and in the one before.

Convention: keys have length 1 and scores no further factor, as in the authors' code, where 1/√d_k scales keys of mean
square 1 (and 1e-6 is added to the mean square). Buckets do not mix, as in eq. 3, and the first chunk has none before
it, where the authors' code, and libraries after it, attend to whole chunks, the first to the last. A pair of several
rounds counts once. Training samples new rotations R at each call; evaluation uses those of the state.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .checks import check_dropout, check_sizes, check_tokens
from .dropout import Dropout
from .linear import Linear
from .multi_head import head_width

ITSELF = 1e5  # subtracted from a token's score of itself: it attends to itself only if there is no other


def lsh_buckets(
    vectors: Float[Tensor, "b heads n d_k"], rotations: Float[Tensor, "heads d_k rounds half"]
) -> Int[Tensor, "b heads rounds n"]:
    """h(x) = argmax([xR; −xR]) of each vector in each round: buckets from 0 to 2·half − 1.

    Source: Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, §2.
    """
    rotated = torch.einsum("bhnd,hdrk->bhrnk", vectors, rotations)
    return torch.cat([rotated, -rotated], -1).argmax(-1)


class LSHAttention(nn.Module):
    """Multi-head self-attention of each token to those of its buckets, with queries that are the keys as well.

    Args:
        embed_dim: width of the tokens.
        num_heads: heads; embed_dim/num_heads is their width, d_k.
        num_buckets: b, even; or 1: every token attends to all of its chunk and the one before.
        chunk_length: m; the paper takes twice the mean size of a bucket.
        num_hashes: rounds of hashing.
        is_causal: if True, a token attends to itself and earlier tokens only.
        dropout: probability with which an attention weight is dropped in training.
        bias: if True, the three projections have a bias.

    Attributes:
        rotations: R (heads, d_k, rounds, b/2), a buffer, sampled at construction.
        qk_proj, v_proj, out_proj: the projections; num_buckets, chunk_length, is_causal: as given.

    Raises:
        ValueError: sizes below 1 or that do not divide, an odd number of buckets above 1, `dropout` outside [0, 1);
            inputs or masks of other shapes or dtypes.

    Source: Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, §2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_buckets: int,
        chunk_length: int,
        num_hashes: int = 1,
        is_causal: bool = False,
        dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(embed_dim, num_heads)
        check_sizes(num_buckets=num_buckets, chunk_length=chunk_length, num_hashes=num_hashes)
        check_dropout(dropout)
        if num_buckets % 2 and num_buckets > 1:
            raise ValueError(f"expected 1 or an even number for num_buckets, got {num_buckets}")
        self.embed_dim, self.num_buckets, self.chunk_length = embed_dim, num_buckets, chunk_length
        self.is_causal = is_causal
        self.qk_proj, self.v_proj, self.out_proj = (Linear(embed_dim, embed_dim, bias) for _ in range(3))
        self.dropout = Dropout(dropout)
        self.register_buffer("rotations", torch.randn(num_heads, self.head_dim, num_hashes, num_buckets // 2))

    def forward(
        self, input: Float[Tensor, "b n d"], key_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Each token's new features.

        Args:
            key_mask: True at tokens, False at padding, to which no token attends; it has a bucket of its own.
        """
        check_tokens("input", input, self.embed_dim)
        b, n, _ = input.shape
        if key_mask is not None and (key_mask.shape != (b, n) or key_mask.dtype != torch.bool):
            raise ValueError(f"expected key_mask {(b, n)} of booleans, got {tuple(key_mask.shape)} of {key_mask.dtype}")
        query, value = (
            project(input).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
            for project in (self.qk_proj, self.v_proj)
        )
        query, value = (t.to(torch.promote_types(input.dtype, torch.float32)) for t in (query, value))
        buckets = self._buckets(query, key_mask)
        padding = torch.full_like(buckets[..., :1], self.num_buckets + 1).expand(-1, -1, -1, -n % self.chunk_length)
        buckets = torch.cat([buckets, padding], 3)
        output = _attend(query, value, buckets, self.chunk_length, self.is_causal, self.dropout)[:, :, :n]
        return self.out_proj(output.to(input.dtype).transpose(1, 2).flatten(2))

    @torch.no_grad()
    def _buckets(self, query, key_mask):
        """(b, heads, rounds, n)."""
        rotations = torch.randn_like(self.rotations) if self.training else self.rotations
        if self.num_buckets == 1:
            buckets = torch.zeros_like(query[..., 0], dtype=torch.int64)[:, :, None].expand(
                -1, -1, rotations.shape[2], -1
            )
        else:
            buckets = lsh_buckets(query, rotations.to(query.dtype))
        return buckets if key_mask is None else buckets.masked_fill(~key_mask[:, None, None], self.num_buckets)

    def extra_repr(self) -> str:
        shown = f"num_buckets={self.num_buckets}, chunk_length={self.chunk_length}"
        return f"{shown}, num_hashes={self.rotations.shape[2]}, is_causal={self.is_causal}"


def _attend(query, value, buckets, chunk, is_causal, dropout):
    """o (b, heads, n, d_k), from buckets (b, heads, rounds, whole chunks)."""
    key = query * (query.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * query.shape[-1] ** -0.5
    length = buckets.shape[3]
    vectors = torch.cat([query, key, value], -1)
    vectors = torch.cat([vectors, vectors.new_zeros(*vectors.shape[:2], length - query.shape[2], vectors.shape[3])], 2)

    order = buckets.argsort(dim=3, stable=True)  # which token stands where in a round
    rank = order.argsort(dim=3)  # and where each token stands
    query, key, value = _cut(_rows(vectors, order), chunk).chunk(3, -1)  # (b, heads, rounds, chunks, m, d_k)
    scores = query @ _with_previous(key).mT + _bias(buckets, order, rank, chunk, is_causal, query)
    level = scores.logsumexp(-1, keepdim=True)  # z^r
    output = dropout((scores - level).exp()) @ _with_previous(value)
    found = _rows(torch.cat([output, level], -1).flatten(3, 4), rank)  # back in the order of the text
    return (found[..., :-1] * found[..., -1:].softmax(2)).sum(2)


@torch.no_grad()
def _bias(buckets, order, rank, chunk, is_causal, like):
    """−m_ij of each token of a chunk and each one of its chunk and the one before; −∞ where i does not attend to j."""
    position, bucket = (_pairs(_cut(t, chunk)) for t in (order, buckets.gather(3, order)))
    visible = bucket[0] == bucket[1]
    if is_causal:
        visible = visible & (position[0] >= position[1])
    # In a round i attends to j if they share a bucket, and chunks or neighbours: if these labels differ by 0 or 1.
    times = torch.zeros((), dtype=like.dtype, device=like.device)
    labels = buckets * (buckets.shape[3] // chunk + 1) + rank // chunk
    for label in labels.unbind(2):
        own, other = _pairs(_cut(label.unsqueeze(2).expand_as(order).gather(3, order), chunk))
        times = times + ((own == other) | (own == other + 1))
    apart = torch.where(position[0] == position[1], ITSELF, times.clamp(min=1).log())
    return torch.where(visible, -apart, -math.inf)


def _rows(t, index):
    """The rows of t (*lead, n, f) at the indices (*lead, *more): (*lead, *more, f)."""
    n, width = t.shape[-2:]
    start = n * torch.arange(math.prod(t.shape[:-2]), device=t.device).view(*t.shape[:-2], 1)
    flat = index.flatten(t.dim() - 2) + start
    return t.flatten(0, -2).index_select(0, flat.flatten()).view(*index.shape, width)


def _cut(t, chunk):
    """(b, heads, rounds, n, …) → (b, heads, rounds, chunks, m, …)."""
    return t.unflatten(3, (t.shape[3] // chunk, chunk))


def _with_previous(t, first=0):
    """Each chunk after the one before it, (…, chunks, m, …) → (…, chunks, 2m, …); `first` precedes the first."""
    return torch.cat([torch.cat([torch.full_like(t[:, :, :, :1], first), t[:, :, :, :-1]], 3), t], 4)


def _pairs(t):
    """Values of a chunk's tokens against those of its and the previous chunk's: (…, m, 1) and (…, 1, 2m)."""
    return t[..., None], _with_previous(t, -1)[..., None, :]
