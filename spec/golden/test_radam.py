"""Frozen states of RAdam after prescribed gradients, and its rectification terms."""

import pytest
import torch
from torch import nn

from impl.optim.radam import RAdam
from spec import laws
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("radam")

SETTINGS = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}


def run(golden, steps, **settings):
    theta = nn.Parameter(golden["start"])
    optimizer = RAdam([theta], **SETTINGS, **settings)
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    return theta, optimizer.state[theta]


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_parameters_and_state_after_scripted_gradients(steps):
    """After 1, 6 and 12 scripted gradients parameters and moments are those of two other derivations.

    Gradients of 1e-5 to 5 that change sign, λ = 0.1, ε = 0.01; the sixth step is the first rectified one.

    Source: Liu et al. 2019, algorithm 2.
    Convention: threshold 5, ε before the bias correction, λ a penalty.
    """
    golden = load("radam")
    theta, state = run(golden, steps)
    golden.check(f"theta_{steps}", theta)
    for name in ("exp_avg", "exp_avg_sq"):
        golden.check(f"{name}_{steps}", state[name])


def test_parameters_under_decoupled_decay():
    """With the decay decoupled, twelve scripted gradients lead where two other libraries get.

    Source: Liu et al. 2019, algorithm 2; Loshchilov & Hutter 2017 for the decay.  Convention: lr·weight_decay, before
    the step.
    """
    golden = load("radam")
    golden.check("decoupled_theta_12", run(golden, 12, decoupled_weight_decay=True)[0])


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
def test_the_rectification_term(beta2):
    """r_t at t = 6, 7, 10, 20, 100, 300: under a constant gradient m̂·l = ±1, so that a step at lr 1 is r_t itself.

    Source: Liu et al. 2019, section 4.2 and algorithm 2. Evaluated from the weights' centre of mass with 40 digits.
    """
    golden = load("radam")
    theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = RAdam([theta], lr=1.0, betas=(0.9, beta2), eps=0.0)
    path = [theta.detach().clone()]
    for _ in range(int(golden["ages"][-1])):
        drive(optimizer, [theta], [[torch.tensor([1.0, -3.0], dtype=torch.float64)]])
        path.append(theta.detach().clone())
    steps = torch.stack(path).diff(dim=0)[golden["ages"] - 1]
    golden.check(f"rectification_{beta2}", -steps[:, 0])
    laws.assert_close(steps[:, 1], -steps[:, 0])
