"""Frozen states of RMSprop after prescribed gradients."""

import pytest
from torch import nn

from impl.optim.rmsprop import RMSprop
from spec.golden import load
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("rmsprop")

SETTINGS = {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.1}
STATES = {
    "plain": ["square_avg"],
    "centered": ["square_avg", "grad_avg"],
    "momentum": ["square_avg", "momentum_buffer"],
    "both": ["square_avg", "grad_avg", "momentum_buffer"],
}


def run(golden, variant, steps):
    theta = nn.Parameter(golden["start"])
    momentum = 0.7 if variant in ("momentum", "both") else 0.0
    optimizer = RMSprop([theta], **SETTINGS, momentum=momentum, centered=variant in ("centered", "both"))
    drive(optimizer, [theta], [[g] for g in golden["gradients"][:steps]])
    return theta, optimizer.state[theta]


@pytest.mark.parametrize("variant", STATES)
def test_parameters_and_state_after_scripted_gradients(variant):
    """After 6 scripted gradients parameters, averages and buffer are those of two other libraries.

    Gradients of 1e-5 to 5 that change sign, λ = 0.1, ε = 0.01.

    Source: Tieleman & Hinton 2012, lecture 6.5; centered and with momentum: Graves 2013, eq. 38-45.
    Convention: ε outside the root, η outside the buffer, λ a penalty.
    """
    golden = load("rmsprop")
    theta, state = run(golden, variant, 6)
    golden.check(f"{variant}_theta_6", theta)
    for name in STATES[variant]:
        golden.check(f"{variant}_{name}_6", state[name])


def test_parameters_and_state_after_the_first_gradient():
    """The first step of the plain and of the centered rule is that of two other libraries: nothing is corrected.

    Source: Tieleman & Hinton 2012, lecture 6.5; Graves 2013, eq. 38-45.
    Convention: v_0 = 0 without a correction of the bias.
    """
    golden = load("rmsprop")
    golden.check("plain_theta_1", run(golden, "plain", 1)[0])
    golden.check("centered_theta_1", run(golden, "centered", 1)[0])
    theta, state = run(golden, "both", 1)
    golden.check("both_theta_1", theta)
    for name in STATES["both"]:
        golden.check(f"both_{name}_1", state[name])
