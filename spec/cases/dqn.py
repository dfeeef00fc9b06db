"""Cases of double dueling DQN."""

import torch

from impl.models.dqn import DQNAgent, DuelingQNetwork, double_q_target, epsilon_schedule, huber_loss
from spec.cases import Bad, Case
from spec.cases.reinforcement import SAVED, perceptron
from spec.contract import Contract, Fresh
from spec.laws import random, reseed

ITEM = "double-dueling-dqn"
TERMINATED = torch.tensor([False, True, False, False])


def network(**options):
    reseed(0)
    return DuelingQNetwork(**{"observations": 3, "actions": 4, "hidden": 5} | options)


def agent(**options):
    return DQNAgent(network(), **options)


def batch(n=6):
    """Observations, actions, rewards, next observations, and which steps terminated."""
    actions = torch.randint(4, (n,), generator=torch.Generator().manual_seed(1))
    return random(n, 3), actions, 2 * random(n, seed=2), random(n, 3, seed=3), random(n, seed=4) > 0.5


def target(gamma=0.9, choosing=None, valuing=None):
    choosing, valuing = (random(4, 3) if x is None else x for x in (choosing, valuing))
    return double_q_target(random(4), choosing, valuing, TERMINATED, gamma)


_BAD = {
    "gamma above 1": Bad(call=lambda: target(1.1), mentions=("1.1",)),
    "values of two shapes": Bad(call=lambda: target(valuing=random(4, 2)), mentions=("(4, 3)", "(4, 2)")),
    "no action": Bad(call=lambda: target(choosing=random(4, 0), valuing=random(4, 0)), mentions=("(4, 0)",)),
    "observations of another width": Bad(call=lambda: network()(random(2, 4)), mentions=("3", "4")),
    "epsilon above 1": Bad(call=lambda: agent().act(random(2, 3), 1.1), mentions=("1.1",)),
    "a step before the first": Bad(call=lambda: epsilon_schedule(-1, 5), mentions=("-1",)),
    "an epsilon below 0": Bad(call=lambda: epsilon_schedule(1, 5, last=-0.1), mentions=("-0.1",)),
}

CASES = [
    Case(item=ITEM, name="DuelingQNetwork", build=network, inputs=lambda: (random(2, 3),), bad=_BAD),
    Case(
        item=ITEM,
        name="DuelingQNetwork, rescaled gradient",
        build=lambda: network(rescale=True),
        inputs=lambda: (random(2, 3),),
        exempt={
            "gradient_correct": "the gradient to the features is 1/√2 of the true one by design; a spec says so",
        },
    ),
    Case(
        item=ITEM,
        name="double_q_target",
        build=lambda: double_q_target,
        inputs=lambda: (random(4), random(4, 3, seed=1), random(4, 3, seed=2), TERMINATED, 0.9),
        is_function=True,
        exempt={"gradient_correct": "targets are outside of the graph; a spec of its own says so"},
    ),
    Case(
        item=ITEM,
        name="huber_loss",
        build=lambda: huber_loss,
        inputs=lambda: (2 * random(7),),
        is_function=True,
        exempt={
            "batch_independent": "a mean over the batch",
            "batch_independent_in_eval": "a mean over the batch",
            "empty_batch_is_defined": "a mean over no error",
        },
    ),
]


CONTRACTS = [
    Contract(
        item=ITEM,
        name="DuelingQNetwork",
        of=DuelingQNetwork,
        calls=({"observations": 3, "actions": 4, "hidden": 5},),
        ranges={"observations": "int >= 1", "actions": "int >= 1", "hidden": "int >= 1"},
        state={"features.weight": "(hidden, observations)", "features.bias": "(hidden,)"}
        | perceptron("value", "hidden", "hidden", "1")
        | perceptron("advantage", "hidden", "hidden", "actions"),
        attributes={
            "features": "the layer of the features, before its ReLU",
            "value": "the network of V, from the features",
            "advantage": "the network of A, likewise",
        },
    ),
    Contract(
        item=ITEM,
        name="DQNAgent",
        of=DQNAgent,
        calls=({"q": Fresh(network)},),
        ranges={"gamma": "[0, 1]", "tau": "[0, 1]", "target_every": "int >= 1"},
        attributes={
            "q": "the values that learn, as they were given",
            "target_q": "their copy",
            "optimizer": "a torch.optim.Optimizer of their parameters",
        }
        | SAVED,
        remembers="how many updates there were",
    ),
    Contract(
        item=ITEM,
        name="double_q_target",
        of=double_q_target,
        calls=(
            {
                "rewards": random(4),
                "choosing": random(4, 3),
                "valuing": random(4, 3),
                "terminated": TERMINATED,
                "gamma": 0.9,
            },
        ),
        ranges={"gamma": "[0, 1]"},
    ),
    Contract(
        item=ITEM,
        name="epsilon_schedule",
        of=epsilon_schedule,
        calls=({"step": 2, "steps": 5},),
        ranges={"step": "int >= 0", "steps": "int >= 1", "first": "[0, 1]", "last": "[0, 1]"},
    ),
    Contract(item=ITEM, name="huber_loss", of=huber_loss, calls=({"errors": random(3)},)),
]
