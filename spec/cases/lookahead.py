"""Cases of Lookahead."""

import torch
from torch import nn

from impl.optim.lookahead import Lookahead
from spec.cases import Bad, OptimizerCase, without_counterpart
from spec.contract import Contract, Fresh

CASES = []

FROM_THE_START = "slow weights exist from the construction on; spec/properties/test_lookahead.py asks the rest"
PULLED_BACK = "a synchronization moves every weight, with a gradient or without; spec/properties/test_lookahead.py asks"
EXEMPT = {
    "late_parameters_start_fresh": FROM_THE_START,
    "nothing_to_do": FROM_THE_START,
    "pauses_without_gradient": PULLED_BACK,
    "loads_an_older_state": "its state dict holds that of the optimizer inside, and how is its own affair",
    "complex_parameters_are_refused": "the mean of complex weights is one, and the optimizer inside decides",
    "sparse_gradients_are_refused": "only the optimizer inside reads gradients",
} | without_counterpart("torch.optim has no Lookahead")


def over_momentum(params):
    return Lookahead(torch.optim.SGD(params, lr=0.1, momentum=0.8, weight_decay=0.3), k=4, alpha=0.6)


def over_adamw(params):
    base = torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.3)
    return Lookahead(base, k=3, alpha=0.3)


def _parameter():
    return nn.Parameter(torch.ones(3))


def _sgd():
    return torch.optim.SGD([_parameter()])


def _group(**settings):
    return lambda: Lookahead(torch.optim.SGD([{"params": [_parameter()], **settings}]))


def _late_group():
    Lookahead(torch.optim.SGD([_parameter()])).add_param_group({"params": [_parameter()], "lookahead_k": -4})


BAD = {
    "a broken k": Bad(call=lambda: Lookahead(_sgd(), k=2.5), mentions=("integer", "2.5")),
    "k is not a number": Bad(call=lambda: Lookahead(_sgd(), k=float("nan")), mentions=("k", "nan")),
    "a bad k in a group": Bad(call=_group(lookahead_k=-2), mentions=("k", "-2")),
    "a bad alpha in a group": Bad(call=_group(lookahead_alpha=-3.0), mentions=("alpha", "-3.0")),
    "a bad k in a late group": Bad(call=_late_group, mentions=("k", "-4")),
    "parameters instead of an optimizer": Bad(call=lambda: Lookahead([_parameter()]), mentions=("list",)),
    "a class instead of an optimizer": Bad(call=lambda: Lookahead(torch.optim.SGD), mentions=("type",)),
}

OPTIMIZER_CASES = [
    OptimizerCase(
        item="lookahead",
        name="Lookahead over SGD with momentum",
        build=over_momentum,
        bad=BAD,
        exempt=EXEMPT | {"lr_zero_freezes": "it begins in mid-cycle, and the slow weights still pull back"},
    ),
    OptimizerCase(
        item="lookahead",
        name="Lookahead over AdamW",
        build=over_adamw,
        exempt=EXEMPT | {"settings_belong_to_groups": "the law halves settings, and a k of 3 has no half"},
    ),
]

CONTRACTS = [
    Contract(
        item="lookahead",
        name="Lookahead",
        of=Lookahead,
        calls=({"base_optimizer": Fresh(_sgd)},),
        ranges={"k": "int >= 1", "alpha": "[0, 1]"},
        attributes={"base_optimizer": "the inner optimizer, as it was given"},
        remembers="slow_params, of each parameter's shape and dtype; each group's steps since its cycle began",
    ),
]
