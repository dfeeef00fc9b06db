"""Golden values of PPO."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "ppo",
    oracle="torchrl's generalized_advantage_estimate; without truncation stable_baselines3's RolloutBuffer",
    second="sums by definition in NumPy",
    needs=("stable-baselines3", "torch", "torchrl"),
)
def ppo(recipe: Recipe) -> None:
    """Advantages of seven steps of three environments, with episodes that terminate and that are truncated."""
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    draw = np.random.default_rng(0)
    rewards, values, next_values = (recipe.given(name, draw.integers(-32, 32, (7, 3)) / 16) for name in NAMES)
    terminated = recipe.given("terminated", draw.random((7, 3)) < 0.2)
    truncated = recipe.given("truncated", (draw.random((7, 3)) < 0.25) & ~terminated)

    def columns(x):
        return torch.from_numpy(x.T.copy())[..., None]  # torchrl: (environments, time, 1)

    found, _ = generalized_advantage_estimate(
        0.9,
        0.8,
        columns(values),
        columns(next_values),
        columns(rewards),
        columns(terminated | truncated),
        columns(terminated),
    )
    recipe.expect("advantages", found[..., 0].T, second=_sums(rewards, values, next_values, terminated, truncated))

    path = recipe.given("path", draw.integers(-32, 32, (8, 3)) / 16)
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(7, box, spaces.Discrete(2), gae_lambda=0.8, gamma=0.9, n_envs=3)
    starts = np.concatenate([np.zeros((1, 3)), terminated[:-1]])
    for t in range(7):
        zero = torch.zeros(3)
        buffer.add(np.zeros((3, 1)), np.zeros((3, 1)), rewards[t], starts[t], torch.from_numpy(path[t]), zero)
    buffer.compute_returns_and_advantage(torch.from_numpy(path[7]), terminated[6].astype(float))
    none = np.zeros_like(terminated)
    recipe.expect("untruncated", buffer.advantages, second=_sums(rewards, path[:-1], path[1:], terminated, none))


NAMES = ("rewards", "values", "next_values")


def _sums(rewards, values, next_values, terminated, truncated):
    found = np.zeros_like(rewards)
    for t, n in np.ndindex(*rewards.shape):
        for k in range(t, len(rewards)):
            delta = rewards[k, n] + 0.9 * next_values[k, n] * (not terminated[k, n]) - values[k, n]
            found[t, n] += 0.72 ** (k - t) * delta
            if terminated[k, n] or truncated[k, n]:
                break
    return found
