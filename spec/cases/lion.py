"""Cases of Lion."""

import torch
from torch import nn

from impl.optim.lion import Lion
from spec.cases import Bad, OptimizerCase, without_counterpart
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3}


def _parameter(dtype=torch.float32):
    return nn.Parameter(torch.ones(3, dtype=dtype))


def _with(**settings):
    return lambda: Lion([_parameter()], **settings)


def _sparse_step():
    parameter = _parameter()
    optimizer = Lion([parameter])
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.step()


BAD = {
    "negative lr": Bad(call=_with(lr=-0.5), mentions=("lr", "-0.5")),
    "negative weight_decay": Bad(call=_with(weight_decay=-0.25), mentions=("weight_decay", "-0.25")),
    "lr is not a number": Bad(call=_with(lr=float("nan")), mentions=("lr", "nan")),
    "beta1 of 1": Bad(call=_with(betas=(1.0, 0.9)), mentions=("beta1", "1.0")),
    "beta1 above 1": Bad(call=_with(betas=(1.5, 0.9)), mentions=("beta1", "1.5")),
    "beta2 of 1": Bad(call=_with(betas=(0.9, 1.0)), mentions=("beta2", "1.0")),
    "negative beta2": Bad(call=_with(betas=(0.9, -0.5)), mentions=("beta2", "-0.5")),
    "a bad setting in a group": Bad(
        call=lambda: Lion([{"params": [_parameter()], "lr": -2.0}]), mentions=("lr", "-2.0")
    ),
    "a complex parameter": Bad(call=lambda: Lion([_parameter(torch.complex64)]), mentions=("complex64",)),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="lion",
        name="Lion",
        build=lambda params: Lion(params, **SETTINGS),
        bad=BAD,
        exempt=without_counterpart("torch.optim has no Lion"),
    ),
]

CONTRACTS = [
    Contract(
        item="lion",
        name="Lion",
        of=Lion,
        calls=({"params": [parameter()]},),
        ranges={
            "lr": "[0, inf]",
            "weight_decay": "[0, inf]",
        },
        remembers="exp_avg, of each parameter's shape and dtype",
    ),
]
