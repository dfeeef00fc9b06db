"""Cases of DDPM."""

import torch

from impl.models.ddpm import (
    AttentionBlock,
    DDPMUNet,
    GaussianDiffusion,
    ResidualBlock,
    beta_schedule,
    guide,
    timestep_embedding,
)
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear
from spec.laws import random, reseed

SETTINGS = {
    "in_channels": 3,
    "base_channels": 4,
    "channel_mults": (1, 2),
    "num_res_blocks": 1,
    "attention_levels": (1,),
    "groups": 2,
}
BETAS = (0.1, 0.25, 0.5, 0.4)
PREDICTS = ("noise", "x0", "v")


def unet(**options):
    reseed(0)
    return DDPMUNet(**SETTINGS | options)


def diffusion(predicts="noise", variance="large"):
    return GaussianDiffusion(BETAS, predicts, variance)


def times(*values):
    return torch.tensor(values)


def residual_block(out_channels=6):
    reseed(1)
    return ResidualBlock(4, out_channels, 5, groups=2)


def attention_block():
    reseed(2)
    return AttentionBlock(4, groups=2)


def _classes():
    return unet(num_classes=3, in_channels=1, out_channels=2)


_BAD = {
    "an image of other channels": Bad(call=lambda: unet()(random(2, 1, 4, 6), times(0, 3)), mentions=("(2, 1, 4, 6)",)),
    "a side that does not halve": Bad(call=lambda: unet()(random(2, 3, 4, 5), times(0, 3)), mentions=("(2, 3, 4, 5)",)),
    "labels that nothing learns": Bad(
        call=lambda: unet()(random(2, 3, 4, 6), times(0, 3), times(0, 1)), mentions=("(2,)",)
    ),
    "no label": Bad(call=lambda: _classes()(random(2, 1, 4, 6), times(0, 3)), mentions=("None",)),
    "attention at a third size": Bad(call=lambda: unet(attention_levels=(2,)), mentions=("(2,)",)),
    "no size": Bad(call=lambda: unet(channel_mults=(), attention_levels=()), mentions=("0",)),
    "groups that do not divide": Bad(call=lambda: unet(groups=3), mentions=("3",)),
    "a beta of 0": Bad(call=lambda: GaussianDiffusion((0.1, 0.0)), mentions=("0.0",)),
    "a beta above 1": Bad(call=lambda: GaussianDiffusion((0.1, 1.5)), mentions=("1.5",)),
    "no beta": Bad(call=lambda: GaussianDiffusion(()), mentions=("()",)),
    "another prediction": Bad(call=lambda: GaussianDiffusion(BETAS, "score"), mentions=("score",)),
    "another variance": Bad(call=lambda: GaussianDiffusion(BETAS, variance="learned"), mentions=("learned",)),
    "another schedule": Bad(call=lambda: beta_schedule("sigmoid"), mentions=("sigmoid",)),
    "too few steps of a line": Bad(call=lambda: beta_schedule("linear", 19), mentions=("19",)),
    "more steps than times": Bad(
        call=lambda: diffusion().ddim_sample(lambda x, t: x, random(2, 3), 5), mentions=("4", "5")
    ),
    "times that fall": Bad(
        call=lambda: diffusion().ddim_sample(lambda x, t: x, random(2, 3), (2, 0)), mentions=("[2, 0]",)
    ),
    "a time beyond the last": Bad(
        call=lambda: diffusion().ddim_sample(lambda x, t: x, random(2, 3), (0, 4)), mentions=("[0, 4]",)
    ),
    "no time": Bad(call=lambda: diffusion().ddim_sample(lambda x, t: x, random(2, 3), ()), mentions=("[]",)),
    "an odd width of the embedding": Bad(call=lambda: timestep_embedding(times(0), 5), mentions=("5",)),
    "an embedding of one frequency": Bad(call=lambda: timestep_embedding(times(0), 2), mentions=("2",)),
}

_ZERO = {
    "every_parameter_receives_gradient": "the last maps are 0 at first, so that what is before them waits one step; a "
    "spec asks with random weights"
}
_PARTS = {"gradient_correct": "its blocks have records of their own"}

CASES = [
    Case(
        item="ddpm",
        name="DDPMUNet",
        build=unet,
        inputs=lambda: (random(2, 3, 4, 6), times(0, 3)),
        bad=_BAD,
        exempt=_ZERO | _PARTS,
    ),
    Case(
        item="ddpm",
        name="DDPMUNet, classes",
        build=_classes,
        inputs=lambda: (random(2, 1, 4, 6), times(2, 1), times(3, 0)),
        exempt=_ZERO | _PARTS | {"compiles": "the network without classes is compiled, in 10 seconds"},
    ),
    Case(
        item="ddpm",
        name="ResidualBlock",
        build=residual_block,
        inputs=lambda: (random(2, 4, 1, 2), random(2, 5, seed=1)),
        bad={
            "an image of other channels": Bad(
                call=lambda: residual_block()(random(2, 6, 2, 3), random(2, 5)), mentions=("(2, 6, 2, 3)",)
            ),
            "a time of another width": Bad(
                call=lambda: residual_block()(random(2, 4, 2, 3), random(2, 4)), mentions=("5", "4")
            ),
        },
        exempt=_ZERO,
    ),
    Case(
        item="ddpm",
        name="AttentionBlock",
        build=attention_block,
        inputs=lambda: (random(2, 4, 2, 3),),
        bad={
            "an image of other channels": Bad(
                call=lambda: attention_block()(random(2, 6, 2, 3)), mentions=("(2, 6, 2, 3)",)
            )
        },
        exempt=_ZERO,
    ),
    Case(
        item="ddpm",
        name="guide",
        build=lambda: guide,
        inputs=lambda: (random(2, 3, 4), random(2, 3, 4, seed=1), 2.5),
        is_function=True,
    ),
]


def norm_and_convolution(prefix: str, number: int, before: str, after: str) -> dict[str, str]:
    return affine(f"{prefix}norm{number}", before) | {
        f"{prefix}conv{number}.weight": f"({after}, {before}, 3, 3)",
        f"{prefix}conv{number}.bias": f"({after},)",
    }


def residual(prefix: str, before: str, after: str, width: str, shortcut: bool = True) -> dict[str, str]:
    """State of a ResidualBlock."""
    state = norm_and_convolution(prefix, 1, before, after) | norm_and_convolution(prefix, 2, after, after)
    state |= linear(f"{prefix}time", after, width)
    if shortcut:
        state |= {f"{prefix}shortcut.weight": f"({after}, {before}, 1, 1)", f"{prefix}shortcut.bias": f"({after},)"}
    return state


def attended(prefix: str, channels: str) -> dict[str, str]:
    """State of an AttentionBlock."""
    state = affine(f"{prefix}norm", channels) | linear(f"{prefix}attention.out_proj", channels, channels)
    state[f"{prefix}attention.in_proj_weight"] = f"(3 * ({channels}), {channels})"
    return state | {f"{prefix}attention.in_proj_bias": f"(3 * ({channels}),)"}


def _convolution(name: str, before: str, after: str) -> dict[str, str]:
    return {f"{name}.weight": f"({after}, {before}, 3, 3)", f"{name}.bias": f"({after},)"}


_C, _E = "base_channels", "4 * base_channels"
_UNET = (
    linear("time1", _E, _C)
    | linear("time2", _E, _E)
    | _convolution("first", "in_channels", _C)
    | residual("down.0.blocks.0.", _C, _C, _E, shortcut=False)
    | _convolution("down.0.resize", _C, _C)
    | residual("down.1.blocks.0.", _C, f"2 * {_C}", _E)
    | attended("down.1.attentions.0.", f"2 * {_C}")
    | residual("middle1.", f"2 * {_C}", f"2 * {_C}", _E, shortcut=False)
    | attended("middle_attention.", f"2 * {_C}")
    | residual("middle2.", f"2 * {_C}", f"2 * {_C}", _E, shortcut=False)
    | residual("up.0.blocks.0.", f"4 * {_C}", f"2 * {_C}", _E)
    | residual("up.0.blocks.1.", f"3 * {_C}", f"2 * {_C}", _E)
    | attended("up.0.attentions.0.", f"2 * {_C}")
    | attended("up.0.attentions.1.", f"2 * {_C}")
    | _convolution("up.0.resize", f"2 * {_C}", f"2 * {_C}")
    | residual("up.1.blocks.0.", f"3 * {_C}", _C, _E)
    | residual("up.1.blocks.1.", f"2 * {_C}", _C, _E)
    | affine("norm", _C)
    | _convolution("last", _C, "out_channels")
)

CONTRACTS = [
    Contract(
        item="ddpm",
        name="DDPMUNet",
        of=DDPMUNet,
        calls=(SETTINGS | {"out_channels": 2, "num_classes": 5},),
        ranges={
            "in_channels": "int >= 1",
            "num_res_blocks": "int >= 1",
            "num_classes": "int >= 1 or None",
            "dropout": "[0, 1]",
        },
        state=_UNET | {"classes.weight": "(num_classes + 1, 4 * base_channels)"},
    ),
    Contract(
        item="ddpm",
        name="ResidualBlock",
        of=ResidualBlock,
        calls=({"in_channels": 4, "out_channels": 6, "time_width": 5, "groups": 2},),
        ranges={"time_width": "int >= 1 or None", "dropout": "[0, 1]"},
        state=residual("", "in_channels", "out_channels", "time_width"),
    ),
    Contract(
        item="ddpm",
        name="AttentionBlock",
        of=AttentionBlock,
        calls=({"channels": 4, "groups": 2},),
        state=attended("", "channels"),
    ),
    Contract(
        item="ddpm",
        name="GaussianDiffusion",
        of=GaussianDiffusion,
        calls=({"betas": BETAS},),
        ranges={"predicts": "'noise', 'x0', 'v'", "variance": "'large', 'small'"},
        attributes={
            "betas": "β, float64",
            "alpha_bars": "ᾱ, float64",
            "predicts": "as given",
            "variance": "as given",
            "add_noise": "add_noise(x0, t, noise): x_t",
            "posterior": "posterior(x0, xt, t): mean, and variance (n,) in float64",
            "target": "target(x0, noise, t): what the network ought to predict",
            "x0_and_noise": "x0_and_noise(xt, t, prediction): both as the prediction has them",
            "loss": "loss(model, x0, t=None, noise=None, **conditions): of each sample",
            "prior_kl": "prior_kl(x0): of each sample, in nats",
            "step": "step(xt, t, prediction, noise, clip=None): an ancestral step",
            "ddim_step": "ddim_step(xt, t, before, prediction, eta=0, noise=None, clip=None)",
            "sample": "sample(model, x, clip=None, **conditions): all ancestral steps",
            "ddim_sample": "ddim_sample(model, x, steps=50, eta=0, clip=None, **conditions)",
        },
    ),
    Contract(
        item="ddpm",
        name="beta_schedule",
        of=beta_schedule,
        calls=({"name": "cosine", "steps": 30},),
        ranges={"name": "'linear', 'cosine'", "steps": "int >= 1"},
    ),
    Contract(
        item="ddpm",
        name="timestep_embedding",
        of=timestep_embedding,
        calls=({"t": times(0, 7), "width": 6},),
    ),
    Contract(
        item="ddpm",
        name="guide",
        of=guide,
        calls=({"conditional": random(2, 3), "unconditional": random(2, 3, seed=1), "scale": 2.0},),
    ),
]
