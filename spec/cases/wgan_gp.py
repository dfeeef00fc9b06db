"""Cases of WGAN-GP."""

import torch
from torch import nn

from impl.models.wgan_gp import WGANGP, gradient_penalty
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def critic():
    reseed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 1))


def model(**options):
    """z of 2 numbers, data (3, 4)."""
    reseed(0)
    return WGANGP(nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 4))), critic(), 2, **options)


class Penalty(nn.Module):
    """The penalty of a critic as a function of real and fake, so that the laws of modules can be asked of it."""

    def __init__(self):
        super().__init__()
        self.critic = critic()

    def forward(self, real, fake):
        return gradient_penalty(self.critic, real, fake, torch.Generator().manual_seed(0))


def _sides():
    return random(2, 3, 4), random(2, 3, 4, seed=1)


_BAD = {
    "sides of two shapes": Bad(
        call=lambda: gradient_penalty(critic(), random(2, 3, 4), random(3, 3, 4)), mentions=("(2, 3, 4)", "(3, 3, 4)")
    ),
    "no samples": Bad(call=lambda: gradient_penalty(critic(), random(0, 12), random(0, 12)), mentions=("(0, 12)",)),
    "a critic of two numbers": Bad(
        call=lambda: gradient_penalty(nn.Linear(12, 2), random(3, 12), random(3, 12)), mentions=("3", "(3, 2)")
    ),
    "a critic of one number for all": Bad(call=lambda: gradient_penalty(torch.sum, random(3, 12), random(3, 12))),
    "a step without data": Bad(call=lambda: model().train_step([], None, None)),
}
_INSIDE = "the penalty differentiates inside, by torch.autograd.grad"

CASES = [
    Case(
        item="wgan-gp",
        name="gradient_penalty",
        build=Penalty,
        inputs=_sides,
        bad=_BAD,
        exempt={
            "batch_independent": "a mean over the batch",
            "batch_independent_in_eval": "a mean over the batch",
            "empty_batch_is_defined": "the mean over no samples is refused; the critic may need a sample to be called",
            "gradient_correct": "samples are constants to it; spec/properties/test_wgan_gp.py asks it of the critic",
            "every_parameter_receives_gradient": "a bias at the end of the critic moves no slope",
            "keeps_dtype": "the slope is in float32 or wider; a spec of its own asks for it",
            "from_scratch": "the class that is called is defined here; the record of the model is checked",
            "compiles": _INSIDE,
            "transforms": _INSIDE,
        },
    ),
    Case(
        item="wgan-gp",
        name="WGANGP, the critic",
        build=model,
        inputs=lambda: (random(2, 3, 4),),
        exempt={"every_parameter_receives_gradient": "D(x) does not depend on G"},
    ),
]

CONTRACTS = [
    Contract(
        item="wgan-gp",
        name="WGANGP",
        of=WGANGP,
        calls=(
            {
                "generator": Fresh(lambda: nn.Linear(2, 4)),
                "critic": Fresh(lambda: nn.Linear(4, 1)),
                "latent_dim": 2,
            },
        ),
        ranges={"latent_dim": "int >= 1", "penalty_weight": "[0, inf)"},
        attributes={
            "generator": "the network G, as it was given; its state has that prefix",
            "critic": "the network D, likewise",
        },
    ),
    Contract(
        item="wgan-gp",
        name="WGANGP.sample",
        of=lambda **arguments: model().sample(**arguments),
        calls=({"n": 2},),
        ranges={"n": "int >= 1"},
    ),
]
