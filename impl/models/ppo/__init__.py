"""PPO: several epochs of gradient steps on one batch of experience, with no reward for moving the policy far.

Schulman et al. 2017, arXiv:1707.06347; the advantages: Schulman et al. 2015, arXiv:1506.02438.

    δ_t = r_t + γ V(s_{t+1}) − V(s_t)                            V(s_{t+1}) = 0 where the episode terminated
    Â_t = δ_t + γλ δ_{t+1} + (γλ)² δ_{t+2} + …                   to the end of the episode       2015, eq. 16
    ρ_t = π(a_t | s_t) / π_old(a_t | s_t)
    L_π = −mean min(ρ_t Â_t, clip(ρ_t, 1 − ε, 1 + ε) Â_t)        2017, eq. 7
    L   = L_π + c₁ L_V − c₂ · entropy                            2017, eq. 9

An episode that was truncated by a time limit has a future: V(s_{t+1}) counts there, and the sum ends all the same.

Convention: losses are to be minimised, so the signs are the paper's turned round. L_V is half the mean squared error to
the returns Â + V_old.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.initialisers import orthogonal_
from ...layers.reinforcement import Agent, Perceptron, clip_gradients
from ...optim.adamw import AdamW

__all__ = [
    "ActorCritic",
    "PPOAgent",
    "Rollout",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "generalized_advantage_estimate",
]

Steps = Float[Tensor, "t n"]
Flags = Bool[Tensor, "t n"]


def generalized_advantage_estimate(
    rewards: Steps, values: Steps, next_values: Steps, terminated: Flags, truncated: Flags, gamma: float, lam: float
) -> Steps:
    """Â of T steps of n environments, outside of the graph.

    Args:
        rewards, values: r_t and V(s_t).
        next_values: V(s_{t+1}) of the state that the step led to: where an episode ended, its own last state and not
            the first of the next episode.
        terminated: the episode ended in the environment's own way: there is no future.
        truncated: it was cut off: there is one.
        gamma, lam: γ and λ, in [0, 1].

    Raises:
        ValueError: γ or λ out of range, or tensors of different shapes.

    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16.
    """
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"expected gamma and lam in [0, 1], got {gamma} and {lam}")
    shapes = {tuple(x.shape) for x in (rewards, values, next_values, terminated, truncated)}
    if len(shapes) > 1:
        raise ValueError(f"expected tensors of one shape, got {sorted(shapes)}")
    with torch.no_grad():
        delta = rewards + gamma * torch.where(terminated, 0, next_values) - values
        goes_on = torch.where(terminated | truncated, 0, torch.full_like(delta, gamma * lam))
        found, after = [], torch.zeros_like(rewards[0])
        for d, g in zip(delta.flip(0), goes_on.flip(0)):
            after = d + g * after
            found.append(after)
        return torch.stack(found[::-1])


def clipped_surrogate_loss(
    log_probs: Float[Tensor, " n"],
    old_log_probs: Float[Tensor, " n"],
    advantages: Float[Tensor, " n"],
    clip: float = 0.2,
) -> Float[Tensor, ""]:
    """−mean min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â).

    Args:
        log_probs, old_log_probs: ln π(a | s) of the policy that learns, and of the one that acted.
        clip: ε >= 0.

    Raises:
        ValueError: a negative or not finite ε.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    _check_clip(clip)
    ratio = (log_probs - old_log_probs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def clipped_value_loss(
    values: Float[Tensor, " n"],
    returns: Float[Tensor, " n"],
    old_values: Float[Tensor, " n"],
    clip: float | None = None,
) -> Float[Tensor, ""]:
    """Half the mean squared error; with `clip`, of each sample the larger of that and of the error near the old value.

    Args:
        values, returns, old_values: V(s), what it should be, and V_old(s).
        clip: ε: the value that is near moves from the old one by ε at most.

    Raises:
        ValueError: a negative or not finite ε.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9, L^VF; the clip: the authors' code.
    """
    errors = (values - returns).square()
    if clip is not None:
        _check_clip(clip)
        near = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns).square())
    return errors.mean() / 2


def _check_clip(clip):
    if not 0 <= clip < math.inf:
        raise ValueError(f"expected a finite clip >= 0, got {clip}")


class ActorCritic(nn.Module):
    """A policy and a value, each a network of its own with two hidden layers of tanh.

    Args:
        observations: numbers of an observation.
        actions: number of actions to choose from; of continuous actions, their dimensions.
        hidden: width of the hidden layers.
        continuous: if False, π is a softmax of logits; if True, a Gaussian whose mean is the network's and whose
            spread e^log_std is learned, the same in every state.

    Raises:
        ValueError: a size below 1; observations of another width.

    Source: Schulman et al. 2017, arXiv:1707.06347, §6.1.  Weights are orthogonal at first, with gain √2, the policy's
    last with 0.01 and the value's with 1; biases and log_std are 0: the authors' code.
    """

    def __init__(self, observations: int, actions: int, hidden: int = 64, continuous: bool = False):
        super().__init__()
        self.policy = Perceptron((observations, hidden, hidden, actions), "tanh")
        self.value = Perceptron((observations, hidden, hidden, 1), "tanh")
        self.log_std = nn.Parameter(torch.zeros(actions)) if continuous else None
        for network, last in ((self.policy, 0.01), (self.value, 1.0)):
            for layer in network.layers:
                orthogonal_(layer.weight, math.sqrt(2))
                layer.bias.data.zero_()
            network.layers[-1].weight.data.mul_(last / math.sqrt(2))

    def sample(self, observations: Float[Tensor, "*n o"], generator: Generator | None = None) -> Shaped[Tensor, "..."]:
        """Actions of the policy: integers (…), or numbers (…, actions)."""
        with torch.no_grad():
            out = self.policy(observations)
            if self.log_std is not None:
                return out + self.log_std.exp() * torch.randn(out.shape, generator=generator).to(out)
            p = out.softmax(-1).flatten(0, -2)
            return torch.multinomial(p, 1, generator=generator)[:, 0].reshape(out.shape[:-1])

    def best(self, observations: Float[Tensor, "*n o"]) -> Shaped[Tensor, "..."]:
        """The most probable actions."""
        out = self.policy(observations)
        return out if self.log_std is not None else out.argmax(-1)

    def log_prob_and_entropy(
        self, observations: Float[Tensor, "*n o"], actions: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """ln π(a | s), in several dimensions the sum over them, and the entropy of π(· | s)."""
        out = self.policy(observations)
        if self.log_std is None:
            log_p = out.log_softmax(-1)
            return log_p.gather(-1, actions[..., None])[..., 0], -(log_p.exp() * log_p).sum(-1)
        z = (actions - out) / self.log_std.exp()
        constant = self.log_std + math.log(2 * math.pi) / 2
        return -(z.square() / 2 + constant).sum(-1), (constant + 0.5).sum().expand(out.shape[:-1])

    def forward(self, observations: Float[Tensor, "*n o"]) -> Float[Tensor, "*n"]:
        """V(s)."""
        return self.value(observations)[..., 0]


@dataclass(frozen=True)
class Rollout:
    """T steps of n environments, (T, n, …) each: what `PPOAgent.collect` gives and `PPOAgent.update` learns from."""

    observations: Float[Tensor, "t n o"]
    actions: Shaped[Tensor, "t n ..."]
    log_probs: Steps
    rewards: Steps
    values: Steps
    next_values: Steps
    terminated: Flags
    truncated: Flags


class PPOAgent(Agent):
    """Collects experience and learns from it.

    Args:
        actor_critic: the policy and the value, e.g. an `ActorCritic`.
        lr: learning rate of Adam; ε of Adam is 10⁻⁵.
        gamma, lam: γ and λ of the advantages.
        clip: ε of the surrogate.
        epochs: passes over a rollout.
        minibatch_size: samples of a gradient step, at most.
        value_weight, entropy_weight: c₁ and c₂.
        value_clip: ε of the value's loss; None for no clip.
        max_grad_norm: gradients of a larger norm, over all parameters, are scaled down to it.
        normalize_advantages: if True, each minibatch's advantages have mean 0 and variance 1.

    Raises:
        ValueError: epochs or minibatch_size below 1.

    Source: Schulman et al. 2017, arXiv:1707.06347, algorithm 1 and table 3.
    """

    def __init__(
        self,
        actor_critic: nn.Module,
        lr: float = 3e-4,
        gamma: float = 0.99,
        lam: float = 0.95,
        clip: float = 0.2,
        epochs: int = 10,
        minibatch_size: int = 64,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        value_clip: float | None = None,
        max_grad_norm: float = 0.5,
        normalize_advantages: bool = True,
    ):
        check_sizes(epochs=epochs, minibatch_size=minibatch_size)
        self.actor_critic, self.lr, self.gamma, self.lam, self.clip = actor_critic, lr, gamma, lam, clip
        self.epochs, self.minibatch_size, self.max_grad_norm = epochs, minibatch_size, max_grad_norm
        self.value_weight, self.entropy_weight, self.value_clip = value_weight, entropy_weight, value_clip
        self.normalize_advantages = normalize_advantages
        self.optimizer = AdamW(actor_critic.parameters(), lr=lr, eps=1e-5, weight_decay=0.0)
        self.parts, self.counters = {"actor_critic": actor_critic, "optimizer": self.optimizer}, {}

    @torch.no_grad()
    def collect(self, environments, observations: Tensor, steps: int, generator: Generator | None = None):
        """Acts for some steps.

        Args:
            environments: as gymnasium.vector's: `step(actions)` gives observations, rewards, terminated, truncated and
                a dictionary, in which "final_obs" has the last observation of each episode that ended, for the
                observation itself is then the first of the next one (autoreset mode SAME_STEP).
            steps: T, of each environment.
            observations: (n, o), the ones that the environments are at.

        Returns:
            The rollout, and the observations that the environments are at afterwards.
        """
        rows = []
        for _ in range(steps):
            actions = self.actor_critic.sample(observations, generator)
            after, rewards, terminated, truncated, info = environments.step(actions.numpy())
            after, led_to = _floats(after), _floats(after)
            for n in (torch.as_tensor(terminated) | torch.as_tensor(truncated)).nonzero()[:, 0].tolist():
                led_to[n] = _floats(info["final_obs"][n])
            log_probs, _ = self.actor_critic.log_prob_and_entropy(observations, actions)
            values, next_values = self.actor_critic(observations), self.actor_critic(led_to)
            ends = (torch.as_tensor(flags, dtype=torch.bool) for flags in (terminated, truncated))
            rows.append((observations, actions, log_probs, _floats(rewards), values, next_values, *ends))
            observations = after
        return Rollout(*(torch.stack(column) for column in zip(*rows))), observations

    def update(self, rollout: Rollout, remaining: float = 1.0, generator: Generator | None = None) -> dict[str, float]:
        """Learns from a rollout.

        Args:
            remaining: the share of training that is left; the learning rate is multiplied by it.

        Returns:
            Means over the gradient steps: "policy", "value" and "entropy", and "kl", an estimate of how far the policy
            moved: mean (ρ − 1 − ln ρ).
        """
        r = rollout
        advantages = generalized_advantage_estimate(
            r.rewards, r.values, r.next_values, r.terminated, r.truncated, self.gamma, self.lam
        )
        samples = [x.flatten(0, 1) for x in (r.observations, r.actions, r.log_probs, r.values, advantages)]
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * remaining
        found = []
        for _ in range(self.epochs):
            for rows in torch.randperm(advantages.numel(), generator=generator).split(self.minibatch_size):
                found.append(self._step(*(column[rows] for column in samples)))
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def _step(self, observations, actions, old_log_probs, old_values, advantages):
        """One gradient step."""
        returns = advantages + old_values
        if self.normalize_advantages and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_probs, entropy = self.actor_critic.log_prob_and_entropy(observations, actions)
        policy = clipped_surrogate_loss(log_probs, old_log_probs, advantages, self.clip)
        value = clipped_value_loss(self.actor_critic(observations), returns, old_values, self.value_clip)
        self.optimizer.zero_grad()
        (policy + self.value_weight * value - self.entropy_weight * entropy.mean()).backward()
        clip_gradients(self.actor_critic.parameters(), self.max_grad_norm)
        self.optimizer.step()
        moved = (log_probs - old_log_probs).detach()
        kl = (moved.exp() - 1 - moved).mean()
        return {"policy": policy.item(), "value": value.item(), "entropy": entropy.mean().item(), "kl": kl.item()}


def _floats(x) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)
