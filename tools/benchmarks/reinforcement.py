"""What agents compute, next to the same of torch's own functions."""

import torch
from torch import distributions, nn

from impl.models.dqn import DuelingQNetwork, double_q_target, huber_loss
from impl.models.ppo import ActorCritic, clipped_surrogate_loss
from impl.models.sac import squashed_log_prob
from tools.bench import Pair


class _Judged(nn.Module):
    """The surrogate of a batch of observations."""

    def __init__(self):
        super().__init__()
        self.model = ActorCritic(8, 4)

    def forward(self, observations, actions, old, advantages):
        log_probs, entropy = self.model.log_prob_and_entropy(observations, actions)
        return clipped_surrogate_loss(log_probs, old, advantages) - 0.01 * entropy.mean()


class _Library(nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))

    def forward(self, observations, actions, old, advantages):
        policy = distributions.Categorical(logits=self.policy(observations))
        ratio = (policy.log_prob(actions) - old).exp()
        clipped = torch.clamp(ratio, 0.8, 1.2)
        return -torch.min(ratio * advantages, clipped * advantages).mean() - 0.01 * policy.entropy().mean()


def _squashed(u, mean, log_std):
    """torch.distributions' density of a tanh of a normal, by its change of variables."""
    normal = distributions.Normal(mean, log_std.exp(), validate_args=False)
    squash = distributions.TanhTransform()
    return (normal.log_prob(u) - squash.log_abs_det_jacobian(u, u.tanh())).sum(-1)


class _Double(nn.Module):
    """The loss of a batch with the same network in both roles."""

    def __init__(self):
        super().__init__()
        self.q = DuelingQNetwork(8, 6, 64)

    def forward(self, observations, following, rewards):
        after = self.q(following).detach()
        y = double_q_target(rewards, after, after, torch.zeros(len(rewards), dtype=torch.bool), 0.99)
        return huber_loss(self.q(observations)[:, 0] - y)


class _LibraryDouble(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(8, 64)
        self.value, self.advantage = (nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, out)) for out in (1, 6))

    def q(self, observations):
        x = self.features(observations).relu()
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)

    def forward(self, observations, following, rewards):
        after = self.q(following).detach()
        y = rewards + 0.99 * after.gather(1, after.argmax(1, keepdim=True))[:, 0]
        return nn.functional.smooth_l1_loss(self.q(observations)[:, 0], y)


PAIRS = [
    Pair(
        item="ppo",
        name="surrogate, 2,048 samples",
        ours=_Judged,
        theirs=_Library,
        inputs=lambda: (
            torch.randn(2048, 8),
            torch.randint(4, (2048,)),
            torch.randn(2048) / 4 - 1.4,
            torch.randn(2048),
        ),
    ),
    Pair(
        item="sac",
        name="squashed density, 65,536 actions",
        ours=lambda: squashed_log_prob,
        theirs=lambda: _squashed,
        inputs=lambda: tuple(torch.randn(65536, 4) for _ in range(3)),
    ),
    Pair(
        item="double-dueling-dqn",
        name="loss, 2,048 samples",
        ours=_Double,
        theirs=_LibraryDouble,
        inputs=lambda: (torch.randn(2048, 8), torch.randn(2048, 8), torch.randn(2048)),
    ),
]
