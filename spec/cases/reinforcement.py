"""What the cases of the agents share."""

from impl.layers.reinforcement import ReplayBuffer
from spec.contract import Contract

CASES = []

CONTRACTS = [
    Contract(
        item=item,
        name="ReplayBuffer",
        of=ReplayBuffer,
        calls=({"capacity": 3},),
        ranges={"capacity": "int >= 1"},
        remembers="the latest transitions",
    )
    for item in ("double-dueling-dqn", "sac")
]

SAVED = {
    "state_dict": "() → everything that the agent's next updates depend on",
    "load_state_dict": "takes over what state_dict gave; ValueError for the state of another kind of agent",
}


def perceptron(prefix: str, *sizes: str) -> dict[str, str]:
    """Keys and shapes of the state of linear layers from the first size to the last."""
    return {
        f"{prefix}.layers.{n}.{kind}": shape
        for n, (a, b) in enumerate(zip(sizes, sizes[1:]))
        for kind, shape in (("weight", f"({b}, {a})"), ("bias", f"({b},)"))
    }
