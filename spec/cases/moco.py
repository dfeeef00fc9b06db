"""Cases of MoCo."""

from torch import nn

from impl.models.moco import MoCo, info_nce_loss
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def moco(**options):
    reseed(0)
    settings = {"queue_size": 7, "momentum": 0.75, "temperature": 0.4} | options
    return MoCo(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)), 4, **settings)


def _views():
    return random(2, 3, 4), random(2, 3, 4, seed=1)


_BAD = {
    "views of two shapes": Bad(call=lambda: moco()(random(2, 12), random(3, 12)), mentions=("(2, 12)", "(3, 12)")),
    "a batch larger than the queue": Bad(call=lambda: moco()(random(8, 12), random(8, 12)), mentions=("7", "(8, 12)")),
    "a batch that does not split": Bad(call=lambda: moco(splits=2)(random(3, 12), random(3, 12)), mentions=("2",)),
    "an encoder of another width": Bad(
        call=lambda: MoCo(nn.Linear(3, 5), 4, 7)(random(2, 3), random(2, 3)), mentions=("(2, 4)", "(2, 5)")
    ),
    "no logits": Bad(call=lambda: info_nce_loss(random(0, 4)), mentions=("(0, 4)",)),
    "logits of one dimension": Bad(call=lambda: info_nce_loss(random(4)), mentions=("(4,)",)),
}

CASES = [
    Case(
        item="moco",
        name="MoCo",
        build=moco,
        inputs=_views,
        bad=_BAD,
        exempt={
            "every_parameter_receives_gradient": "the encoder of the keys follows the other and is not learned",
            "gradient_correct": "keys are constants to autograd; spec/properties/test_moco.py asks it of the queries",
            "transforms": "keys are constants to autograd",
            "batch_independent": "a call in training moves the queue, and the law calls twice",
            "accepts_non_contiguous": "a call in training moves the queue, and the law calls twice",
        },
    ),
    Case(
        item="moco",
        name="info_nce_loss",
        build=lambda: info_nce_loss,
        inputs=lambda: (random(3, 5),),
        exempt={
            "batch_independent": "a mean over the batch",
            "batch_independent_in_eval": "a mean over the batch",
        },
        is_function=True,
    ),
]

CONTRACTS = [
    Contract(
        item="moco",
        name="MoCo",
        of=MoCo,
        calls=({"encoder": Fresh(lambda: nn.Linear(3, 4)), "dim": 4, "queue_size": 6},),
        ranges={
            "dim": "int >= 1",
            "queue_size": "int >= 1",
            "momentum": "[0, 1)",
            "temperature": "(0, inf]",
            "splits": "int >= 1",
        },
        attributes={
            "encoder_q": "the encoder that was given; its state has that prefix",
            "encoder_k": "its copy, whose parameters follow it; its state has that prefix",
            "queue": "the keys, (queue_size, dim), each of length 1; a buffer",
        },
        remembers="the encoder of the keys, the queue, and which of its rows is the oldest: at first row 0",
    ),
]
