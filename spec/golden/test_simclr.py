"""Golden values of SimCLR.  Chen, Kornblith, Norouzi & Hinton 2020, arXiv:2002.05709."""

import pytest
import torch

from impl.models.simclr import nt_xent_loss
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("simclr")


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_loss_and_gradient(temperature):
    """The loss of five pairs of three numbers and its gradient, at three temperatures.

    Source: Chen et al. 2020, eq. 1; values of optax.
    """
    golden = load("simclr")
    first, second = golden["first"].requires_grad_(), golden["second"].requires_grad_()
    loss = nt_xent_loss(first, second, temperature)
    golden.check(f"loss.{temperature}", loss)
    golden.check(f"gradient.{temperature}", torch.cat(torch.autograd.grad(loss, (first, second))))


@pytest.mark.parametrize(
    ("n", "temperature", "expected"), [(4, 0.5, 0.594437664233319), (2, 0.1, 9.0795737467244446e-5)]
)
def test_loss_of_orthonormal_images(n, temperature, expected):
    """ln(1 + (2N − 2) e^(−1/τ)): 0.5944 for 4 images at τ = 0.5, and 9.08e−5 for 2 at τ = 0.1.

    Source: Chen et al. 2020, eq. 1, by hand.
    """
    same = torch.eye(n, dtype=torch.float64)
    found = nt_xent_loss(same, same, temperature)
    laws.assert_close(found, torch.tensor(expected, dtype=torch.float64))
