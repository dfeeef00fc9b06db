"""Cases of SimCLR."""

import torch
from torch import nn

from impl.models.simclr import SimCLR, gather_embeddings, nt_xent_loss, random_crop, random_shades
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def simclr():
    reseed(0)
    return SimCLR(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh()), 5, 4)


class Loss(nn.Module):
    """The loss of a model as a function of two views, so that the laws of modules can be asked of it."""

    def __init__(self):
        super().__init__()
        self.model = simclr()

    def forward(self, first, second):
        return self.model.loss(first, second, temperature=0.7)


_BAD_LOSS = {
    "pairs of two shapes": Bad(call=lambda: nt_xent_loss(random(3, 4), random(2, 4)), mentions=("(3, 4)", "(2, 4)")),
    "no pair": Bad(call=lambda: nt_xent_loss(random(0, 4), random(0, 4)), mentions=("(0, 4)",)),
}
_BAD = {
    "an encoder of another width": Bad(
        call=lambda: SimCLR(nn.Linear(4, 6), 5)(random(3, 4)), mentions=("(3, 5)", "(3, 6)")
    )
}
_BATCH = {
    "batch_independent": "every other image of the batch is a negative: that is the loss",
    "batch_independent_in_eval": "every other image of the batch is a negative: that is the loss",
    "keeps_dtype": "the loss is in float32 or wider; a spec of its own asks for it",
}

CASES = [
    Case(item="simclr", name="SimCLR", build=simclr, inputs=lambda: (random(2, 3, 4),), bad=_BAD),
    Case(
        item="simclr",
        name="SimCLR.loss",
        build=Loss,
        inputs=lambda: (random(3, 3, 4), random(3, 3, 4, seed=1)),
        exempt=_BATCH
        | {"from_scratch": "the class that is called is defined here; the record of the class itself is checked"},
    ),
    Case(
        item="simclr",
        name="nt_xent_loss",
        build=lambda: nt_xent_loss,
        inputs=lambda: (random(3, 4), random(3, 4, seed=1)),
        bad=_BAD_LOSS,
        exempt=_BATCH,
        is_function=True,
    ),
    Case(
        item="simclr",
        name="gather_embeddings, one process",
        build=lambda: gather_embeddings,
        inputs=lambda: (random(3, 4),),
        exempt={"may_be_changed_in_place": "of one process it is the input itself"},
        is_function=True,
    ),
]


def _crop(**arguments):
    return random_crop(random(2, 1, 4, 6), generator=torch.Generator().manual_seed(0), **arguments)


def _shades(**arguments):
    return random_shades(random(2, 1, 4, 6), generator=torch.Generator().manual_seed(0), **arguments)


CONTRACTS = [
    Contract(
        item="simclr",
        name="nt_xent_loss",
        of=nt_xent_loss,
        calls=({"first": random(3, 4), "second": random(3, 4, seed=1)},),
        ranges={"temperature": "(0, inf]"},
    ),
    Contract(
        item="simclr",
        name="SimCLR",
        of=SimCLR,
        calls=({"encoder": Fresh(lambda: nn.Linear(7, 5)), "features": 5, "projection_dim": 4},),
        ranges={"features": "int >= 1", "projection_dim": "int >= 1"},
        attributes={"encoder": "the network f, as it was given; its state has that prefix"},
    ),
    Contract(item="simclr", name="random_crop", of=_crop, ranges={"smallest": "(0, 1]"}),
    Contract(item="simclr", name="random_shades", of=_shades, ranges={"strength": "[0, inf]"}),
]
