"""Frozen states of AdamW after prescribed gradients."""

import pytest
from torch import nn

from impl.optim.adamw import AdamW
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("adamw")


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_parameters_and_state_after_scripted_gradients(steps, amsgrad):
    """After 1 and after 6 scripted gradients parameters and moments are those of two other libraries.

    Gradients of 1e-5 to 5 that change sign, λ = 0.1, ε = 0.01: a wrong decay, position of ε or correction
    differs from the right values within two steps, where a run on a parabola ends at the same optimum.

    Source: Loshchilov & Hutter 2017, algorithm 2; with amsgrad Reddi, Kale & Kumar 2018, algorithm 2.
    Convention: lr·weight_decay; the maximum over the uncorrected v.
    """
    golden = load("adamw")
    theta = nn.Parameter(golden["start"])
    optimizer = AdamW([theta], lr=0.1, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1, amsgrad=amsgrad)
    gradients = golden["gradients"].flip(0) if amsgrad else golden["gradients"]
    drive(optimizer, [theta], [[g] for g in gradients[:steps]])
    prefix = "amsgrad_" if amsgrad else ""
    golden.check(f"{prefix}theta_{steps}", theta)
    for name in ("exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * (amsgrad and steps > 1)):
        golden.check(f"{prefix}{name}_{steps}", optimizer.state[theta][name])
