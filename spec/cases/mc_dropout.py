"""Cases of Monte Carlo dropout, and networks with dropout of ours and of torch's."""

import functools
import math

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


def _built(**arguments):
    return lambda: MCDropout(network(Dropout), **arguments)


class _Pooled(nn.Module):
    """Gives one row for the whole batch."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.3)

    def forward(self, x):
        return self.dropout(x).sum(0, keepdim=True)


def _precision(*arguments):
    return lambda: model_precision(*arguments)


BAD = {
    "a negative p": Bad(call=lambda: Dropout(-0.25), mentions=("p", "-0.25")),
    "a p above 1": Bad(call=lambda: Dropout(1.5), mentions=("p", "1.5")),
    "p is not a number": Bad(call=lambda: Dropout(float("nan")), mentions=("p", "nan")),
    "no samples": Bad(call=_built(num_samples=0), mentions=("num_samples", "0")),
    "a tau of zero": Bad(call=_built(tau=0.0), mentions=("tau", "0.0")),
    "a tau that is not a number": Bad(call=_built(tau=math.nan), mentions=("tau", "nan")),
    "no dropout to enable": Bad(call=lambda: MCDropout(nn.Linear(5, 4)).predict(_random(3, 5)), mentions=("Linear",)),
    "an output of one row": Bad(call=lambda: MCDropout(_Pooled(), 7).predict(_random(3, 5)), mentions=("21", "1")),
}
BAD_PREDICTION = {
    "no samples": Bad(call=lambda: mc_predict(network(Dropout), _random(3, 5), -2), mentions=("num_samples", "-2")),
    "a negative tau": Bad(call=lambda: mc_predict(network(Dropout), _random(3, 5), 2, -0.5), mentions=("tau", "-0.5")),
}
BAD_PRECISION = {
    "p of 1": Bad(call=_precision(1.0, 1.0, 10, 1e-3), mentions=("p", "1.0")),
    "a negative p": Bad(call=_precision(-0.5, 1.0, 10, 1e-3), mentions=("p", "-0.5")),
    "a length-scale of zero": Bad(call=_precision(0.5, 0.0, 10, 1e-3), mentions=("length_scale", "0.0")),
    "no data": Bad(call=_precision(0.5, 1.0, 0, 1e-3), mentions=("num_data", "0")),
    "no weight decay": Bad(call=_precision(0.5, 1.0, 10, -1.0), mentions=("weight_decay", "-1.0")),
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
        bad=BAD_PREDICTION | BAD_PRECISION,
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
