"""Double dueling DQN: values of actions by a network, from a memory, with three repairs of Q-learning.

Mnih et al. 2015, Nature 518 (memory, target network); van Hasselt, Guez & Silver 2015, arXiv:1509.06461 (double);
Wang et al. 2015, arXiv:1511.06581 (dueling).

    Q(s, a) = V(s) + A(s, a) − mean_a′ A(s, a′)                        Wang, eq. 9: V is the mean over actions
    y = r + γ Q̄(s′, argmax_a Q(s′, a))                                 van Hasselt, eq. 4: one chooses, the other values
    L = mean h(Q(s, a) − y),   h(x) = x²/2 for |x| <= 1, else |x| − ½   Mnih, Methods: errors clipped to ±1
    Q̄ ← Q every C updates

There is no future after a terminated step; after one that was cut off by a time limit there is.

Convention: between equal values the first action is chosen. With a probability ε an action is drawn uniformly, the best
one included.
"""

import copy
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.linear import Linear
from ...layers.reinforcement import Agent, Perceptron, ReplayBuffer, clip_gradients, move_towards
from ...optim.adamw import AdamW

__all__ = ["DQNAgent", "DuelingQNetwork", "ReplayBuffer", "double_q_target", "epsilon_schedule", "huber_loss"]

Values = Float[Tensor, "n a"]
Batch = tuple[Float[Tensor, "n o"], Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "n o"], Bool[Tensor, " n"]]


class DuelingQNetwork(nn.Module):
    """Values of all actions: features of the state, and of them a value and an advantage for each action.

    Args:
        observations: numbers of an observation.
        actions: number of actions.
        hidden: width of the features, and of the hidden layer of both streams.
        rescale: if True, the gradient that both streams give to the features is multiplied by 1/√2.

    Raises:
        ValueError: a size below 1; observations of another width.

    Source: Wang et al. 2015, arXiv:1511.06581, eq. 9, and §4.2 for the rescaling.
    """

    def __init__(self, observations: int, actions: int, hidden: int = 128, rescale: bool = False):
        super().__init__()
        check_sizes(observations=observations, actions=actions, hidden=hidden)
        self.features = Linear(observations, hidden)
        self.value, self.advantage = Perceptron((hidden, hidden, 1)), Perceptron((hidden, hidden, actions))
        self.rescale = rescale

    def forward(self, observations: Float[Tensor, "*n o"]) -> Float[Tensor, "*n a"]:
        x = self.features(observations).relu()
        if self.rescale:
            share = math.sqrt(0.5)
            x = share * x + ((1 - share) * x).detach()
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(-1, keepdim=True)


def double_q_target(
    rewards: Float[Tensor, " n"], choosing: Values, valuing: Values, terminated: Bool[Tensor, " n"], gamma: float
) -> Float[Tensor, " n"]:
    """y = r + γ Q̄(s′, argmax_a Q(s′, a)), outside of the graph; r where the step terminated.

    Args:
        choosing: Q(s′, ·) of the network that learns.
        valuing: Q̄(s′, ·) of the target network.
        gamma: γ, in [0, 1].

    Raises:
        ValueError: γ out of range, or values of different shapes.

    Source: van Hasselt, Guez & Silver 2015, arXiv:1509.06461, eq. 4.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"expected gamma in [0, 1], got {gamma}")
    if choosing.shape != valuing.shape or not choosing.shape[1]:
        raise ValueError(f"expected values of one shape, got {tuple(choosing.shape)} and {tuple(valuing.shape)}")
    with torch.no_grad():
        best = choosing.argmax(1, keepdim=True)
        return rewards + gamma * torch.where(terminated, 0, valuing.gather(1, best)[:, 0])


def huber_loss(errors: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The mean of x²/2 for |x| <= 1 and of |x| − ½ beyond: the gradient of an error is cut at ±1.

    Source: Mnih et al. 2015, Nature 518, Methods, "Training details".
    """
    size = errors.abs()
    return torch.where(size <= 1, errors.square() / 2, size - 0.5).mean()


def epsilon_schedule(step: int, steps: int, first: float = 1.0, last: float = 0.05) -> float:
    """ε at a step: from the first to the last in equal parts over so many steps, then the last.

    Raises:
        ValueError: fewer than one step in all, a negative step, or an ε outside [0, 1].

    Source: Mnih et al. 2015, Nature 518, Methods, "Training details".
    """
    check_sizes(steps=steps)
    if step < 0 or not (0 <= first <= 1 and 0 <= last <= 1):
        raise ValueError(f"expected a step >= 0 and ε in [0, 1], got {step}, {first} and {last}")
    return first + (last - first) * min(step / steps, 1.0)


class DQNAgent(Agent):
    """Acts, and learns from batches of experience.

    Args:
        q: a `DuelingQNetwork`, or whatever gives (n, actions) values of (n, o) observations.
        lr: learning rate of Adam.
        gamma: γ, in [0, 1].
        target_every: C, updates between two copies to the target network.
        tau: share of the way that a copy goes, in [0, 1]; 1 is the whole.
        max_grad_norm: gradients of a larger norm, over all parameters, are scaled down to it.
        double: if False, the target network chooses as well: plain DQN.

    Raises:
        ValueError: γ or τ out of range, or target_every below 1.

    Source: van Hasselt, Guez & Silver 2015, arXiv:1509.06461; the norm of 10: Wang et al. 2015, §4.2.
    """

    def __init__(
        self,
        q: nn.Module,
        lr: float = 1e-3,
        gamma: float = 0.99,
        target_every: int = 250,
        tau: float = 1.0,
        max_grad_norm: float = 10.0,
        double: bool = True,
    ):
        check_sizes(target_every=target_every)
        if not (0 <= gamma <= 1 and 0 <= tau <= 1):
            raise ValueError(f"expected gamma and tau in [0, 1], got {gamma} and {tau}")
        self.q, self.gamma, self.target_every, self.tau = q, gamma, target_every, tau
        self.max_grad_norm, self.double, self.updates = max_grad_norm, double, torch.tensor(0)
        self.target_q = copy.deepcopy(q).requires_grad_(False)
        self.optimizer = AdamW(q.parameters(), lr=lr, weight_decay=0.0)
        self.parts = {"q": q, "target_q": self.target_q, "optimizer": self.optimizer}
        self.counters = {"updates": self.updates}

    @torch.no_grad()
    def act(
        self, observations: Float[Tensor, "n o"], epsilon: float = 0.0, generator: Generator | None = None
    ) -> Int[Tensor, " n"]:
        """The action of the highest value, or with a probability ε one drawn uniformly."""
        if not 0 <= epsilon <= 1:
            raise ValueError(f"expected epsilon in [0, 1], got {epsilon}")
        values = self.q(observations)
        drawn = torch.randint(values.shape[1], (len(values),), generator=generator)
        explores = torch.rand(len(values), generator=generator) < epsilon
        return torch.where(explores, drawn, values.argmax(1))

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """L of (observations, actions, rewards, next observations, terminated)."""
        observations, actions, rewards, next_observations, terminated = batch
        with torch.no_grad():
            valuing = self.target_q(next_observations)
            choosing = self.q(next_observations) if self.double else valuing
        y = double_q_target(rewards, choosing, valuing, terminated, self.gamma)
        return huber_loss(self.q(observations).gather(1, actions[:, None])[:, 0] - y)

    def update(self, batch: Batch) -> float:
        """One step along the gradient of L, and every C updates a copy to the target network.

        Args:
            batch: observations, actions, rewards, next observations, terminated, as `ReplayBuffer.sample` gives them.

        Returns:
            The loss before the step.
        """
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        clip_gradients(self.q.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.target_every == 0:
            move_towards(self.target_q, self.q, self.tau)
        return loss.item()
