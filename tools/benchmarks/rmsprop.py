"""RMSprop next to torch.optim.RMSprop."""

import torch

from impl.optim.rmsprop import RMSprop
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


PAIRS = [
    StepPair(item="rmsprop", name="RMSprop, 100 tensors", ours=RMSprop, theirs=torch.optim.RMSprop, shapes=_shapes),
    StepPair(
        item="rmsprop",
        name="RMSprop, centered, momentum",
        ours=lambda p: RMSprop(p, centered=True, momentum=0.9),
        theirs=lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9),
        shapes=_shapes,
    ),
]
