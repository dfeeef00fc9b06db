"""Trains SAC to swing a pendulum up, and draws the returns of its episodes and the temperature."""

import torch

from ...demonstration import Environments, Memory, arguments, save_curves, train
from . import SACAgent, SquashedGaussianPolicy, TwinQNetwork

RANDOM = 400  # steps before anything is learned


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.sac`: arguments as those of `impl.demonstration.arguments`; a step is one of the world."""
    chosen = arguments("sac", "SAC on Pendulum-v1.", 5000, given)
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    world, memory = Environments("Pendulum-v1", 1, chosen.seed), Memory(20_000)
    policy, q = SquashedGaussianPolicy(3, 1, 64, low=-2.0, high=2.0), TwinQNetwork(3, 1, 64)
    agent = SACAgent(policy, q, lr=2e-3, tau=0.01)

    def step():
        observation = torch.tensor(world.observations[0], dtype=torch.float32)
        if len(memory) < RANDOM:
            action = 4 * torch.rand(1, generator=generator) - 2
        else:
            action = agent.act(observation[None], generator=generator)[0]
        _, rewards, terminated, _, info = world.step([action.numpy()])
        after = torch.tensor(info["final_obs"][0], dtype=torch.float32)
        memory.add(observation, action, float(rewards[0]), after, bool(terminated[0]))
        if len(memory) >= RANDOM:
            agent.update(memory.sample(128, generator), generator)
        recent = world.returns[-5:]
        return {"return": sum(recent) / max(len(recent), 1), "alpha": agent.alpha}

    parts = {"world": world, "memory": memory, "agent": agent}
    train(step, parts, chosen.steps, generator, chosen.out, every=500)
    curve = world.returns if len(world.returns) > 1 else [0.0, 0.0]
    save_curves({"Pendulum-v1, return of an episode": curve}, chosen.out / "returns.png")
    print(
        f"{chosen.out / 'returns.png'} shows the returns, episode by episode; the temperature is now {agent.alpha:.3f}"
    )


if __name__ == "__main__":
    main()
