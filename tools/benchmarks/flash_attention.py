"""FlashAttention next to torch's fused kernel."""

import torch

from impl.layers.flash_attention import flash_attention
from tools.bench import Memory, Pair


def _pair(name, *shapes, **options):
    kernel = torch.nn.functional.scaled_dot_product_attention
    return Pair(
        item="flash-attention",
        name=name,
        ours=lambda: lambda *qkv: flash_attention(*qkv, **options),
        theirs=lambda: lambda *qkv: kernel(*qkv, **options),
        inputs=lambda: tuple(torch.randn(s) for s in shapes),
    )


PAIRS = [
    _pair("1024 tokens", *[(2, 8, 1024, 64)] * 3),
    _pair("1024 tokens, causal", *[(2, 8, 1024, 64)] * 3, is_causal=True),
    _pair("512 queries, 1500 keys", (2, 6, 512, 64), *[(2, 6, 1500, 64)] * 2),
]

MEMORY = [
    Memory(
        item="flash-attention",
        name=f"{n} tokens",
        ours=lambda: flash_attention,
        inputs=lambda n=n: tuple(torch.randn(1, 8, n, 64) for _ in range(3)),
        scores=(1, 8, n, n),
    )
    for n in (1024, 4096)
]
