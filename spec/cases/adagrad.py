"""Cases of AdaGrad."""

import torch

from impl.optim.adagrad import Adagrad
from spec.cases import OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "lr_decay": 0.2, "eps": 1e-2, "weight_decay": 0.3}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="adagrad",
        name="Adagrad",
        build=lambda params: Adagrad(params, **SETTINGS),
        library=lambda params: torch.optim.Adagrad(params, **SETTINGS),
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
