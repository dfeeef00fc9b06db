"""Cases of Lion."""

from impl.optim.lion import Lion
from spec.cases import OptimizerCase, without_counterpart
from spec.contract import Contract, parameter

CASES = []

SETTINGS = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="lion",
        name="Lion",
        build=lambda params: Lion(params, **SETTINGS),
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
            "betas": "pair of [0, 1)",
        },
        remembers="exp_avg, of each parameter's shape and dtype",
    ),
]
