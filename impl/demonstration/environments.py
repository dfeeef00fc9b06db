"""Environments that go into a checkpoint, and a memory that does."""

import json

from ..layers.reinforcement import ReplayBuffer


class Environments:
    """Copies of one of gymnasium's classic control environments that run side by side, stop and go on.

    `step` is that of gymnasium.vector in the mode SAME_STEP: where an episode ends, the observation is the first of the
    next one and `info["final_obs"]` has its last. The state goes into a checkpoint, which gymnasium's own does not.

    Args:
        name: "CartPole-v1", "Pendulum-v1", …
        count: of copies.
        seed: of their first states.

    Attributes:
        observations: (count, o), what the environments are at.
        returns: of every episode that has ended, in order.
    """

    def __init__(self, name: str, count: int, seed: int):
        try:
            import gymnasium
            import numpy
        except ImportError:
            raise SystemExit("the environments come with gymnasium: pip install '.[demos]'") from None
        self.all = [gymnasium.make(name) for _ in range(count)]
        self.observations = numpy.stack([e.reset(seed=seed + k)[0] for k, e in enumerate(self.all)])
        self.returns, self.running = [], [0.0] * count

    def step(self, actions):
        """Observations, rewards, terminated, truncated, and a dictionary with "final_obs"; one row for each copy."""
        import numpy

        rows = [e.step(action) for e, action in zip(self.all, actions)]
        final = numpy.stack([row[0] for row in rows])
        self.observations = final.copy()
        for k, (_, reward, terminated, truncated, _) in enumerate(rows):
            self.running[k] += float(reward)
            if terminated or truncated:
                self.returns.append(self.running[k])
                self.running[k], self.observations[k] = 0.0, self.all[k].reset()[0]
        rewards, terminated, truncated = ([row[k] for row in rows] for k in (1, 2, 3))
        return self.observations, rewards, terminated, truncated, {"final_obs": final}

    def state_dict(self) -> dict:
        """Everything that the next steps depend on, as plain numbers."""
        copies = []
        for e, seen in zip(self.all, self.observations):
            copies.append(
                {
                    "state": [float(x) for x in e.unwrapped.state],
                    "seen": [float(x) for x in seen],
                    "elapsed": int(e.get_wrapper_attr("_elapsed_steps")),
                    "random": json.dumps(e.unwrapped.np_random.bit_generator.state),  # has integers of 128 bits
                }
            )
        return {"copies": copies, "returns": list(self.returns), "running": list(self.running)}

    def load_state_dict(self, saved: dict) -> None:
        """Goes on where `state_dict` was taken."""
        import numpy

        self.returns, self.running = list(saved["returns"]), list(saved["running"])
        for k, (e, copy) in enumerate(zip(self.all, saved["copies"])):
            e.reset()
            e.unwrapped.np_random.bit_generator.state = json.loads(copy["random"])
            e.unwrapped.state = numpy.array(copy["state"])
            e.set_wrapper_attr("_elapsed_steps", copy["elapsed"])
            self.observations[k] = copy["seen"]


class Memory(ReplayBuffer):
    """A replay buffer that goes into a checkpoint."""

    def state_dict(self) -> dict:
        return {"count": self.count, "columns": list(self.columns)}

    def load_state_dict(self, saved: dict) -> None:
        self.count, self.columns = saved["count"], tuple(column.clone() for column in saved["columns"])
