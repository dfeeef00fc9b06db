"""What the agents share: a plain network, a memory of transitions, a slow copy of a network, a state to be saved."""

import copy
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from .checks import check_sizes
from .linear import Linear

__all__ = ["Agent", "Perceptron", "ReplayBuffer", "clip_gradients", "move_towards"]


class Perceptron(nn.Module):
    """Linear layers with ReLU or tanh between them.

    Args:
        sizes: widths from the input to the output, two or more.
        activation: "relu" or "tanh".

    Raises:
        ValueError: fewer than two sizes, one below 1, another activation; an input of another width.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu"):
        super().__init__()
        known = {"relu": torch.relu, "tanh": torch.tanh}
        if len(sizes) < 2 or activation not in known:
            raise ValueError(f"expected two sizes or more and relu or tanh, got {tuple(sizes)} and {activation!r}")
        self.layers = nn.ModuleList(Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.activation = known[activation]

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class ReplayBuffer:
    """The latest transitions, each a tuple of tensors; samples are drawn uniformly, with replacement.

    Args:
        capacity: how many are kept: the oldest gives way to the newest.

    Raises:
        ValueError: a capacity below 1; another number or shape of tensors than before; a sample of an empty buffer, or
            of none.

    Source: Mnih et al. 2015, Nature 518, "Training algorithm for deep Q-networks".
    """

    def __init__(self, capacity: int):
        check_sizes(capacity=capacity)
        self.capacity, self.count, self.columns = capacity, 0, ()

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def add(self, *transition: Tensor | float | bool | int) -> None:
        """Remembers copies of the numbers of one transition."""
        parts = [torch.as_tensor(part) for part in transition]
        if not self.columns:
            self.columns = tuple(part.new_zeros(self.capacity, *part.shape) for part in parts)
        shapes = [tuple(column.shape[1:]) for column in self.columns]
        if shapes != [tuple(part.shape) for part in parts]:
            raise ValueError(f"expected a transition of shapes {shapes}, got {[tuple(part.shape) for part in parts]}")
        for column, part in zip(self.columns, parts):
            column[self.count % self.capacity] = part
        self.count += 1

    def sample(self, size: int, generator: Generator | None = None) -> tuple[Tensor, ...]:
        """Transitions drawn uniformly: each part of them stacked, (size, …)."""
        check_sizes(size=size)
        if not len(self):
            raise ValueError("expected a transition to sample from, got an empty buffer")
        rows = torch.randint(len(self), (size,), generator=generator)
        return tuple(column[rows] for column in self.columns)


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, share: float) -> None:
    """θ′ ← (1 − share) θ′ + share θ for every parameter θ′ of the target; all of it at a share of 1.

    Raises:
        ValueError: a share outside [0, 1].

    Source: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1 (share τ); Mnih et al. 2015 (share 1 every C steps).
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1], got {share}")
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, share)


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scales all gradients down together, so that their norm is `most` or less; 10⁻⁶ is added to it before dividing.

    Source: Pascanu, Mikolov & Bengio 2012, arXiv:1211.5063, algorithm 1.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum(g.square().sum() for g in gradients).sqrt()
    for g in gradients:
        g.mul_((most / (norm + 1e-6)).clamp(max=1))


class Agent:
    """An agent whose state can be saved; loaded into another of the same settings, it goes on as the first would.

    Attributes:
        parts: what it consists of that has a state: networks and optimizers, by name.
        counters: tensors that it changes in place, by name.
    """

    parts: dict[str, nn.Module | torch.optim.Optimizer]
    counters: dict[str, Tensor]

    def state_dict(self) -> dict[str, dict]:
        """The state of every part, and copies of the counters."""
        counters = {name: value.detach().clone() for name, value in self.counters.items()}
        return {name: part.state_dict() for name, part in self.parts.items()} | {"counters": counters}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            ValueError: the state of another kind of agent.
        """
        if set(state) != {*self.parts, "counters"} or set(state["counters"]) != set(self.counters):
            raise ValueError(f"expected the state of {sorted(self.parts)}, got that of {sorted(state)}")
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(state[name]))  # torch's optimizers would share its moments with us
        for name, value in self.counters.items():
            value.data.copy_(state["counters"][name])
