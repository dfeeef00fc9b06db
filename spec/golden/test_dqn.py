"""Golden values of double dueling DQN.  Wang et al. 2015; van Hasselt et al. 2015."""

import pytest
import torch

from impl.models.dqn import DQNAgent, DuelingQNetwork
from spec.golden import load

pytestmark = pytest.mark.item("double-dueling-dqn")


def network(golden, part):
    """A network of five features with the recipe's weights."""
    theirs, state = golden.state_dict(part), {}
    for kind in ("weight", "bias"):
        state[f"features.{kind}"] = theirs[f"features.0.{kind}"]
        for stream in ("value", "advantage"):
            state |= {f"{stream}.layers.{n}.{kind}": theirs[f"{stream}.{2 * n}.{kind}"] for n in range(2)}
    module = DuelingQNetwork(3, 4, 5).double()
    module.load_state_dict(state)
    return module


def test_values_and_loss_are_those_of_the_libraries():
    """Values of six states, the loss of six transitions at γ = 0.9, and its gradient to the states.

    Source: Wang et al. 2015, eq. 9; van Hasselt et al. 2015, eq. 4; values of torchrl and optax.
    """
    golden = load("double-dueling-dqn")
    agent = DQNAgent(network(golden, "learns"), gamma=0.9)
    agent.target_q.load_state_dict(network(golden, "copy").state_dict())
    states = golden["states"].requires_grad_()
    golden.check("values", agent.q(states))
    parts = [golden[name] for name in ("actions", "rewards", "following", "terminated")]
    loss = agent.loss((states, *parts))
    golden.check("loss", loss)
    golden.check("gradient", torch.autograd.grad(loss, states)[0])
