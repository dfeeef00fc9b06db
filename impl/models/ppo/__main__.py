"""Trains PPO to balance a pole and to swing a pendulum up, and draws the returns of its episodes."""

import torch

from ...demonstration import Environments, arguments, save_curves, train
from . import ActorCritic, PPOAgent


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.ppo`: arguments as of `impl.demonstration.arguments`; a step updates both agents."""
    chosen = arguments("ppo", "PPO on CartPole-v1 and Pendulum-v1.", 90, given)
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    worlds = Environments("CartPole-v1", 8, chosen.seed), Environments("Pendulum-v1", 8, chosen.seed)
    agents = (
        PPOAgent(ActorCritic(4, 2), lr=1e-3, epochs=4, minibatch_size=256, entropy_weight=0.01),
        PPOAgent(ActorCritic(3, 1, continuous=True), lr=1e-3, gamma=0.9, epochs=10, minibatch_size=256),
    )
    parts = {"cartpole": worlds[0], "pendulum": worlds[1], "balancing": agents[0], "swinging": agents[1]}

    def step():
        for world, agent, steps in zip(worlds, agents, (128, 256)):
            observations = torch.tensor(world.observations, dtype=torch.float32)
            rollout, _ = agent.collect(world, observations, steps, generator)
            agent.update(rollout, generator=generator)
        return {name: _mean(world.returns[-20:]) for name, world in zip(("CartPole", "Pendulum"), worlds)}

    train(step, parts, chosen.steps, generator, chosen.out, every=10)
    curves = {}
    for name, world in zip(("CartPole-v1", "Pendulum-v1"), worlds):
        means = [_mean(world.returns[max(k - 19, 0) : k + 1]) for k in range(len(world.returns))]
        curves[f"{name}, mean return of 20 episodes"] = means if len(means) > 1 else [0.0, 0.0]
    save_curves(curves, chosen.out / "returns.png")
    print(f"{chosen.out / 'returns.png'} shows the returns of both, episode by episode")


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


if __name__ == "__main__":
    main()
