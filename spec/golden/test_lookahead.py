"""Frozen states of Lookahead after prescribed gradients, and variances of a noisy quadratic."""

import pytest
import torch
from torch import nn

from impl.optim.lookahead import Lookahead
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("lookahead")


@pytest.mark.parametrize("steps", [1, 6])
def test_over_momentum_after_scripted_gradients(steps):
    """After 1 and 6 steps with k = 4 over SGD with momentum: fast weights, slow weights, momentum of two libraries.

    Source: Zhang et al. 2019, algorithm 1.  Convention: the momentum buffer goes through the synchronization unchanged.
    """
    golden = load("lookahead")
    theta = nn.Parameter(golden["start"])
    optimizer = Lookahead(torch.optim.SGD([theta], lr=0.1, momentum=0.8), k=4, alpha=0.3)
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    golden.check(f"sgd.theta_{steps}", theta)
    if steps == 6:
        golden.check("sgd.slow_params_6", optimizer.state[theta]["slow_params"])
        golden.check("sgd.momentum_buffer_6", optimizer.base_optimizer.state[theta]["momentum_buffer"])


@pytest.mark.parametrize("steps", [1, 6])
def test_over_adamw_after_scripted_gradients(steps):
    """After 1 and 6 steps with k = 4 over AdamW: fast weights, slow weights and both moments of two libraries.

    Source: Zhang et al. 2019, algorithm 1.  Convention: the moments go through the synchronization unchanged.
    """
    golden = load("lookahead")
    theta = nn.Parameter(golden["start"])
    base = torch.optim.AdamW([theta], lr=0.1, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1)
    optimizer = Lookahead(base, k=4, alpha=0.3)
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    golden.check(f"adamw.theta_{steps}", theta)
    for name in ("exp_avg", "exp_avg_sq"):
        golden.check(f"adamw.{name}_{steps}", base.state[theta][name])
    if steps == 6:
        golden.check("adamw.slow_params_6", optimizer.state[theta]["slow_params"])


def test_share_of_the_variance_that_is_left():
    """On ½(x − c)², c ~ N(0, 1), Lookahead has 0.443, 0.340, 0.730 of SGD's variance at (γ, k, α) of three settings.

    Each coordinate has one sample of c = 1 at a step of its own; the variance is the sum of the squared responses.

    Source: Zhang et al. 2019, proposition 2.
    """
    golden = load("lookahead")
    ratios = []
    for gamma, k, alpha in golden["settings"].tolist():
        steps = 70 * int(k)
        theta = nn.Parameter(torch.zeros(steps, dtype=torch.float64))
        optimizer = Lookahead(torch.optim.SGD([theta], lr=gamma), k=int(k), alpha=alpha)
        for c in torch.eye(steps, dtype=torch.float64):
            drive(optimizer, [theta], [[theta.detach() - c]])
        ratios.append(theta.detach().square().sum() * (1 - (1 - gamma) ** 2) / gamma**2)
    golden.check("ratios", torch.stack(ratios))
