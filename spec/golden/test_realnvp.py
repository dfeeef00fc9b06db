"""Golden values of RealNVP.  Dinh, Sohl-Dickstein & Bengio 2016, arXiv:1605.08803."""

import math

import pytest
import torch
from torch import nn

from impl.layers.flows import bits_per_dim, from_logits, squeeze, to_logits, unsqueeze
from impl.models.realnvp import AffineCoupling
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("realnvp")


def couplings(golden):
    """The two of the recipe."""
    layers = []
    for n in range(2):
        net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 10))
        layer = AffineCoupling(golden[f"{n}.mask"].bool(), net).double()
        layer.load_state_dict(golden.state_dict(str(n)))
        layers.append(layer)
    return layers


@pytest.mark.states("equivalence")
def test_two_couplings():
    """y and log|det| of two couplings with opposite masks are those of normflows and of a Jacobian by complex steps.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 9.
    """
    golden = load("realnvp")
    one, two = couplings(golden)
    y, first = one(golden["x"])
    y, second = two(y)
    golden.check("y", y)
    golden.check("log_det", first + second)


def test_inverse_of_two_couplings():
    """Of the same two couplings the inverse of x, with its log|det|.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 8.
    """
    golden = load("realnvp")
    one, two = couplings(golden)
    x, second = two.inverse(golden["x"])
    x, first = one.inverse(x)
    golden.check("back", x)
    golden.check("back_log_det", first + second)


def test_squeezed_numbers():
    """Numbers in order, squeezed, are where nflows puts them.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.6, figure 3.
    """
    golden = load("realnvp")
    golden.check("squeeze.y", squeeze(golden["squeeze.x"]))
    laws.assert_same(unsqueeze(golden["squeeze.y"]), golden["squeeze.x"])


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_logits_of_grey_values(alpha):
    """Logits of grey values at both ends and the middle, with log|dy/dx|.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1.
    """
    golden = load("realnvp")
    y, log_det = to_logits(golden["logits.x"], alpha)
    golden.check(f"logits.{alpha}.y", y)
    golden.check(f"logits.{alpha}.log_det", log_det)
    laws.assert_close(from_logits(golden[f"logits.{alpha}.y"], alpha)[0], golden["logits.x"], rtol=1e-12, atol=1e-13)


def test_logit_of_the_middle():
    """At x = 128/256 and α = 0.05, y = logit(0.525) = 0.10008345855698253 and log|dy/dx| = 1.3375041969504586.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1; with 1 − 2α it would be y = 0.
    """
    y, log_det = to_logits(torch.tensor([[0.5]], dtype=torch.float64), 0.05)
    expected = torch.tensor([[math.log(0.525 / 0.475)]], dtype=torch.float64)
    laws.assert_close(y, expected, rtol=1e-12, atol=0)
    laws.assert_close(log_det, torch.tensor([1.3375041969504586], dtype=torch.float64), rtol=1e-12, atol=0)


def test_uniform_density_costs_eight_bits():
    """A uniform density on [0, 1)^D costs exactly 8 bits per dimension of 256 grey values, whatever D; 17 cost log₂ 17.

    Source: Theis, van den Oord & Bethge 2015, arXiv:1511.01844, §3.1.
    """
    zero = torch.zeros(2, dtype=torch.float64)
    for dims in (1, 48, 3072):
        laws.assert_close(bits_per_dim(zero, dims), torch.full_like(zero, 8.0), rtol=1e-14, atol=0)
    laws.assert_close(bits_per_dim(zero, 64, 17), torch.full_like(zero, 4.087462841250339), rtol=1e-14, atol=0)
