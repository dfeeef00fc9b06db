"""Cases of SAC."""

import torch

from impl.models.sac import ReplayBuffer, SACAgent, SquashedGaussianPolicy, TwinQNetwork, squashed_log_prob
from spec.cases import Bad, Case
from spec.cases.reinforcement import SAVED, perceptron
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def policy(**options):
    """Of two actions in [−1, 2] and [0, 4]."""
    reseed(0)
    bounds = {"low": torch.tensor([-1.0, 0.0]), "high": torch.tensor([2.0, 4.0])}
    return SquashedGaussianPolicy(**{"observations": 3, "actions": 2, "hidden": 4} | bounds | options)


def pair():
    reseed(1)
    return TwinQNetwork(3, 2, 4)


def agent(**options):
    return SACAgent(policy(), pair(), **options)


def batch(n=5):
    """Observations, actions within the bounds, rewards, next observations, and which steps terminated."""
    actions = policy().centre + policy().scale * random(n, 2, seed=1).tanh()
    return random(n, 3), actions, random(n, seed=2), random(n, 3, seed=3), random(n, seed=4) > 0.5


def buffer():
    reseed(0)
    found = ReplayBuffer(3)
    found.add(random(2), 1.0, True)
    return found


_BAD = {
    "bounds the wrong way round": Bad(call=lambda: policy(low=2.0, high=1.0), mentions=("2.0", "1.0")),
    "another number of bounds": Bad(call=lambda: policy(low=torch.zeros(3)), mentions=("2",)),
    "a temperature of 0": Bad(call=lambda: agent(alpha=0.0), mentions=("0.0",)),
    "observations of another width": Bad(call=lambda: policy()(random(2, 4)), mentions=("3", "4")),
    "actions of another width": Bad(call=lambda: pair()(random(2, 3), random(2, 1)), mentions=("5", "4")),
    "a sample of nothing": Bad(call=lambda: ReplayBuffer(3).sample(1)),
    "a sample of no size": Bad(call=lambda: buffer().sample(0), mentions=("0",)),
    "another shape than before": Bad(call=lambda: buffer().add(random(3), 1.0, True), mentions=("(2,)", "(3,)")),
    "fewer parts than before": Bad(call=lambda: buffer().add(random(2), 1.0)),
}

CASES = [
    Case(item="sac", name="SquashedGaussianPolicy", build=policy, inputs=lambda: (random(2, 3),), bad=_BAD),
    Case(item="sac", name="TwinQNetwork", build=pair, inputs=lambda: (random(2, 3), random(2, 2, seed=1))),
    Case(
        item="sac",
        name="squashed_log_prob",
        build=lambda: squashed_log_prob,
        inputs=lambda: tuple(random(3, 2, seed=k) for k in range(3)),
        is_function=True,
    ),
]


CONTRACTS = [
    Contract(
        item="sac",
        name="SquashedGaussianPolicy",
        of=SquashedGaussianPolicy,
        calls=({"observations": 3, "actions": 2, "hidden": 4},),
        ranges={"observations": "int >= 1", "actions": "int >= 1", "hidden": "int >= 1"},
        state=perceptron("network", "observations", "hidden", "hidden", "2 * actions")
        | {"centre": "(actions,)", "scale": "(actions,)"},
        attributes={"centre": "(low + high)/2, a buffer", "scale": "(high − low)/2, a buffer"},
    ),
    Contract(
        item="sac",
        name="TwinQNetwork",
        of=TwinQNetwork,
        calls=({"observations": 3, "actions": 2, "hidden": 4},),
        ranges={"observations": "int >= 1", "actions": "int >= 1", "hidden": "int >= 1"},
        state=perceptron("first", "observations + actions", "hidden", "hidden", "1")
        | perceptron("second", "observations + actions", "hidden", "hidden", "1"),
    ),
    Contract(
        item="sac",
        name="SACAgent",
        of=SACAgent,
        calls=({"policy": Fresh(policy), "q": Fresh(pair)},),
        ranges={"gamma": "[0, 1]", "tau": "[0, 1]", "alpha": "(0, inf)"},
        attributes={
            "policy": "the policy, as it was given",
            "q": "the values that learn, as they were given",
            "target_q": "their slow copy",
            "log_alpha": "ln α, a tensor of one number that requires a gradient",
            "target_entropy": "H",
            "alpha": "the temperature, a number",
        }
        | SAVED,
    ),
    Contract(
        item="sac",
        name="squashed_log_prob",
        of=squashed_log_prob,
        calls=({"u": random(3, 2), "mean": random(3, 2, seed=1), "log_std": random(3, 2, seed=2)},),
    ),
]
