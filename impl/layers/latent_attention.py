"""Multi-head latent attention: all heads project keys and values from one small vector a token, which alone is kept.

DeepSeek-AI 2024 (DeepSeek-V2), arXiv:2405.04434, §2.1 and appendix C. For token t and head i:

    c^KV_t = W^DKV h_t,   k^C_{t,i} = W^UK_i c^KV_t,   v^C_{t,i} = W^UV_i c^KV_t,   k^R_t = RoPE(W^KR h_t)
    c^Q_t = W^DQ h_t,     q^C_{t,i} = W^UQ_i c^Q_t,    q^R_{t,i} = RoPE(W^QR_i c^Q_t)
    o_{t,i} = Σ_{j <= t} softmax_j([q^C_{t,i}; q^R_{t,i}]·[k^C_{j,i}; k^R_j]/√(d_h + d^R)) v^C_{j,i},   u_t = W^O [o_t]

Absorbed, W^UK goes to the queries and W^UV after the sum, so that the heads attend to c^KV itself:

    q^C·k^C = (W^UKᵀ q^C)·c^KV,   Σ_j p_j v^C_j = W^UV Σ_j p_j c^KV_j

Convention: parameters are named and laid out as in DeepSeek's code, which also has RMSNorm on c^Q and c^KV (and none on
k^R). RoPE rotates the pairs (2i, 2i + 1) and leaves them in their positions.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .checks import check_sizes, check_tokens
from .linear import Linear
from .numerics import at_least_float32, masked_softmax
from .positional import rotary_frequencies, rotate
from .rms_norm import RMSNorm


class LatentCache:
    """What is kept of the tokens so far: c^KV (b, s, kv_lora_rank) and k^R (b, s, qk_rope_head_dim); None at first."""

    def __init__(self):
        self.latent: Tensor | None = None
        self.rope_key: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.latent is None else self.latent.shape[1]

    def append(self, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the vectors of new tokens; returns those of all."""
        if self.latent is not None:
            latent, rope_key = torch.cat([self.latent, latent], dim=1), torch.cat([self.rope_key, rope_key], dim=1)
        self.latent, self.rope_key = latent, rope_key
        return latent, rope_key


class MultiHeadLatentAttention(nn.Module):
    """Causal multi-head latent attention.

    Args:
        embed_dim: width of the tokens h.
        num_heads: n_h.
        kv_lora_rank: width of c^KV.
        qk_nope_head_dim: d_h, width of q^C and k^C of a head.
        qk_rope_head_dim: d^R, width of q^R of a head and of the one k^R that all heads share; even.
        v_head_dim: width of v^C of a head.
        q_lora_rank: width of c^Q; if None, queries are projected from h itself.
        rope_theta: θ, base of the angles.
        eps: added to the mean square in RMSNorm.

    Raises:
        ValueError: a size below 1, an odd qk_rope_head_dim, a rope_theta that is not positive, a negative eps; inputs
            or a mask of other shapes.

    Source: DeepSeek-AI 2024, arXiv:2405.04434, §2.1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        q_lora_rank: int | None = None,
        rope_theta: float = 10000.0,
        eps: float = 1e-6,
    ):
        super().__init__()
        check_sizes(num_heads=num_heads, kv_lora_rank=kv_lora_rank)
        check_sizes(qk_nope_head_dim=qk_nope_head_dim, v_head_dim=v_head_dim)
        _check_rope(rope_theta, qk_rope_head_dim)
        self.num_heads, self.rope_theta = num_heads, rope_theta
        self.query_dims = qk_nope_head_dim, qk_rope_head_dim
        self.value_dims = qk_nope_head_dim, v_head_dim
        query_width = num_heads * (qk_nope_head_dim + qk_rope_head_dim)
        if q_lora_rank is None:
            self.q_proj = Linear(embed_dim, query_width, bias=False)  # W^UQ and W^QR, head by head
        else:
            self.q_a_proj = Linear(embed_dim, q_lora_rank, bias=False)  # W^DQ
            self.q_a_layernorm = RMSNorm(q_lora_rank, eps)
            self.q_b_proj = Linear(q_lora_rank, query_width, bias=False)  # W^UQ and W^QR, head by head
        self.kv_a_proj_with_mqa = Linear(embed_dim, kv_lora_rank + qk_rope_head_dim, bias=False)  # W^DKV and W^KR
        self.kv_a_layernorm = RMSNorm(kv_lora_rank, eps)
        self.kv_b_proj = Linear(kv_lora_rank, num_heads * (qk_nope_head_dim + v_head_dim), bias=False)  # W^UK, W^UV
        self.o_proj = Linear(num_heads * v_head_dim, embed_dim, bias=False)  # W^O

    def forward(
        self,
        input: Float[Tensor, "b t d"],
        key_mask: Bool[Tensor, "b s"] | None = None,
        cache: LatentCache | None = None,
        absorbed: bool = False,
    ) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            key_mask: over all s tokens, those in the cache too: False at padding, to which no token attends.
            cache: holds the s − t tokens before these, and takes these in.
            absorbed: if True, heads attend to c^KV itself, in place of keys and values projected from it. The result is
                the same; with a cache and few new tokens it is far less work.
        """
        check_tokens("input", input, self.kv_a_proj_with_mqa.in_features)
        past = 0 if cache is None else len(cache)
        allowed, positions = _allowed(input, past, key_mask), torch.arange(past, past + input.shape[1])
        angles = (positions[:, None] * rotary_frequencies(self.query_dims[1], self.rope_theta)).to(input.device)
        query, rope_query = self._queries(input).split(self.query_dims, dim=-1)  # (b, heads, t, ·)
        query = torch.cat([query, rotate(rope_query, angles)], dim=-1)
        latent, rope_key = self.kv_a_proj_with_mqa(input).split([self.kv_b_proj.in_features, self.query_dims[1]], -1)
        latent, rope_key = self.kv_a_layernorm(latent), rotate(rope_key, angles)
        if cache is not None:
            latent, rope_key = cache.append(latent, rope_key)
        heads = (self._attend_absorbed if absorbed else self._attend)(query, latent, rope_key, allowed)
        return self.o_proj(heads.transpose(1, 2).flatten(2))

    def _queries(self, input):
        if hasattr(self, "q_proj"):
            query = self.q_proj(input)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(input)))
        return query.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, query, latent, rope_key, allowed):
        """Σ_j p_j v_j (b, heads, t, v_head_dim) with the keys and values of every head."""
        projected = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = projected.split(self.value_dims, dim=-1)
        key = torch.cat([key, rope_key[:, None].expand(-1, self.num_heads, -1, -1)], dim=-1)
        return self._weights(query @ key.mT, allowed) @ value

    def _attend_absorbed(self, query, latent, rope_key, allowed):
        """The same with one key [c^KV; k^R] and one value c^KV for all heads, whose queries are one sequence."""
        up = self.kv_b_proj.weight.unflatten(0, (self.num_heads, -1))  # (heads, d_h + v_head_dim, rank)
        up_key, up_value = up.split(self.value_dims, dim=1)
        query, rope_query = query.split(self.query_dims, dim=-1)
        query = torch.cat([query @ up_key, rope_query], dim=-1).flatten(1, 2)  # (b, heads · t, rank + d^R)
        scores = query @ torch.cat([latent, rope_key], dim=-1).mT
        weights = self._weights(scores.unflatten(1, (self.num_heads, -1)), allowed)
        return (weights.flatten(1, 2) @ latent).unflatten(1, (self.num_heads, -1)) @ up_value.mT

    def _weights(self, scores, allowed):
        scaled = at_least_float32(scores) * sum(self.query_dims) ** -0.5
        return masked_softmax(scaled.masked_fill(~allowed, -math.inf)).to(scores.dtype)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, query_dims={self.query_dims}, value_dims={self.value_dims}"


def _allowed(input, past, key_mask):
    """(b or 1, 1, t, s), True where a token may attend: to itself and earlier ones, and not to padding."""
    b, t = input.shape[:2]
    causal = torch.ones(t, past + t, dtype=torch.bool, device=input.device).tril(past)[None, None]
    if key_mask is None:
        return causal
    if key_mask.shape != (b, past + t) or key_mask.dtype != torch.bool:
        found = f"{tuple(key_mask.shape)} of {key_mask.dtype}"
        raise ValueError(f"expected key_mask ({b}, {past + t}) of booleans, got {found}")
    return causal & key_mask[:, None, None]


def _check_rope(rope_theta, qk_rope_head_dim):
    if qk_rope_head_dim < 2 or qk_rope_head_dim % 2:
        raise ValueError(f"expected qk_rope_head_dim to be even and at least 2, got {qk_rope_head_dim}")
    if not rope_theta > 0:
        raise ValueError(f"expected rope_theta > 0, got {rope_theta}")
