"""Cases of RAdam."""

import torch

from impl.optim.radam import RAdam
from spec.cases import OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="radam",
        name="RAdam",
        build=lambda params: RAdam(params, **SETTINGS),
        library=lambda params: torch.optim.RAdam(params, **SETTINGS),
    ),
    OptimizerCase(
        item="radam",
        name="RAdam, decoupled decay",
        build=lambda params: RAdam(params, **SETTINGS, decoupled_weight_decay=True),
        library=lambda params: torch.optim.RAdam(params, **SETTINGS, decoupled_weight_decay=True),
    ),
]

CONTRACTS = [
    Contract(
        item="radam",
        name="RAdam",
        of=RAdam,
        calls=({"params": [parameter()]},),
        ranges={
            "lr": "[0, inf]",
            "eps": "[0, inf]",
            "weight_decay": "[0, inf]",
            "betas": "pair of [0, 1)",
            "threshold": "[4, inf]",
        },
        remembers="exp_avg, exp_avg_sq, of each parameter's shape and dtype; its steps",
    ),
]
