"""Multi-head latent attention next to the same made of torch.nn's layers and fused attention."""

import torch
from torch import nn

from impl.layers.latent_attention import MultiHeadLatentAttention
from tools.bench import Pair

WIDTH, HEADS, RANK, CONTENT, ROPE, VALUE, QUERY_RANK = 256, 4, 96, 48, 16, 64, 128


class _OfTorch(nn.Module):
    """Names as in DeepSeek's code; keys, values and queries are all 64 wide, as the fused kernel wants."""

    def __init__(self):
        super().__init__()
        self.q_a_proj = nn.Linear(WIDTH, QUERY_RANK, bias=False)
        self.q_a_layernorm = nn.RMSNorm(QUERY_RANK, eps=1e-6)
        self.q_b_proj = nn.Linear(QUERY_RANK, HEADS * (CONTENT + ROPE), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(WIDTH, RANK + ROPE, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(RANK, eps=1e-6)
        self.kv_b_proj = nn.Linear(RANK, HEADS * (CONTENT + VALUE), bias=False)
        self.o_proj = nn.Linear(HEADS * VALUE, WIDTH, bias=False)

    def forward(self, input):
        query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(input))).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        latent, rope_key = self.kv_a_proj_with_mqa(input).split([RANK, ROPE], -1)
        made = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        rates = 10000.0 ** -(torch.arange(0, ROPE, 2) / ROPE)
        angles = torch.outer(torch.arange(input.shape[1]), rates)
        turn = torch.polar(torch.ones_like(angles), angles)

        def rotate(t):
            return torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

        query = torch.cat([query[..., :CONTENT], rotate(query[..., CONTENT:])], -1)
        shared = rotate(rope_key)[:, None].expand(-1, HEADS, -1, -1)
        key = torch.cat([made[..., :CONTENT], shared], -1)
        read = nn.functional.scaled_dot_product_attention(query, key, made[..., CONTENT:], is_causal=True)
        return self.o_proj(read.transpose(1, 2).flatten(2))


PAIRS = [
    Pair(
        item="latent-attention",
        name="256 tokens of 256",
        ours=lambda: MultiHeadLatentAttention(WIDTH, HEADS, RANK, CONTENT, ROPE, VALUE, QUERY_RANK),
        theirs=_OfTorch,
        inputs=lambda: (torch.randn(4, 256, WIDTH),),
    ),
    Pair(
        item="latent-attention",
        name="512 tokens of 256",
        ours=lambda: MultiHeadLatentAttention(WIDTH, HEADS, RANK, CONTENT, ROPE, VALUE, QUERY_RANK),
        theirs=_OfTorch,
        inputs=lambda: (torch.randn(2, 512, WIDTH),),
    ),
]
