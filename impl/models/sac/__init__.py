"""SAC: rewards and entropy are maximised together, from experience of any policy.

Haarnoja et al. 2018, arXiv:1801.01290, and 2018, arXiv:1812.05905 (two Qs, the temperature learned).

    u = μ(s) + σ(s) ξ, ξ ~ N(0, 1);   a = tanh(u)                                    1801.01290, appendix C
    ln π(a | s) = Σ_i ln N(u_i; μ_i, σ_i²) − Σ_i ln(1 − tanh² u_i)                    eq. 21
    y   = r + γ (min_j Q̄_j(s′, a′) − α ln π(a′ | s′)),  a′ ~ π(· | s′)               no future after a terminated step
    J_Q = ½ E Σ_j (Q_j(s, a) − y)²                                                    1812.05905, eq. 5 and 6
    J_π = E [α ln π(a | s) − min_j Q_j(s, a)],   a drawn from π with a gradient       eq. 9
    J_α = E [−α (ln π(a | s) + H)]                                                    eq. 18; H the entropy aimed at
    Q̄  ← (1 − τ) Q̄ + τ Q

Convention: actions have bounds, a = centre + scale · tanh(u), and the density is that of a. J_α descends along ln α.
"""

import copy
import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.numerics import softplus
from ...layers.reinforcement import Agent, Perceptron, ReplayBuffer, move_towards
from ...optim.adamw import AdamW

__all__ = ["ReplayBuffer", "SACAgent", "SquashedGaussianPolicy", "TwinQNetwork", "squashed_log_prob"]

Observations = Float[Tensor, "*n o"]
Actions = Float[Tensor, "*n d"]
Batch = tuple[Float[Tensor, "n o"], Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, "n o"], Bool[Tensor, " n"]]


def squashed_log_prob(
    u: Float[Tensor, "*n d"], mean: Float[Tensor, "*n d"], log_std: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n"]:
    """The logarithm of the density of tanh(u) at u ~ N(mean, e^(2 log_std)), the sum over the last dimension.

    ln(1 − tanh² u) = 2 (ln 2 − u − softplus(−2u)), which is finite for every u.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, eq. 21.
    """
    z = (u - mean) * (-log_std).exp()
    normal = -z.square() / 2 - log_std - math.log(2 * math.pi) / 2
    return (normal - 2 * (math.log(2) - u - softplus(-2 * u))).sum(-1)


class SquashedGaussianPolicy(nn.Module):
    """A Gaussian that depends on the state, squashed into bounds.

    Args:
        observations: numbers of an observation.
        actions: dimensions of an action.
        hidden: width of the two hidden layers.
        low, high: bounds of the actions, one for all or one for each dimension.

    Raises:
        ValueError: a size below 1, another number of bounds than actions, a low that is not below its high;
            observations of another width.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: int = 256,
        low: float | Tensor = -1.0,
        high: float | Tensor = 1.0,
    ):
        super().__init__()
        check_sizes(actions=actions)
        self.network = Perceptron((observations, hidden, hidden, 2 * actions))
        low, high = (torch.as_tensor(bound, dtype=torch.float32).reshape(-1) for bound in (low, high))
        if any(len(bound) not in (1, actions) for bound in (low, high)) or not (low < high).all():
            raise ValueError(
                f"expected {actions} bounds or one, low below high, got {low.tolist()} and {high.tolist()}"
            )
        self.register_buffer("centre", ((low + high) / 2).expand(actions).clone())
        self.register_buffer("scale", ((high - low) / 2).expand(actions).clone())

    def forward(self, observations: Observations) -> tuple[Actions, Actions]:
        """μ(s) and ln σ(s), the latter held in [−20, 2]."""
        mean, log_std = self.network(observations).chunk(2, dim=-1)
        return mean, log_std.clamp(-20, 2)

    def sample(
        self, observations: Observations, generator: Generator | None = None
    ) -> tuple[Actions, Float[Tensor, "*n"]]:
        """An action of π, which has a gradient to μ and σ, and its ln π."""
        mean, log_std = self(observations)
        u = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(mean)
        return self.centre + self.scale * u.tanh(), squashed_log_prob(u, mean, log_std) - self.scale.log().sum()

    def best(self, observations: Observations) -> Actions:
        """The action of the mean: centre + scale · tanh(μ(s))."""
        return self.centre + self.scale * self(observations)[0].tanh()


class TwinQNetwork(nn.Module):
    """Two values of an action in a state, of two networks with two hidden layers of ReLU.

    Args:
        observations, actions: numbers of an observation and of an action.
        hidden: width of the hidden layers.

    Raises:
        ValueError: a size below 1; inputs of another width.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, §5.
    """

    def __init__(self, observations: int, actions: int, hidden: int = 256):
        super().__init__()
        check_sizes(observations=observations, actions=actions)
        sizes = observations + actions, hidden, hidden, 1
        self.first, self.second = Perceptron(sizes), Perceptron(sizes)

    def forward(self, observations: Observations, actions: Actions) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        both = torch.cat([observations, actions], dim=-1)
        return self.first(both)[..., 0], self.second(both)[..., 0]


class SACAgent(Agent):
    """Acts, and learns from batches of experience.

    Args:
        policy: a `SquashedGaussianPolicy`.
        q: a `TwinQNetwork`, or whatever gives two values of states and actions.
        lr: learning rate of Adam, for the policy, the Qs and the temperature.
        gamma: γ, in [0, 1].
        tau: τ, in [0, 1].
        alpha: the temperature, > 0: at first, and throughout if it is not learned.
        target_entropy: H; None for −(dimensions of an action).
        learn_alpha: if True, the temperature is learned.

    Raises:
        ValueError: γ or τ out of range, or a temperature that is not above 0.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1.
    """

    def __init__(
        self,
        policy: nn.Module,
        q: nn.Module,
        lr: float = 3e-4,
        gamma: float = 0.99,
        tau: float = 0.005,
        alpha: float = 1.0,
        target_entropy: float | None = None,
        learn_alpha: bool = True,
    ):
        if not (0 <= gamma <= 1 and 0 <= tau <= 1 and 0 < alpha < math.inf):
            raise ValueError(f"expected gamma and tau in [0, 1] and alpha > 0, got {gamma}, {tau} and {alpha}")
        self.policy, self.q, self.gamma, self.tau, self.learn_alpha = policy, q, gamma, tau, learn_alpha
        self.target_q = copy.deepcopy(q).requires_grad_(False)
        self.target_entropy = -float(len(policy.scale)) if target_entropy is None else target_entropy
        self.log_alpha = torch.tensor(math.log(alpha), requires_grad=True)
        parts = {"policy": policy.parameters(), "q": q.parameters(), "alpha": [self.log_alpha]}
        self.optimizers = {name: AdamW(part, lr=lr, weight_decay=0.0) for name, part in parts.items()}
        self.parts = {"policy": policy, "q": q, "target_q": self.target_q}
        self.parts |= {f"optimizer of {name}": optimizer for name, optimizer in self.optimizers.items()}
        self.counters = {"log_alpha": self.log_alpha}

    @property
    def alpha(self) -> float:
        """The temperature."""
        return self.log_alpha.exp().item()

    @torch.no_grad()
    def act(self, observations: Observations, explore: bool = True, generator: Generator | None = None) -> Actions:
        """Actions drawn from the policy, or those of its mean."""
        return self.policy.sample(observations, generator)[0] if explore else self.policy.best(observations)

    @torch.no_grad()
    def targets(
        self,
        rewards: Float[Tensor, " n"],
        next_observations: Float[Tensor, "n o"],
        terminated: Bool[Tensor, " n"],
        generator: Generator | None = None,
    ) -> Float[Tensor, " n"]:
        """y, with actions drawn anew from the policy as it is now."""
        actions, log_probs = self.policy.sample(next_observations, generator)
        soft = torch.minimum(*self.target_q(next_observations, actions)) - self.alpha * log_probs
        return rewards + self.gamma * torch.where(terminated, 0, soft)

    def q_loss(self, batch: Batch, generator: Generator | None = None) -> Float[Tensor, ""]:
        """J_Q of (observations, actions, rewards, next observations, terminated)."""
        observations, actions, rewards, next_observations, terminated = batch
        y = self.targets(rewards, next_observations, terminated, generator)
        return sum((q - y).square().mean() for q in self.q(observations, actions)) / 2

    def policy_loss(
        self, observations: Float[Tensor, "n o"], generator: Generator | None = None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        """J_π, and the ln π of the actions that were drawn for it."""
        actions, log_probs = self.policy.sample(observations, generator)
        return (self.alpha * log_probs - torch.minimum(*self.q(observations, actions))).mean(), log_probs

    def alpha_loss(self, log_probs: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """J_α, whose gradient goes to ln α alone."""
        return -self.log_alpha.exp() * (log_probs.detach() + self.target_entropy).mean()

    def update(self, batch: Batch, generator: Generator | None = None) -> dict[str, float]:
        """One step of the Qs, of the policy, of the temperature and of the target.

        Args:
            batch: observations, actions, rewards, next observations, terminated, as `ReplayBuffer.sample` gives them.

        Returns:
            "q", "policy": the losses; "alpha": the temperature; "entropy": −mean ln π.
        """
        q = self.q_loss(batch, generator)
        self._descend("q", q)
        policy, log_probs = self.policy_loss(batch[0], generator)
        self._descend("policy", policy)
        if self.learn_alpha:
            self._descend("alpha", self.alpha_loss(log_probs))
        move_towards(self.target_q, self.q, self.tau)
        found = {"q": q.item(), "policy": policy.item(), "alpha": self.alpha}
        return found | {"entropy": -log_probs.mean().item()}

    def _descend(self, name, loss):
        """A step along the gradient to the parameters of that name; others get none."""
        (group,) = self.optimizers[name].param_groups
        for parameter, gradient in zip(group["params"], torch.autograd.grad(loss, group["params"]), strict=True):
            parameter.grad = gradient
        self.optimizers[name].step()
