"""The distillation loss next to torch.nn.functional's kl_div and cross_entropy."""

import torch
import torch.nn.functional as F

from impl.compression.distillation import distillation_loss
from tools.bench import Pair


def _library(student, teacher, target=None):
    soft = F.kl_div(F.log_softmax(student / 4, -1), F.softmax(teacher.detach() / 4, -1), reduction="batchmean") * 16
    return soft if target is None else 0.5 * soft + 0.5 * F.cross_entropy(student, target)


def _pair(name: str, batch: int, classes: int, labelled: bool):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(batch, classes, generator=generator)
    target = torch.randint(classes, (batch,), generator=generator) if labelled else None
    return Pair(
        item="distillation",
        name=name,
        ours=lambda: lambda student: distillation_loss(student, teacher, target),
        theirs=lambda: lambda student: _library(student, teacher, target),
        inputs=lambda: (torch.randn(batch, classes),),
    )


PAIRS = [
    _pair("soft targets, 2048 x 256", 2048, 256, labelled=False),
    _pair("and true classes", 2048, 256, labelled=True),
    _pair("a vocabulary, 32 x 32000", 32, 32_000, labelled=True),
]
