"""Cases of AdamW."""

import torch

from impl.optim.adamw import AdamW
from spec.cases import OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="adamw",
        name="AdamW",
        build=lambda params: AdamW(params, **SETTINGS),
        library=lambda params: torch.optim.AdamW(params, **SETTINGS),
    ),
    OptimizerCase(
        item="adamw",
        name="AdamW, amsgrad",
        build=lambda params: AdamW(params, **SETTINGS, amsgrad=True),
        library=lambda params: torch.optim.AdamW(params, **SETTINGS, amsgrad=True),
    ),
]

CONTRACTS = [
    Contract(
        item="adamw",
        name="AdamW",
        of=AdamW,
        calls=({"params": [parameter()]},),
        ranges={
            "lr": "[0, inf]",
            "eps": "[0, inf]",
            "weight_decay": "[0, inf]",
            "betas": "pair of [0, 1)",
        },
        remembers="exp_avg, exp_avg_sq, with amsgrad max_exp_avg_sq, of each parameter's shape and dtype; its steps",
    ),
]
