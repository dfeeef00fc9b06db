"""Cases of AdamW."""

import torch
from torch import nn

from impl.optim.adamw import AdamW
from spec.cases import Bad, OptimizerCase
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}


def _parameter(dtype=torch.float32):
    return nn.Parameter(torch.ones(3, dtype=dtype))


def _with(**settings):
    return lambda: AdamW([_parameter()], **settings)


def _sparse_step():
    parameter = _parameter()
    optimizer = AdamW([parameter])
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.step()


BAD = {
    "negative lr": Bad(call=_with(lr=-0.5), mentions=("lr", "-0.5")),
    "lr is not a number": Bad(call=_with(lr=float("nan")), mentions=("lr", "nan")),
    "negative eps": Bad(call=_with(eps=-0.25), mentions=("eps", "-0.25")),
    "negative weight_decay": Bad(call=_with(weight_decay=-0.125), mentions=("weight_decay", "-0.125")),
    "beta1 of 1": Bad(call=_with(betas=(1.0, 0.9)), mentions=("beta1", "1.0")),
    "beta2 of 1": Bad(call=_with(betas=(0.9, 1.0)), mentions=("beta2", "1.0")),
    "beta1 above 1": Bad(call=_with(betas=(1.5, 0.9)), mentions=("beta1", "1.5")),
    "negative beta2": Bad(call=_with(betas=(0.9, -0.5)), mentions=("beta2", "-0.5")),
    "a bad setting in a group": Bad(
        call=lambda: AdamW([{"params": [_parameter()], "lr": -2.0}]), mentions=("lr", "-2.0")
    ),
    "a complex parameter": Bad(call=lambda: AdamW([_parameter(torch.complex64)]), mentions=("complex64",)),
    "a complex parameter in the last group": Bad(
        call=lambda: AdamW([{"params": [_parameter()]}, {"params": [_parameter(torch.complex64)]}]),
        mentions=("complex64",),
    ),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="adamw",
        name="AdamW",
        build=lambda params: AdamW(params, **SETTINGS),
        library=lambda params: torch.optim.AdamW(params, **SETTINGS),
        bad=BAD,
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
        },
        remembers="exp_avg, exp_avg_sq, with amsgrad max_exp_avg_sq, of each parameter's shape and dtype; its steps",
    ),
]
