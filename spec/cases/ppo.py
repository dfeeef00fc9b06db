"""Cases of PPO."""

import numpy as np
import torch
from torch import nn

from impl.models.ppo import (
    ActorCritic,
    PPOAgent,
    clipped_surrogate_loss,
    clipped_value_loss,
    generalized_advantage_estimate,
)
from spec.cases import Bad, Case
from spec.cases.reinforcement import SAVED, perceptron
from spec.contract import Contract, Fresh
from spec.laws import random, reseed

TERMINATED = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]]).bool()
TRUNCATED = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]).bool()


def flows():
    """Rewards, values and next values of four steps of three environments."""
    return random(4, 3), random(4, 3, seed=1), random(4, 3, seed=2)


def actor_critic(continuous=False, **options):
    reseed(0)
    return ActorCritic(**{"observations": 3, "actions": 2, "hidden": 4, "continuous": continuous} | options)


def agent(continuous=False, **options):
    return PPOAgent(actor_critic(continuous), **options)


class Judged(nn.Module):
    """The value of observations, and ln π and entropy for given actions, so that the laws of modules can be asked."""

    def __init__(self, continuous):
        super().__init__()
        self.model = actor_critic(continuous)

    def forward(self, observations, actions):
        return self.model(observations), *self.model.log_prob_and_entropy(observations, actions)


class Scripted:
    """Two environments as gymnasium.vector's whose episodes follow a script: observation [episode, step, action].

    Each step's reward is 10 · (environment + 1) + step; environment 0 terminates after 2 steps, 1 is truncated after 3.
    """

    def __init__(self, first_action=0):
        self.steps, self.episodes, self.actions = [0, 0], [0, 0], []

    def observations(self):
        return np.array([[self.episodes[n], self.steps[n], n] for n in range(2)], dtype=np.float64)

    def step(self, actions):
        self.actions.append(np.array(actions))
        self.steps = [k + 1 for k in self.steps]
        rewards = np.array([10.0 * (n + 1) + self.steps[n] for n in range(2)])
        terminated, truncated = np.array([self.steps[0] == 2, False]), np.array([False, self.steps[1] == 3])
        final = self.observations()
        for n in (terminated | truncated).nonzero()[0]:
            self.steps[n], self.episodes[n] = 0, self.episodes[n] + 1
        return self.observations(), rewards, terminated, truncated, {"final_obs": list(final)}


def advantages(*inputs, gamma=0.9, lam=0.8):
    return generalized_advantage_estimate(*inputs, TERMINATED, TRUNCATED, gamma, lam)


def surrogate(clip):
    return clipped_surrogate_loss(random(3), random(3, seed=1), random(3, seed=2), clip)


_BAD = {
    "gamma above 1": Bad(call=lambda: advantages(*flows(), gamma=1.1), mentions=("1.1",)),
    "negative lambda": Bad(call=lambda: advantages(*flows(), lam=-0.1), mentions=("-0.1",)),
    "other shapes": Bad(
        call=lambda: advantages(random(4, 3), random(4, 3), random(3, 3)), mentions=("(3, 3)", "(4, 3)")
    ),
    "a negative clip": Bad(call=lambda: surrogate(-0.1), mentions=("-0.1",)),
    "a clip that is no number": Bad(call=lambda: surrogate(float("nan")), mentions=("nan",)),
    "observations of another width": Bad(call=lambda: actor_critic()(random(2, 4)), mentions=("3", "4")),
}
_TIME = {
    "batch_independent": "the first dimension is time: what comes later counts",
    "batch_independent_in_eval": "the first dimension is time: what comes later counts",
    "empty_batch_is_defined": "the first dimension is time: an estimate of no step has no meaning",
    "gradient_correct": "advantages are outside of the graph; a spec of its own says so",
}
_MEAN = {
    "batch_independent": "a mean over the batch",
    "batch_independent_in_eval": "a mean over the batch",
    "empty_batch_is_defined": "a mean over no sample",
}
_OWN = {"from_scratch": "the class that is called is defined here; the record of ActorCritic is checked"}

CASES = [
    Case(
        item="ppo",
        name="generalized_advantage_estimate",
        build=lambda: generalized_advantage_estimate,
        inputs=lambda: (*flows(), TERMINATED, TRUNCATED, 0.9, 0.8),
        bad=_BAD,
        exempt=_TIME,
        is_function=True,
    ),
    Case(
        item="ppo",
        name="clipped_surrogate_loss",
        build=lambda: clipped_surrogate_loss,
        inputs=lambda: (random(5) / 4, random(5, seed=1) / 4, random(5, seed=2), 0.3),
        exempt=_MEAN,
        is_function=True,
    ),
    Case(
        item="ppo",
        name="clipped_value_loss",
        build=lambda: clipped_value_loss,
        inputs=lambda: (random(5), random(5, seed=1), random(5, seed=2), 0.3),
        exempt=_MEAN,
        is_function=True,
    ),
    Case(
        item="ppo",
        name="ActorCritic",
        build=actor_critic,
        inputs=lambda: (random(2, 3),),
        exempt={"every_parameter_receives_gradient": "forward is the value alone; the records below have the policy"},
    ),
    Case(
        item="ppo",
        name="ActorCritic, log-probabilities",
        build=lambda: Judged(False),
        inputs=lambda: (random(2, 3), torch.tensor([1, 0])),
        exempt=_OWN,
    ),
    Case(
        item="ppo",
        name="ActorCritic, continuous",
        build=lambda: Judged(True),
        inputs=lambda: (random(2, 3), random(2, 2, seed=1)),
        exempt=_OWN,
    ),
]

CONTRACTS = [
    Contract(
        item="ppo",
        name="ActorCritic",
        of=ActorCritic,
        calls=({"observations": 3, "actions": 2, "hidden": 4, "continuous": True},),
        ranges={"observations": "int >= 1", "actions": "int >= 1", "hidden": "int >= 1"},
        state=perceptron("policy", "observations", "hidden", "hidden", "actions")
        | perceptron("value", "observations", "hidden", "hidden", "1")
        | {"log_std": "(actions,)"},
        attributes={
            "policy": "the network of the policy: observations to logits, or to means",
            "value": "the network of the value: observations to one number",
            "log_std": "a parameter, (actions,); None if not continuous",
        },
    ),
    Contract(
        item="ppo",
        name="PPOAgent",
        of=PPOAgent,
        calls=({"actor_critic": Fresh(actor_critic)},),
        ranges={"epochs": "int >= 1", "minibatch_size": "int >= 1"},
        attributes={
            "actor_critic": "the policy and the value, as they were given",
            "optimizer": "a torch.optim.Optimizer of its parameters",
        }
        | SAVED,
    ),
    Contract(
        item="ppo",
        name="generalized_advantage_estimate",
        of=generalized_advantage_estimate,
        calls=(
            dict(zip(("rewards", "values", "next_values"), flows()))
            | {"terminated": TERMINATED, "truncated": TRUNCATED, "gamma": 0.9, "lam": 0.8},
        ),
        ranges={"gamma": "[0, 1]", "lam": "[0, 1]"},
    ),
    Contract(
        item="ppo",
        name="clipped_surrogate_loss",
        of=clipped_surrogate_loss,
        calls=({"log_probs": random(3), "old_log_probs": random(3), "advantages": random(3)},),
        ranges={"clip": "[0, inf)"},
    ),
    Contract(
        item="ppo",
        name="clipped_value_loss",
        of=clipped_value_loss,
        calls=({"values": random(3), "returns": random(3), "old_values": random(3), "clip": 0.2},),
        ranges={"clip": "[0, inf) or None"},
    ),
]
