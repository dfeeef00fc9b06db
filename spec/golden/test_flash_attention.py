"""FlashAttention against torch's own kernel of it, jax and scipy."""

import pytest
import torch
from torch import nn

from impl.layers.flash_attention import flash_attention
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("flash-attention")

OPTIONS = {"plain": {}, "causal": {"is_causal": True}, "later": {"is_causal": True}, "masked": {}, "huge": {}}
OPTIONS["biased"] = {"scale": 0.3}
MASKS = {"masked": "mask", "biased": "bias"}


@pytest.mark.parametrize("block_q", [2, 5, 128])
@pytest.mark.parametrize("tag", list(OPTIONS))
def test_values_of_torchs_flash_kernel(tag, block_q):
    """O, L and the gradients to Q, K, V are those of torch's flash kernel, plain, causal, masked, biased and saturated.

    Source: torch's _scaled_dot_product_flash_attention_for_cpu; jax's softmax and vjp; scipy's logsumexp.
    """
    golden = load("flash-attention")
    leaves = [golden[f"{name}_{tag}"].requires_grad_() for name in ("query", "key", "value")]
    mask = golden[MASKS[tag]] if tag in MASKS else None
    options = {"return_lse": True, "block_q": block_q, "block_k": 3, **OPTIONS[tag]}
    output, lse = flash_attention(*leaves, mask, **options)
    golden.check(f"output_{tag}", output)
    golden.check(f"lse_{tag}", lse)
    grads = torch.autograd.grad(output, leaves, golden[f"cotangent_{tag}"])
    for name, grad in zip(("query", "key", "value"), grads):
        golden.check(f"d_{name}_{tag}", grad)


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch(causal):
    """In float32, 2 samples of 3 heads of 200 tokens come out as of torch's scaled_dot_product_attention.

    Source: torch.nn.functional.scaled_dot_product_attention.
    Convention: with as many queries as keys, both alignments of a causal mask are one.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 200, 8, generator=generator) for _ in range(3)]
    wanted = nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)
    laws.assert_close(flash_attention(*inputs, is_causal=causal), wanted)


def test_milakov_and_gimelsheins_normaliser():
    """Scores 1, 2, 3 one at a time: L = 3 + ln(1 + e⁻¹ + e⁻²) = 3.407605964444380, weights 0.0900, 0.2447, 0.6652.

    Source: Milakov & Gimelshein 2018, algorithm 3; the digits are those of the closed form.
    """
    key, query = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    value = torch.eye(3, dtype=torch.float64)
    output, lse = flash_attention(query, key, value, return_lse=True, block_k=1)
    laws.assert_close(lse, torch.tensor([3.407605964444380], dtype=torch.float64))
    weights = [[0.09003057317038046, 0.24472847105479764, 0.6652409557748219]]
    laws.assert_close(output, torch.tensor(weights, dtype=torch.float64))
