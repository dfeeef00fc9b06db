"""Golden values of Glow.  Kingma & Dhariwal 2018, arXiv:1807.03039."""

import pytest

from impl.models.glow import ActNorm2d, AffineCoupling2d, InvertibleConv1x1
from spec.golden import load

pytestmark = pytest.mark.item("glow")


def layers(golden):
    """Actnorm, 1×1 convolution and coupling of 4 channels with the recipe's weights."""
    found = ActNorm2d(4).double(), InvertibleConv1x1(4).double(), AffineCoupling2d(4, 3).double()
    for layer in found:
        layer.load_state_dict({name: golden[name] for name in layer.state_dict()})
    return found


def test_a_step_of_flow_is_that_of_the_libraries():
    """Two images of 4 channels through actnorm and 1×1 convolution, then the coupling, and the sum of log-determinants.

    Source: Kingma & Dhariwal 2018, table 1; values of nflows and normflows, and of NumPy with complex steps.
    """
    golden = load("glow")
    norm, conv, coupling = layers(golden)
    x, first = norm(golden["x"])
    mixed, second = conv(x)
    golden.check("mixed", mixed)
    y, third = coupling(mixed)
    golden.check("y", y)
    golden.check("log_det", first + second + third)


def test_the_step_runs_backwards():
    """From y the inverses come to the images.

    Source: Kingma & Dhariwal 2018, table 1, reverse functions.
    """
    golden = load("glow")
    x = golden["y"]
    for layer in reversed(layers(golden)):
        x, _ = layer.inverse(x)
    assert (x - golden["x"]).abs().max() < 1e-9, f"expected the images, found a gap of {(x - golden['x']).abs().max()}"
