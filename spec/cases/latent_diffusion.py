"""Cases of latent diffusion."""

import torch
from torch import nn

from impl.models.ddpm import DDPMUNet, GaussianDiffusion
from impl.models.latent_diffusion import AutoencoderKL, LatentDiffusion, SpatialTransformer
from spec.cases import Bad, Case
from spec.cases.ddpm import attended, residual, times
from spec.contract import Contract, Fresh, affine, linear
from spec.laws import random, reseed

SETTINGS = {
    "in_channels": 3,
    "latent_channels": 2,
    "base_channels": 4,
    "channel_mults": (1, 2),
    "num_res_blocks": 1,
    "groups": 2,
}


def autoencoder(**options):
    reseed(0)
    return AutoencoderKL(**SETTINGS | options)


def spatial_transformer(**options):
    reseed(1)
    return SpatialTransformer(**{"channels": 4, "num_heads": 2, "context_width": 3, "groups": 2} | options)


def denoiser():
    """A small U-Net of latents of 2 channels with contexts of width 3."""
    reseed(2)
    return DDPMUNet(2, None, 4, (1, 2), 1, (1,), groups=2, attention=lambda c: SpatialTransformer(c, 2, 3, groups=2))


class Tokens(nn.Module):
    """Conditions (n, s) of numbers to contexts (n, s, 3)."""

    def __init__(self):
        super().__init__()
        reseed(3)
        self.rows = nn.Parameter(torch.randn(2, 3))

    def forward(self, y):
        return y[..., None] * self.rows[0] + self.rows[1]


def process():
    return GaussianDiffusion((0.1, 0.25, 0.5, 0.4))


def latent_diffusion(drop=0.1):
    return LatentDiffusion(autoencoder(), denoiser(), process(), Tokens(), torch.zeros(2), drop)


class Trained(nn.Module):
    """Latent diffusion as a function of latents, for conditions, times and noise that are given."""

    def __init__(self):
        super().__init__()
        self.model = latent_diffusion(drop=0.0)

    def forward(self, latents, conditions, noise):
        return self.model.loss(latents, conditions, t=times(0, 3)[: len(latents)], noise=noise)


_ZERO = {
    "every_parameter_receives_gradient": "the last maps are 0 at first, so that what is before them waits one step; a "
    "spec asks with random weights"
}

CASES = [
    Case(
        item="latent-diffusion",
        name="AutoencoderKL",
        build=autoencoder,
        inputs=lambda: (random(2, 3, 4, 6), None),
        bad={
            "an image of other channels": Bad(
                call=lambda: autoencoder()(random(2, 1, 4, 6)), mentions=("(2, 1, 4, 6)",)
            ),
            "a side that does not halve": Bad(
                call=lambda: autoencoder()(random(2, 3, 4, 5)), mentions=("2", "(2, 3, 4, 5)")
            ),
            "latents of other channels": Bad(
                call=lambda: autoencoder().decode(random(2, 3, 2, 3)), mentions=("(2, 3, 2, 3)",)
            ),
            "no size": Bad(call=lambda: autoencoder(channel_mults=()), mentions=("0",)),
            "groups that do not divide": Bad(call=lambda: autoencoder(groups=3), mentions=("3",)),
            "a negative weight": Bad(call=lambda: autoencoder().loss(random(2, 3, 4, 6), -1.0), mentions=("-1.0",)),
        },
        exempt=_ZERO
        | dict.fromkeys(
            ("deterministic", "draws_nothing", "batch_independent"), "latents are drawn in training, from one generator"
        )
        | {"gradient_correct": "its blocks have records of their own"},
    ),
    Case(
        item="latent-diffusion",
        name="SpatialTransformer",
        build=spatial_transformer,
        inputs=lambda: (random(2, 4, 1, 2), random(2, 3, 3, seed=1)),
        bad={
            "an image of other channels": Bad(
                call=lambda: spatial_transformer()(random(2, 6, 2, 3), random(2, 5, 3)), mentions=("(2, 6, 2, 3)",)
            ),
            "a context of another width": Bad(
                call=lambda: spatial_transformer()(random(2, 4, 2, 3), random(2, 5, 4)), mentions=("(2, 5, 4)",)
            ),
            "heads that do not divide": Bad(call=lambda: spatial_transformer(num_heads=3), mentions=("3", "4")),
        },
        exempt=_ZERO,
    ),
]


def _convolution(name: str, before: str, after: str, side: int = 3) -> dict[str, str]:
    return {f"{name}.weight": f"({after}, {before}, {side}, {side})", f"{name}.bias": f"({after},)"}


def _residual(prefix: str, before: str, after: str, shortcut: bool = True) -> dict[str, str]:
    state = residual(prefix, before, after, "0", shortcut)
    return {name: shape for name, shape in state.items() if "time" not in name}


def _middle(prefix: str, first: int, c: str) -> dict[str, str]:
    state = _residual(f"{prefix}.{first}.", c, c, shortcut=False) | attended(f"{prefix}.{first + 1}.", c)
    return state | _residual(f"{prefix}.{first + 2}.", c, c, shortcut=False)


_C, _W, _Z = "base_channels", "2 * base_channels", "latent_channels"
_AUTOENCODER = (
    _convolution("encoder.0", "in_channels", _C)
    | _residual("encoder.1.", _C, _C, shortcut=False)
    | _convolution("encoder.2", _C, _C)
    | _residual("encoder.3.", _C, _W)
    | _middle("encoder", 4, _W)
    | affine("encoder.7", _W)
    | _convolution("encoder.9", _W, f"2 * {_Z}")
    | _convolution("encoder.10", f"2 * {_Z}", f"2 * {_Z}", 1)
    | _convolution("decoder.0", _Z, _Z, 1)
    | _convolution("decoder.1", _Z, _W)
    | _middle("decoder", 2, _W)
    | _residual("decoder.5.", _W, _W, shortcut=False)
    | _residual("decoder.6.", _W, _W, shortcut=False)
    | _convolution("decoder.8", _W, _W)
    | _residual("decoder.9.", _W, _C)
    | _residual("decoder.10.", _C, _C, shortcut=False)
    | affine("decoder.11", _C)
    | _convolution("decoder.13", _C, "in_channels")
)

_BLOCK = {
    "self_attn.in_proj_weight": "(3 * channels, channels)",
    "cross_attn.q_proj_weight": "(channels, channels)",
    "cross_attn.k_proj_weight": "(channels, context_width)",
    "cross_attn.v_proj_weight": "(channels, context_width)",
}

CONTRACTS = [
    Contract(
        item="latent-diffusion",
        name="AutoencoderKL",
        of=AutoencoderKL,
        calls=(SETTINGS,),
        ranges={"in_channels": "int >= 1", "latent_channels": "int >= 1", "num_res_blocks": "int >= 1"},
        state=_AUTOENCODER,
        attributes={
            "factor": "how many times smaller than images latents are",
            "encode": "encode(images): mean and log variance of the latents",
            "decode": "decode(latents): images",
            "loss": "loss(images, kl_weight=1e-6, generator=None): of each image",
        },
    ),
    Contract(
        item="latent-diffusion",
        name="SpatialTransformer",
        of=SpatialTransformer,
        calls=({"channels": 4, "num_heads": 2, "context_width": 3, "groups": 2},),
        ranges={"context_width": "int >= 1", "depth": "int >= 1"},
        state=affine("norm", "channels")
        | linear("input", "channels", "channels")
        | linear("output", "channels", "channels")
        | {f"blocks.0.{name}": shape for name, shape in _BLOCK.items()}
        | linear("blocks.0.self_attn.out_proj", "channels", "channels")
        | linear("blocks.0.cross_attn.out_proj", "channels", "channels")
        | affine("blocks.0.norm1", "channels")
        | affine("blocks.0.norm2", "channels")
        | affine("blocks.0.norm3", "channels")
        | linear("blocks.0.feed_forward.gate_proj", "4 * channels", "channels")
        | linear("blocks.0.feed_forward.up_proj", "4 * channels", "channels")
        | linear("blocks.0.feed_forward.down_proj", "channels", "4 * channels"),
    ),
    Contract(
        item="latent-diffusion",
        name="LatentDiffusion",
        of=LatentDiffusion,
        calls=(
            {
                "autoencoder": Fresh(autoencoder),
                "denoiser": Fresh(denoiser),
                "process": Fresh(process),
                "encode_condition": Fresh(Tokens),
                "null": torch.zeros(2),
            },
        ),
        ranges={"drop": "[0, 1)"},
        attributes={
            "autoencoder": "as given, without gradients; its state has that prefix",
            "denoiser": "as given; its state has that prefix",
            "process": "as given",
            "encode_condition": "as given; its state has that prefix",
            "scale": "s, a buffer without dimensions",
            "fit_scale": "fit_scale(images): sets the scale",
            "encode": "encode(images, generator=None): scaled latents",
            "decode": "decode(latents): images of scaled latents",
            "loss": "loss(latents, conditions, t=…, noise=…): of each sample",
            "sample": "sample(start, conditions, guidance=1, steps=50, eta=0): images",
        },
        remembers="nothing but the scale of the last fit_scale",
    ),
]
