"""Cases of AdaGrad."""

import torch
from torch import nn

from impl.optim.adagrad import Adagrad
from spec.cases import Bad, OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "lr_decay": 0.2, "eps": 1e-2, "weight_decay": 0.3}


def _parameter(dtype=torch.float32):
    return nn.Parameter(torch.ones(3, dtype=dtype))


def _with(**settings):
    return lambda: Adagrad([_parameter()], **settings)


def _sparse_step():
    parameter = _parameter()
    optimizer = Adagrad([parameter])
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.step()


BAD = {
    "negative lr": Bad(call=_with(lr=-0.5), mentions=("lr", "-0.5")),
    "negative eps": Bad(call=_with(eps=-0.25), mentions=("eps", "-0.25")),
    "negative weight_decay": Bad(call=_with(weight_decay=-0.125), mentions=("weight_decay", "-0.125")),
    "negative lr_decay": Bad(call=_with(lr_decay=-0.75), mentions=("lr_decay", "-0.75")),
    "negative initial_accumulator_value": Bad(
        call=_with(initial_accumulator_value=-1.5), mentions=("initial_accumulator_value", "-1.5")
    ),
    "lr is not a number": Bad(call=_with(lr=float("nan")), mentions=("lr", "nan")),
    "a bad setting in a group": Bad(
        call=lambda: Adagrad([{"params": [_parameter()], "lr": -2.0}]), mentions=("lr", "-2.0")
    ),
    "a complex parameter": Bad(call=lambda: Adagrad([_parameter(torch.complex64)]), mentions=("complex64",)),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="adagrad",
        name="Adagrad",
        build=lambda params: Adagrad(params, **SETTINGS),
        library=lambda params: torch.optim.Adagrad(params, **SETTINGS),
        bad=BAD,
    ),
    OptimizerCase(
        item="adagrad",
        name="Adagrad, sum begins above zero",
        build=lambda params: Adagrad(params, **SETTINGS, initial_accumulator_value=0.5),
        library=lambda params: torch.optim.Adagrad(params, **SETTINGS, initial_accumulator_value=0.5),
        exempt={"settings_belong_to_groups": "torch.optim.Adagrad has one initial sum for all groups"},
    ),
]

CONTRACTS = [
    Contract(
        item="adagrad",
        name="Adagrad",
        of=Adagrad,
        calls=({"params": [parameter()]},),
        ranges={
            "lr": "[0, inf]",
            "lr_decay": "[0, inf]",
            "weight_decay": "[0, inf]",
            "initial_accumulator_value": "[0, inf]",
            "eps": "[0, inf]",
        },
        remembers="sum, of each parameter's shape and dtype; its steps",
    ),
]
