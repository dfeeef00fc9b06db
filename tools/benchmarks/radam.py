"""RAdam next to torch.optim.RAdam."""

import torch

from impl.optim.radam import RAdam
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


PAIRS = [
    StepPair(item="radam", name="RAdam, 100 tensors", ours=RAdam, theirs=torch.optim.RAdam, shapes=_shapes),
    StepPair(
        item="radam",
        name="RAdam, decoupled decay",
        ours=lambda p: RAdam(p, weight_decay=0.01, decoupled_weight_decay=True),
        theirs=lambda p: torch.optim.RAdam(p, weight_decay=0.01, decoupled_weight_decay=True),
        shapes=_shapes,
    ),
]
