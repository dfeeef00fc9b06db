"""Trains double dueling DQN to balance a pole, and draws the returns of its episodes."""

import torch

from ...demonstration import Environments, Memory, arguments, save_curves, train
from . import DQNAgent, DuelingQNetwork, epsilon_schedule


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.dqn`: arguments as those of `impl.demonstration.arguments`; a step is one of the world."""
    chosen = arguments("dqn", "Double dueling DQN on CartPole-v1.", 12000, given)
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    world, memory = Environments("CartPole-v1", 1, chosen.seed), Memory(20_000)
    agent = DQNAgent(DuelingQNetwork(4, 2, 64), lr=1e-3)

    def step():
        seen = memory.count
        observation = torch.tensor(world.observations[0], dtype=torch.float32)
        action = agent.act(observation[None], epsilon_schedule(seen, 5000), generator)[0]
        _, rewards, terminated, _, info = world.step([action.item()])
        after = torch.tensor(info["final_obs"][0], dtype=torch.float32)
        memory.add(observation, action, float(rewards[0]), after, bool(terminated[0]))
        if seen >= 500 and seen % 2 == 0:
            agent.update(memory.sample(64, generator))
        recent = world.returns[-10:]
        return {"return": sum(recent) / max(len(recent), 1)}

    parts = {"world": world, "memory": memory, "agent": agent}
    train(step, parts, chosen.steps, generator, chosen.out, every=1000)
    curve = world.returns if len(world.returns) > 1 else [0.0, 0.0]
    save_curves({"CartPole-v1, return of an episode": curve}, chosen.out / "returns.png")
    print(f"{chosen.out / 'returns.png'} shows the returns, episode by episode")


if __name__ == "__main__":
    main()
