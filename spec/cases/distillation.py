"""Cases of knowledge distillation."""

import torch
from torch import nn

from impl.compression.distillation import Teacher, distillation_loss
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import reseed


def _logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _pair():
    return _logits(3, 5), _logits(3, 5, seed=1)


def _soft(student, teacher):
    return distillation_loss(student, teacher, temperature=2.5)


def _mixed(student, teacher, target):
    return distillation_loss(student, teacher, target, temperature=2.5, alpha=0.3)


def _each(student, teacher, target):
    return distillation_loss(student, teacher, target, temperature=2.5, alpha=0.3, reduction="none")


def _network():
    reseed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 5))


def _loss(*inputs, **settings):
    return lambda: distillation_loss(*inputs, **settings)


_BAD = {
    "another number of classes": Bad(call=_loss(_logits(3, 5), _logits(3, 4)), mentions=("(3, 5)", "(3, 4)")),
    "a teacher that would be broadcast": Bad(call=_loss(_logits(3, 5), _logits(1, 5)), mentions=("(1, 5)",)),
    "a target that would be broadcast": Bad(
        call=_loss(*_pair(), torch.tensor([[0], [1], [2]])), mentions=("(3,)", "(3, 1)")
    ),
    "too few targets": Bad(call=_loss(*_pair(), torch.tensor([0, 1])), mentions=("(3,)", "(2,)")),
    "temperature not a number": Bad(call=_loss(*_pair(), temperature=float("nan")), mentions=("temperature", "nan")),
    "no sample to average": Bad(call=_loss(_logits(0, 5), _logits(0, 5)), mentions=("(0, 5)",)),
}

_WRAPPED = {
    "gradient_correct": "the teacher's logits are a constant; the properties check the student's alone",
    "from_scratch": "the function that is called is here; the record without settings is checked",
}
_AVERAGED = {
    "batch_independent": "one value for the batch",
    "batch_independent_in_eval": "one value for the batch",
}
_TEACHER = {
    "gradient_correct": "a teacher gives no gradient",
    "every_parameter_receives_gradient": "a teacher gives no gradient",
    "inputs_not_mutated": "without gradient there is no backward pass to ask; the properties look at the input",
    "accepts_non_contiguous": "without gradient there is no backward pass to ask",
    "compiles": "without gradient there is no backward pass to ask",
    "from_scratch": "the network is the caller's; the loss of the same file is checked",
}

CASES = [
    Case(
        item="distillation",
        name="distillation_loss",
        build=lambda: distillation_loss,
        inputs=_pair,
        bad=_BAD,
        exempt=_AVERAGED | {"gradient_correct": _WRAPPED["gradient_correct"]},
        is_function=True,
    ),
    Case(
        item="distillation",
        name="distillation_loss, without true classes",
        build=lambda: _soft,
        inputs=_pair,
        exempt=_AVERAGED | _WRAPPED,
        is_function=True,
    ),
    Case(
        item="distillation",
        name="distillation_loss, with true classes",
        build=lambda: _mixed,
        inputs=lambda: (*_pair(), torch.tensor([4, 0, 2])),
        exempt=_AVERAGED | _WRAPPED,
        is_function=True,
    ),
    Case(
        item="distillation",
        name="distillation_loss, a value a token",
        build=lambda: _each,
        inputs=lambda: (_logits(2, 3, 5), _logits(2, 3, 5, seed=1), torch.tensor([[4, 0, 2], [1, 1, 3]])),
        exempt=_WRAPPED,
        is_function=True,
    ),
    Case(
        item="distillation",
        name="Teacher",
        build=lambda: Teacher(_network()),
        inputs=lambda: (_logits(3, 4),),
        exempt=_TEACHER,
    ),
]

CONTRACTS = [
    Contract(
        item="distillation",
        name="distillation_loss",
        of=distillation_loss,
        calls=({"student_logits": _logits(3, 5), "teacher_logits": _logits(3, 5, seed=1)},),
        ranges={"temperature": "(0, inf)", "alpha": "[0, 1]", "reduction": "'mean', 'none'"},
    ),
    Contract(item="distillation", name="Teacher", of=Teacher, calls=({"model": Fresh(_network)},)),
]
