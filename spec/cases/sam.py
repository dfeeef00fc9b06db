"""Cases of SAM, and a SAM that can be driven by prescribed gradients."""

from functools import cache

import torch
from torch import nn

from impl.optim.sam import SAM
from spec.cases import Bad, OptimizerCase, without_counterpart
from spec.contract import Contract, parameter

CASES = []

LINEAR = "prescribed gradients are those of a linear loss, where rho changes nothing; spec/properties/test_sam.py asks"
EXEMPT = {
    "settings_belong_to_groups": LINEAR + " it with a curved one",
    "runs_the_closure": "it runs twice; spec/properties/test_sam.py asks",
    "loads_an_older_state": "its state dict holds that of the base optimizer, and how is its own affair",
    "complex_parameters_are_refused": "the norm of a complex gradient is real, and the base optimizer decides",
} | without_counterpart("torch.optim has no SAM")


@cache
def _scripted(base):
    def step(self, closure=None):
        return base.step(self, closure or (lambda: None))

    return type("Scripted", (base,), {"step": step, "__module__": base.__module__})


def scripted(params, **settings):
    """A SAM whose `step` takes the gradients as they are in both passes, as a linear loss would give them."""
    return _scripted(SAM)(params, **settings)


def over_momentum(params):
    return scripted(params, base_optimizer=torch.optim.SGD, rho=0.7, lr=0.1, momentum=0.8, weight_decay=0.3)


def over_adamw(params):
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}
    return scripted(params, base_optimizer=torch.optim.AdamW, rho=0.7, adaptive=True, **settings)


def _parameter():
    return nn.Parameter(torch.ones(3))


def _late_group():
    SAM([_parameter()], torch.optim.SGD).add_param_group({"params": [_parameter()], "rho": -0.5})


def _sparse_step():
    parameter = _parameter()
    optimizer = SAM([parameter], torch.optim.SGD)
    parameter.grad = torch.ones(3).to_sparse()
    optimizer.first_step()


BAD = {
    "a bad rho in a late group": Bad(call=_late_group, mentions=("rho", "-0.5")),
    "an optimizer instead of its class": Bad(
        call=lambda: SAM([_parameter()], torch.optim.SGD([_parameter()])), mentions=("class", "SGD")
    ),
    "a sparse gradient": Bad(call=_sparse_step, mentions=("dense", "sparse")),
}

OPTIMIZER_CASES = [
    OptimizerCase(item="sam", name="SAM over SGD with momentum", build=over_momentum, bad=BAD, exempt=EXEMPT),
    OptimizerCase(item="sam", name="SAM over AdamW, adaptive", build=over_adamw, exempt=EXEMPT),
]

CONTRACTS = [
    Contract(
        item="sam",
        name="SAM",
        of=SAM,
        calls=({"params": [parameter()], "base_optimizer": torch.optim.SGD},),
        ranges={"rho": "[0, inf]"},
        attributes={"base_optimizer": "the optimizer that takes the step"},
        remembers="between the two passes old_p, the weights w, of each parameter's shape and dtype",
    ),
]
