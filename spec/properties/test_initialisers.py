"""Initialisers.  Glorot & Bengio 2010 (AISTATS); He et al. 2015, arXiv:1502.01852."""

import math

import pytest
import torch
from torch import nn

from impl.layers.initialisers import (
    kaiming_normal_,
    kaiming_uniform_,
    trunc_normal_,
    xavier_normal_,
    xavier_uniform_,
)
from spec import laws

pytestmark = pytest.mark.item("dilated-conv")

SHAPE = (96, 32, 3, 2)  # fan-in 32·6, fan-out 96·6
FAN_IN, FAN_OUT = 192, 576

# 18432 elements: the standard deviation is within 3 % and the mean within 4 % of it, five standard errors or more.
CASES = [
    (xavier_uniform_, {}, math.sqrt(2 / (FAN_IN + FAN_OUT)), "uniform"),
    (xavier_uniform_, {"gain": 3.0}, 3 * math.sqrt(2 / (FAN_IN + FAN_OUT)), "uniform"),
    (xavier_normal_, {}, math.sqrt(2 / (FAN_IN + FAN_OUT)), "normal"),
    (xavier_normal_, {"gain": 3.0}, 3 * math.sqrt(2 / (FAN_IN + FAN_OUT)), "normal"),
    (kaiming_uniform_, {}, math.sqrt(2 / FAN_IN), "uniform"),
    (kaiming_uniform_, {"a": 0.7, "mode": "fan_out"}, math.sqrt(2 / 1.49 / FAN_OUT), "uniform"),
    (kaiming_normal_, {"a": 0.7}, math.sqrt(2 / 1.49 / FAN_IN), "normal"),
    (kaiming_normal_, {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(2 / FAN_OUT), "normal"),
    (kaiming_normal_, {"nonlinearity": "tanh"}, 5 / 3 / math.sqrt(FAN_IN), "normal"),
    (kaiming_normal_, {"nonlinearity": "linear"}, 1 / math.sqrt(FAN_IN), "normal"),
    (trunc_normal_, {}, 0.8796256610342398, "truncated"),  # √(1 − 4φ(2)/(2Φ(2) − 1))
    (trunc_normal_, {"mean": 1.0, "std": 2.0, "a": 1.0, "b": 9.0}, 2 * math.sqrt(1 - 2 / math.pi), "half"),
]


@pytest.mark.parametrize(("initialise", "arguments", "sigma", "kind"), CASES)
def test_spread(initialise, arguments, sigma, kind):
    """Xavier: gain·√(2/(fan-in + fan-out)); Kaiming: √(2/(1 + a²)/fan); truncated: that of the cut distribution.

    Source: Glorot & Bengio 2010, eq. 12 and 16; He et al. 2015, eq. 10, 14, 15.
    Convention: a weight is (outputs, inputs, taps); a truncated normal is cut at values, ±2 by default.
    Measured: within 2 % over 10 seeds; 1.73 times too large with a bound taken for a standard deviation, 1.41 without
        the gain. Right code is refused once in 10⁵ runs.
    """
    torch.manual_seed(1)
    weight = initialise(torch.empty(SHAPE, dtype=torch.float64), **arguments)
    found = weight.std().item() / sigma
    assert abs(found - 1) < 0.03, f"expected a standard deviation of {sigma:.4f}, found {found:.3f} times that"
    # The largest of so many elements tells the distributions apart.
    farthest = (weight - arguments.get("mean", 0.0)).abs().max().item() / sigma
    low, high = {"uniform": (1.7, 1.7321), "normal": (3.2, 6.5), "truncated": (2.2, 2.2738), "half": (5.0, 6.64)}[kind]
    assert low < farthest < high, f"expected a {kind} distribution, found {farthest:.3f} standard deviations at most"
    mean = {"half": 1 + 2 * math.sqrt(2 / math.pi)}.get(kind, 0.0)
    assert abs(weight.mean().item() - mean) < 0.04 * sigma, f"expected a mean of {mean:.3f}, found {weight.mean()}"


@pytest.mark.parametrize(
    "initialise", [xavier_uniform_, xavier_normal_, kaiming_uniform_, kaiming_normal_, trunc_normal_]
)
def test_initialisers_fill_in_place_outside_the_graph(initialise):
    """The tensor itself is filled and returned, a parameter stays a leaf, and the global seed decides.

    Convention: torch.nn.init, whose functions end in an underscore.
    """
    parameter, other = nn.Parameter(torch.full((5, 4), 7.0)), torch.empty(5, 4)
    torch.manual_seed(1)
    assert initialise(parameter) is parameter
    assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None
    torch.manual_seed(1)
    initialise(other)
    laws.assert_same(other, parameter.detach())
    initialise(other)
    laws.assert_differs(other, parameter.detach(), by=1e-3)


@pytest.mark.parametrize("layers", [20])
def test_kaiming_keeps_the_variance_through_relus_and_xavier_loses_it(layers):
    """After 20 ReLU layers Kaiming's activations have their first size, Xavier's 2^−20 of its square.

    Source: He et al. 2015, §2.2, fig. 3: a 30-layer network converges with the first and stalls with the second.
    Measured: mean squares of 0.57 to 1.06 and 5e-7 to 1.0e-6 over 5 seeds.
    """
    torch.manual_seed(0)
    found = {}
    for initialise in (kaiming_normal_, xavier_normal_):
        x = torch.randn(64, 512)
        for _ in range(layers):
            x = (x @ initialise(torch.empty(512, 512)).T).relu()
        found[initialise.__name__] = x.square().mean().item()
    assert 0.3 < found["kaiming_normal_"] < 3, f"expected the variance to stay, found {found['kaiming_normal_']:.3g}"
    assert 2e-7 < found["xavier_normal_"] < 5e-6, f"expected 2^−20, found {found['xavier_normal_']:.3g}"


def test_far_bounds_let_no_outlier_through():
    """Bounds of 100 standard deviations cut nothing off: all elements stay within 6, in bfloat16 as well.

    Convention: no sample may fall on a bound because a uniform value was rounded to ±1.
    """
    torch.manual_seed(0)
    weight = trunc_normal_(torch.empty(4000, dtype=torch.bfloat16), std=0.02)
    largest = weight.abs().max().item() / 0.02
    assert 2 < largest < 6, f"expected elements within 6 standard deviations, found {largest:.1f}"


@pytest.mark.own_code
@pytest.mark.parametrize(
    ("call", "mentions"),
    [
        (lambda: xavier_uniform_(torch.empty(3)), ["(3,)"]),
        (lambda: xavier_normal_(torch.empty(3)), ["(3,)"]),
        (lambda: kaiming_uniform_(torch.empty(3)), ["(3,)"]),
        (lambda: kaiming_normal_(torch.empty(3)), ["(3,)"]),
        (lambda: trunc_normal_(torch.empty(3), std=0.0), ["std", "0.0"]),
        (lambda: trunc_normal_(torch.empty(3), a=1.0, b=1.0), ["a < b", "1.0"]),
    ],
)
def test_initialisers_refuse_tensors_without_fans_and_empty_distributions(call, mentions):
    """A tensor of one dimension, std <= 0 and a >= b raise ValueError or TypeError.

    Convention: other libraries raise other errors, so peers are not asked.
    """
    laws.rejects(call, mentions)
