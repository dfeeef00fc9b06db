"""Golden values of WGAN-GP.  Gulrajani et al. 2017, arXiv:1704.00028."""

import pytest
import torch
from torch import nn

from impl.models.wgan_gp import gradient_penalty
from spec.golden import load

pytestmark = pytest.mark.item("wgan-gp")


def test_penalty_of_a_network_and_its_gradient():
    """The penalty of D(x) = v·tanh(W x + b) at four points, and its gradient to W, b and v.

    Real and fake samples are the same points, so that x̂ is known whatever ε is.

    Source: Gulrajani et al. 2017, eq. 3; values of jax.
    """
    golden = load("wgan-gp")
    hidden, output = nn.Linear(3, 5).double(), nn.Linear(5, 1, bias=False).double()
    hidden.load_state_dict({"weight": golden["weight"], "bias": golden["bias"]})
    output.load_state_dict({"weight": golden["output"]})
    points = golden["points"]
    found = gradient_penalty(lambda x: output(hidden(x).tanh()), points, points)
    golden.check("penalty", found)
    leaves = {"weight": hidden.weight, "bias": hidden.bias, "output": output.weight}
    for name, gradient in zip(leaves, torch.autograd.grad(found, list(leaves.values()))):
        golden.check(f"gradient.{name}", gradient)
