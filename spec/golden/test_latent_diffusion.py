"""Golden values of latent diffusion.  Rombach et al. 2021, arXiv:2112.10752."""

from functools import partial

import pytest
import torch

from impl.models.ddpm import DDPMUNet, guide, timestep_embedding
from impl.models.latent_diffusion import AutoencoderKL, SpatialTransformer
from impl.models.vae import gaussian_kl
from spec.golden import load
from spec.golden.test_ddpm import attention, network, renamed, residuals

pytestmark = pytest.mark.item("latent-diffusion")


def autoencoder_state(golden):
    """The recipe's weights, named as in diffusers, under our names."""
    names = {"encoder.0": "encoder.conv_in", "encoder.2": "encoder.down_blocks.0.downsamplers.0.conv"}
    names |= {"encoder.7": "encoder.conv_norm_out", "encoder.9": "encoder.conv_out", "encoder.10": "quant_conv"}
    names |= {"decoder.0": "post_quant_conv", "decoder.1": "decoder.conv_in"}
    names |= {"decoder.8": "decoder.up_blocks.0.upsamplers.0.conv"}
    names |= {"decoder.11": "decoder.conv_norm_out", "decoder.13": "decoder.conv_out"}
    blocks = {"encoder.1": "encoder.down_blocks.0.resnets.0", "encoder.3": "encoder.down_blocks.1.resnets.0"}
    blocks |= {"encoder.4": "encoder.mid_block.resnets.0", "encoder.6": "encoder.mid_block.resnets.1"}
    blocks |= {"decoder.2": "decoder.mid_block.resnets.0", "decoder.4": "decoder.mid_block.resnets.1"}
    blocks |= {f"decoder.{5 + k}": f"decoder.up_blocks.0.resnets.{k}" for k in range(2)}
    blocks |= {f"decoder.{9 + k}": f"decoder.up_blocks.1.resnets.{k}" for k in range(2)}
    for ours, theirs in blocks.items():
        found = residuals(ours, theirs, shortcut=ours in ("encoder.3", "decoder.9"))
        names |= {our: their for our, their in found.items() if not our.endswith(".time")}
    state = renamed(golden, "autoencoder.", names)
    state |= attention(golden, "encoder.5", "encoder.mid_block.attentions.0", "autoencoder.")
    return state | attention(golden, "decoder.3", "decoder.mid_block.attentions.0", "autoencoder.")


def transformer_state(golden, ours, theirs):
    block = f"{theirs}.transformer_blocks.0"
    names = {f"{ours}.norm": f"{theirs}.norm"}
    names |= {f"{ours}.blocks.0.norm{k}": f"{block}.norm{k}" for k in (1, 2, 3)}
    names |= {
        f"{ours}.blocks.0.{kind}_attn.out_proj": f"{block}.attn{k}.to_out.0" for kind, k in (("self", 1), ("cross", 2))
    }
    names |= {f"{ours}.blocks.0.feed_forward.down_proj": f"{block}.ff.net.2"}
    state = renamed(golden, "network.", names)
    for our, their in (("input", "proj_in"), ("output", "proj_out")):
        state[f"{ours}.{our}.weight"] = golden[f"network.{theirs}.{their}.weight"][:, :, 0, 0]
        state[f"{ours}.{our}.bias"] = golden[f"network.{theirs}.{their}.bias"]
    three = [golden[f"network.{block}.attn1.to_{letter}.weight"] for letter in "qkv"]
    state[f"{ours}.blocks.0.self_attn.in_proj_weight"] = torch.cat(three)
    for letter in "qkv":
        state[f"{ours}.blocks.0.cross_attn.{letter}_proj_weight"] = golden[f"network.{block}.attn2.to_{letter}.weight"]
    for kind in ("weight", "bias"):
        up, gate = golden[f"network.{block}.ff.net.0.proj.{kind}"].chunk(2)
        state[f"{ours}.blocks.0.feed_forward.up_proj.{kind}"] = up
        state[f"{ours}.blocks.0.feed_forward.gate_proj.{kind}"] = gate
    return state


def network_state(golden):
    state = network(golden, "network.")
    state |= transformer_state(golden, "down.0.attentions.0", "down_blocks.0.attentions.0")
    state |= transformer_state(golden, "middle_attention", "mid_block.attentions.0")
    for number in range(2):
        state |= transformer_state(golden, f"up.1.attentions.{number}", f"up_blocks.1.attentions.{number}")
    return state


def test_autoencoder_gives_the_numbers_of_diffusers():
    """Moments, their divergence from N(0, I), the decoded mean, and the gradient of its squares to the images.

    Source: Rombach et al. 2021, §3.1; diffusers' AutoencoderKL.
    """
    golden = load("latent-diffusion")
    model = AutoencoderKL(3, 2, 4, (1, 2), 1, 2).double().eval()
    model.load_state_dict(autoencoder_state(golden))
    images = golden["images"].requires_grad_()
    decoded, mu, logvar = model(images)
    golden.check("mean", mu)
    golden.check("log_variance", logvar)
    golden.check("divergence", gaussian_kl(mu, logvar).sum((1, 2, 3)))
    golden.check("decoded", decoded)
    golden.check("image_gradient", torch.autograd.grad(decoded.square().sum(), images)[0])


def sines(t, width):
    """Stable Diffusion's embedding of width 4 in float64."""
    assert width == 4
    angles = t.double()[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], 1)


def test_conditional_network_gives_the_numbers_of_diffusers():
    """Predictions for two contexts, guided by 7.5, and the gradient of squares to the context.

    Source: Rombach et al. 2021, §3.3; diffusers' UNet2DConditionModel with two heads, its sines in float64.
    """
    golden = load("latent-diffusion")

    def attend(channels):
        return SpatialTransformer(channels, 2, 3, groups=2)

    options = {"attention_levels": (0,), "groups": 2, "norm_eps": 1e-5, "attention": attend}
    model = DDPMUNet(2, None, 4, (1, 2), 1, **options, embed_time=sines, downsample_padding=1).double().eval()
    model.load_state_dict(network_state(golden))
    latents, t, context = golden["latents"], golden["times"].long(), golden["context"].requires_grad_()
    found = model(latents, t, context=context)
    golden.check("predicted", found)
    golden.check("context_gradient", torch.autograd.grad(found.square().sum(), context)[0])
    golden.check("guided", guide(found.detach(), model(latents, t, context=golden["other"]).detach(), 7.5))


def test_published_sizes():
    """Stable Diffusion v1 has 83,653,863 and 859,520,964 parameters in its two stages, and latents of 64² for 512².

    Source: Rombach et al. 2021, appendix E, as released: f = 8, 4 latent channels, contexts of width 768, 8 heads.
    """
    with torch.device("meta"):
        first = AutoencoderKL()
        embed = partial(timestep_embedding, shift=0.0, cosine_first=True)
        attend = partial(SpatialTransformer, num_heads=8, context_width=768)
        options = {"attention_levels": (0, 1, 2), "norm_eps": 1e-5, "attention": attend, "embed_time": embed}
        second = DDPMUNet(4, 4, 320, (1, 2, 4, 4), 2, **options, downsample_padding=1)
        mu, _ = first.encode(torch.randn(1, 3, 512, 512))
    found = [sum(p.numel() for p in model.parameters()) for model in (first, second)]
    assert found == [83_653_863, 859_520_964], f"expected 83653863 and 859520964 parameters, found {found}"
    assert mu.shape == (1, 4, 64, 64), f"expected latents of 4 × 64 × 64, found {tuple(mu.shape)}"
