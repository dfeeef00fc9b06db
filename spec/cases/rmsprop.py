"""Cases of RMSprop."""

import torch
from torch import nn

from impl.optim.rmsprop import RMSprop
from spec.cases import Bad, OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.3}


def _parameter(dtype=torch.float32):
    return nn.Parameter(torch.ones(3, dtype=dtype))


def _with(**settings):
    return lambda: RMSprop([_parameter()], **settings)


def _sparse_step():
    parameter = _parameter()
    optimizer = RMSprop([parameter])
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.step()


BAD = {
    "negative lr": Bad(call=_with(lr=-0.5), mentions=("lr", "-0.5")),
    "negative eps": Bad(call=_with(eps=-0.25), mentions=("eps", "-0.25")),
    "negative weight_decay": Bad(call=_with(weight_decay=-0.125), mentions=("weight_decay", "-0.125")),
    "lr is not a number": Bad(call=_with(lr=float("nan")), mentions=("lr", "nan")),
    "alpha above 1": Bad(call=_with(alpha=1.25), mentions=("alpha", "1.25")),
    "negative alpha": Bad(call=_with(alpha=-0.5), mentions=("alpha", "-0.5")),
    "negative momentum": Bad(call=_with(momentum=-0.5), mentions=("momentum", "-0.5")),
    "a bad setting in a group": Bad(
        call=lambda: RMSprop([{"params": [_parameter()], "lr": -2.0}]), mentions=("lr", "-2.0")
    ),
    "a complex parameter": Bad(call=lambda: RMSprop([_parameter(torch.complex64)]), mentions=("complex64",)),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="rmsprop",
        name="RMSprop",
        build=lambda params: RMSprop(params, **SETTINGS),
        library=lambda params: torch.optim.RMSprop(params, **SETTINGS),
        bad=BAD,
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
