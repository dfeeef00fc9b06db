"""Frozen states of AdaGrad after prescribed gradients."""

import pytest
from torch import nn

from impl.optim.adagrad import Adagrad
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("adagrad")


@pytest.mark.parametrize("steps", [1, 6])
def test_parameters_and_state_after_scripted_gradients(steps):
    """After 1 and after 6 scripted gradients parameters and sums are those of two other libraries.

    Gradients of 1e-5 to 5 that change sign, λ = 0.1, lr_decay = 0.2, s_0 = 0.4, δ = 0.01; one coordinate's first
    gradient comes at the third step.

    Source: Duchi, Hazan & Singer 2011, figure 1.
    Convention: δ outside the root, λ a penalty, lr_decay from the second step on.
    """
    golden = load("adagrad")
    theta = nn.Parameter(golden["start"])
    optimizer = Adagrad([theta], lr=0.3, lr_decay=0.2, weight_decay=0.1, initial_accumulator_value=0.4, eps=1e-2)
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    golden.check(f"theta_{steps}", theta)
    golden.check(f"sum_{steps}", optimizer.state[theta]["sum"])
