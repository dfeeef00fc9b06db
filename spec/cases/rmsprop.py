"""Cases of RMSprop."""

import torch

from impl.optim.rmsprop import RMSprop
from spec.cases import OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.3}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="rmsprop",
        name="RMSprop",
        build=lambda params: RMSprop(params, **SETTINGS),
        library=lambda params: torch.optim.RMSprop(params, **SETTINGS),
    ),
    OptimizerCase(
        item="rmsprop",
        name="RMSprop, centered, momentum",
        build=lambda params: RMSprop(params, **SETTINGS, momentum=0.7, centered=True),
        library=lambda params: torch.optim.RMSprop(params, **SETTINGS, momentum=0.7, centered=True),
        exempt={"zero_is_a_setting": "at α = 0 the spread is zero but for rounding, which makes torch.optim's NaN"},
    ),
]

CONTRACTS = [
    Contract(
        item="rmsprop",
        name="RMSprop",
        of=RMSprop,
        calls=({"params": [parameter()]},),
        ranges={
            "lr": "[0, inf]",
            "alpha": "[0, 1]",
            "eps": "[0, inf]",
            "weight_decay": "[0, inf]",
            "momentum": "[0, inf]",
        },
        remembers="square_avg, with momentum momentum_buffer, centered grad_avg, of each parameter's shape",
    ),
]
