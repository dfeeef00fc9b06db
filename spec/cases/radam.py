"""Cases of RAdam."""

import torch
from torch import nn

from impl.optim.radam import RAdam
from spec.cases import Bad, OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}


def _parameter(dtype=torch.float32):
    return nn.Parameter(torch.ones(3, dtype=dtype))


def _with(**settings):
    return lambda: RAdam([_parameter()], **settings)


def _sparse_step():
    parameter = _parameter()
    optimizer = RAdam([parameter])
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.step()


BAD = {
    "negative lr": Bad(call=_with(lr=-0.5), mentions=("lr", "-0.5")),
    "negative eps": Bad(call=_with(eps=-0.25), mentions=("eps", "-0.25")),
    "negative weight_decay": Bad(call=_with(weight_decay=-0.125), mentions=("weight_decay", "-0.125")),
    "lr is not a number": Bad(call=_with(lr=float("nan")), mentions=("lr", "nan")),
    "beta1 of 1": Bad(call=_with(betas=(1.0, 0.9)), mentions=("beta1", "1.0")),
    "beta1 above 1": Bad(call=_with(betas=(1.5, 0.9)), mentions=("beta1", "1.5")),
    "beta2 of 1": Bad(call=_with(betas=(0.9, 1.0)), mentions=("beta2", "1.0")),
    "negative beta2": Bad(call=_with(betas=(0.9, -0.5)), mentions=("beta2", "-0.5")),
    "threshold below 4": Bad(call=_with(threshold=3.5), mentions=("threshold", "3.5")),
    "threshold is not a number": Bad(call=_with(threshold=float("nan")), mentions=("threshold", "nan")),
    "a bad setting in a group": Bad(
        call=lambda: RAdam([{"params": [_parameter()], "lr": -2.0}]), mentions=("lr", "-2.0")
    ),
    "a complex parameter": Bad(call=lambda: RAdam([_parameter(torch.complex64)]), mentions=("complex64",)),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="radam",
        name="RAdam",
        build=lambda params: RAdam(params, **SETTINGS),
        library=lambda params: torch.optim.RAdam(params, **SETTINGS),
        bad=BAD,
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
        },
        remembers="exp_avg, exp_avg_sq, of each parameter's shape and dtype; its steps",
    ),
]
