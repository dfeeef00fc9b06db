"""Multi-head latent attention of torch.nn's layers, torch's scaled_dot_product_attention and complex numbers."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class LatentCache:
    def __init__(self):
        self.latent = self.rope_key = None

    def __len__(self):
        return 0 if self.latent is None else self.latent.shape[1]


def _rope(t, first, theta):
    """(…, t, d) with e^{j · position · θ^(−2i/d)}."""
    wide = t.to(torch.promote_types(t.dtype, torch.float32)).unflatten(-1, (-1, 2))
    rates = theta ** -(torch.arange(0, t.shape[-1], 2, dtype=wide.dtype, device=t.device) / t.shape[-1])
    angles = torch.outer(torch.arange(first, first + t.shape[-2], dtype=wide.dtype, device=t.device), rates)
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(torch.complex(wide[..., 0], wide[..., 1]) * turn).flatten(-2).to(t.dtype)


class MultiHeadLatentAttention(nn.Module):
    def __init__(
        self,
        embed_dim,
        num_heads,
        kv_lora_rank,
        qk_nope_head_dim,
        qk_rope_head_dim,
        v_head_dim,
        q_lora_rank=None,
        rope_theta=10000.0,
        eps=1e-6,
    ):
        super().__init__()
        self.sizes = num_heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim
        self.theta, self.q_lora_rank = rope_theta, q_lora_rank
        width = num_heads * (qk_nope_head_dim + qk_rope_head_dim)
        if q_lora_rank is None:
            self.q_proj = nn.Linear(embed_dim, width, bias=False)
        else:
            self.q_a_proj = nn.Linear(embed_dim, q_lora_rank, bias=False)
            self.q_a_layernorm = nn.RMSNorm(q_lora_rank, eps=eps)
            self.q_b_proj = nn.Linear(q_lora_rank, width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(embed_dim, kv_lora_rank + qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(kv_lora_rank, eps=eps)
        self.kv_b_proj = nn.Linear(kv_lora_rank, num_heads * (qk_nope_head_dim + v_head_dim), bias=False)
        self.o_proj = nn.Linear(num_heads * v_head_dim, embed_dim, bias=False)

    def forward(self, input, key_mask=None, cache=None, absorbed=False):
        heads, rank, content, rope, _ = self.sizes
        past = 0 if cache is None else len(cache)
        if self.q_lora_rank is None:
            query = self.q_proj(input)
        else:
            query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(input)))
        query = query.unflatten(-1, (heads, -1)).transpose(1, 2)
        query, rope_query = query[..., :content], _rope(query[..., content:], past, self.theta)
        joint = self.kv_a_proj_with_mqa(input)
        latent, rope_key = self.kv_a_layernorm(joint[..., :rank]), _rope(joint[..., rank:], past, self.theta)
        if cache is not None:
            if past:
                latent = torch.cat([cache.latent, latent], 1)
                rope_key = torch.cat([cache.rope_key, rope_key], 1)
            cache.latent, cache.rope_key = latent, rope_key
        t, s = input.shape[1], latent.shape[1]
        allowed = torch.ones(t, s, dtype=torch.bool, device=input.device).tril(past)[None, None]
        if key_mask is not None:
            allowed = allowed & key_mask[:, None, None]
        scale = (content + rope) ** -0.5
        with sdpa_kernel(SDPBackend.MATH):
            if absorbed:
                up_key, up_value = self.kv_b_proj.weight.unflatten(0, (heads, -1)).tensor_split([content], dim=1)
                query = torch.cat([torch.einsum("bhtd,hdr->bhtr", query, up_key), rope_query], -1).flatten(1, 2)
                key = torch.cat([latent, rope_key], -1)
                allowed = allowed.expand(-1, heads, -1, -1).flatten(1, 2)
                read = nn.functional.scaled_dot_product_attention(query, key, latent, allowed, scale=scale)
                read = torch.einsum("bhtr,hdr->bhtd", read.unflatten(1, (heads, t)), up_value)
            else:
                made = self.kv_b_proj(latent).unflatten(-1, (heads, -1)).transpose(1, 2)
                key = torch.cat([made[..., :content], rope_key[:, None].expand(-1, heads, -1, -1)], -1)
                query = torch.cat([query, rope_query], -1)
                value = made[..., content:]
                read = nn.functional.scaled_dot_product_attention(query, key, value, allowed, scale=scale)
        return self.o_proj(read.transpose(1, 2).flatten(2))
