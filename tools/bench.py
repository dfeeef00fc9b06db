"""Times our layers and optimizers beside the library's."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Ours and the library's of one thing, run on the same inputs.

    Attributes:
        item: the roadmap id.
        name: what is shown.
        ours, theirs: make the callable; both are given the same parameters where they have some.
        inputs: make the inputs; floating ones get gradients.
    """

    item: str
    name: str
    ours: Callable[[], Callable]
    theirs: Callable[[], Callable]
    inputs: Callable[[], tuple]


@dataclass(frozen=True)
class StepPair:
    """An optimizer and the library's, stepping over the same parameters with the same gradients.

    Attributes:
        ours, theirs: make the optimizer for a list of parameters.
        shapes: of the parameters.
    """

    item: str
    name: str
    ours: Callable[[list], object]
    theirs: Callable[[list], object]
    shapes: Callable[[], list[tuple[int, ...]]]
