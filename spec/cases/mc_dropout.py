"""Cases of Monte Carlo dropout, and networks with dropout of ours and of torch's."""

import functools

import torch
from torch import nn

from impl.layers.dropout import Dropout
from impl.models.mc_dropout import (
    MCDropout,
    expected_entropy,
    log_likelihood,
    mc_predict,
    model_precision,
    mutual_information,
    predictive_entropy,
)
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh

DRAWS = "it samples masks in every mode: that is what it is for"
STOCHASTIC = {"deterministic_in_eval": DRAWS, "draws_nothing_in_eval": DRAWS}
MODES = "it switches the modes of modules, which does not trace: compile the model instead"


def network(dropout, p=0.4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), dropout(p), nn.Linear(6, 4))


def by_rows(function):
    """The same function with the batch in front, as the laws want it; it counts as the function itself."""
    return functools.wraps(function)(lambda probabilities: function(probabilities.transpose(0, 1)))


def moments():
    """Mean, variance and, batch in front, samples of a model without parameters."""
    model = nn.Sequential(Dropout(0.4), nn.Tanh())

    @functools.wraps(mc_predict)
    def predict(x):
        output = mc_predict(model, x, 3, tau=8.0)
        return output.mean, output.variance, output.samples.transpose(0, 1)

    return predict


def density():
    return functools.wraps(log_likelihood)(lambda y, target: log_likelihood(y.transpose(0, 1), target, 0.7))


def _random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _classes():
    return (_random(3, 4, 2, 5).softmax(-1),)


class _Pooled(nn.Module):
    """Gives one row for the whole batch."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.3)

    def forward(self, x):
        return self.dropout(x).sum(0, keepdim=True)


BAD = {
    "no dropout to enable": Bad(call=lambda: MCDropout(nn.Linear(5, 4)).predict(_random(3, 5)), mentions=("Linear",)),
    "an output of one row": Bad(call=lambda: MCDropout(_Pooled(), 7).predict(_random(3, 5)), mentions=("21", "1")),
}

CASES = [
    Case(
        item="mc-dropout",
        name="MCDropout",
        build=lambda: MCDropout(network(Dropout), num_samples=7, tau=2.0),
        inputs=lambda: (_random(3, 5),),
        bad=BAD,
    ),
    Case(
        item="mc-dropout",
        name="MCDropout, dropout alone",
        build=lambda: MCDropout(Dropout(0.3)),
        inputs=lambda: (_random(3, 4, 5),),
        exempt={"every_parameter_receives_gradient": "it has no parameters"},
    ),
    Case(
        item="mc-dropout",
        name="mc_predict",
        build=moments,
        inputs=lambda: (_random(2, 5),),
        exempt=STOCHASTIC | {"compiles": MODES, "keeps_dtype": "which values a mask takes may depend on the dtype"},
        is_function=True,
    ),
    Case(
        item="mc-dropout",
        name="log_likelihood",
        build=density,
        inputs=lambda: (_random(3, 4, 2, 5), _random(3, 2, 5) / 2),
        is_function=True,
    ),
    *(
        Case(
            item="mc-dropout",
            name=name,
            build=lambda function=function: by_rows(function),
            inputs=_classes,
            is_function=True,
        )
        for name, function in (
            ("predictive_entropy", predictive_entropy),
            ("expected_entropy", expected_entropy),
            ("mutual_information", mutual_information),
        )
    ),
]

_PASSES = {"num_samples": "int >= 1", "tau": "(0, inf]"}

CONTRACTS = [
    Contract(
        item="mc-dropout",
        name="MCDropout",
        of=MCDropout,
        calls=({"model": Fresh(lambda: network(Dropout))},),
        ranges=_PASSES,
        attributes={
            "model": "the network, as it was given; its state has that prefix",
            "num_samples": "T of `predict`",
            "tau": "the precision of `predict`",
        },
    ),
    Contract(
        item="mc-dropout",
        name="mc_predict",
        of=mc_predict,
        calls=({"model": Fresh(lambda: network(Dropout)), "x": _random(3, 5)},),
        ranges=_PASSES,
    ),
    Contract(
        item="mc-dropout",
        name="model_precision",
        of=model_precision,
        calls=({"p": 0.5, "length_scale": 1.0, "num_data": 10, "weight_decay": 1e-3},),
        ranges={"p": "[0, 1)", "length_scale": "(0, inf]", "num_data": "int >= 1", "weight_decay": "(0, inf]"},
    ),
    Contract(
        item="mc-dropout",
        name="log_likelihood",
        of=log_likelihood,
        calls=({"samples": _random(4, 3, 5), "target": _random(3, 5), "tau": 0.7},),
        ranges={"tau": "(0, inf)"},
    ),
    Contract(item="mc-dropout", name="Dropout", of=Dropout, ranges={"p": "[0, 1]"}),
]
