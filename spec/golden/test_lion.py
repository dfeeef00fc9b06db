"""Frozen states of Lion after prescribed gradients."""

import pytest
from torch import nn

from impl.optim.lion import Lion
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("lion")


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("steps", [1, 6])
def test_parameters_and_state_after_scripted_gradients(steps):
    """After 1 and after 6 scripted gradients parameters and momentum are those of two other libraries.

    Gradients of 1e-5 to 5 that change sign, one of them zero at first, λ = 0.2, β = (0.6, 0.9).

    Source: Chen et al. 2023, algorithm 2.  Convention: decay times lr; sign(0) = 0.
    """
    golden = load("lion")
    theta = nn.Parameter(golden["start"])
    optimizer = Lion([theta], lr=0.1, betas=(0.6, 0.9), weight_decay=0.2)
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    golden.check(f"theta_{steps}", theta)
    golden.check(f"exp_avg_{steps}", optimizer.state[theta]["exp_avg"])
