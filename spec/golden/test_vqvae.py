"""Golden values of the vector-quantized auto-encoder.  van den Oord et al. 2017, arXiv:1711.00937."""

import math

import pytest
import torch
from torch import nn

from impl.models.vqvae import VQVAE, VectorQuantizer, VectorQuantizerEMA
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("vq-vae")


@pytest.mark.states("equivalence")
def test_agrees_with_diffusers():
    """Values, indices, perplexity, loss, and the gradients of ⟨z_q, cotangent⟩ + 3·loss to vectors and codes.

    Source: van den Oord et al. 2017, eq. 1-3 and §3.2.  Convention: β weighs the commitment term; diffusers' default,
    legacy=True, lets it weigh the codebook's.
    """
    golden = load("vq-vae")
    quantizer = VectorQuantizer(5, 3, commitment_cost=0.4).double()
    quantizer.load_state_dict({"codebook": golden["codes"]})
    z = golden["z"].requires_grad_()
    z_q, loss, indices, perplexity = quantizer(z)
    golden.check("indices", indices)
    golden.check("z_q", z_q)
    golden.check("loss", loss)
    laws.assert_close(perplexity, golden["perplexity"], rtol=1e-6, because="counts may be float32")
    total = (z_q * golden["cotangent"]).sum() + 3 * loss
    by_z, by_codes = torch.autograd.grad(total, (z, quantizer.codebook))
    golden.check("by_z", by_z)
    golden.check("by_codes", by_codes)


@pytest.mark.states("equivalence")
def test_averages_agree_with_vector_quantize_pytorch():
    """N, m and e after each of three steps with γ = 0.75 and ε = 0.125, one cluster without any vector.

    Source: van den Oord et al. 2017, eq. 6-8.  Convention: smoothing as in the authors' code.
    """
    golden = load("vq-vae")
    quantizer = VectorQuantizerEMA(4, 2, decay=0.75, eps=0.125).double().train()
    quantizer.load_state_dict({n: golden[f"ema.{n}"] for n in ("codebook", "cluster_size", "cluster_sum")})
    for step, z in enumerate(golden["ema.z"], start=1):
        quantizer(z)
        for name, value in quantizer.state_dict().items():
            golden.check(f"ema.{name}.{step}", value)


def test_repeated_steps_without_memory_are_scipys_k_means():
    """30 steps with γ = 0 and ε = 0 end at the centres and clusters of scipy's Lloyd algorithm, from the same start.

    Source: van den Oord et al. 2017, appendix A.1; Lloyd 1982.
    """
    golden = load("vq-vae")
    points = golden["k_means.points"]
    quantizer = VectorQuantizerEMA(4, 2, decay=0.0, eps=0.0).double().train()
    state = {"codebook": points[:4], "cluster_size": torch.ones(4), "cluster_sum": points[:4]}
    quantizer.load_state_dict(state)
    for _ in range(30):
        quantizer(points)
    golden.check("k_means.codes", quantizer.codebook)
    golden.check("k_means.indices", quantizer.nearest(points))


def test_an_image_of_imagenet_becomes_9216_bits():
    """Two strides of 2 turn 128 × 128 × 3 bytes into 32 × 32 indices of log₂ 512 = 9 bits: 42.67 times fewer.

    Source: van den Oord et al. 2017, §4.1: 128×128×3×8 / (32×32×9) ≈ 42.6.
    """
    encoder = nn.Sequential(nn.Conv2d(3, 5, 4, stride=2, padding=1), nn.Conv2d(5, 64, 4, stride=2, padding=1))
    model = VQVAE(encoder, nn.Identity(), VectorQuantizer(512, 64))
    indices = model.encode(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    assert indices.shape == (1, 32, 32), f"expected 32 × 32 indices, found {tuple(indices.shape)}"
    assert indices.min() >= 0 and indices.max() < 512, f"expected indices below 512, found {indices.max()}"
    bits = indices.numel() * math.log2(len(model.quantizer.codebook))
    assert bits == 9216, f"expected 9216 bits, found {bits}"
    assert abs(128 * 128 * 3 * 8 / bits - 42.67) < 0.005
