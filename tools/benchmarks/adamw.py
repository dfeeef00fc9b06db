"""AdamW next to torch.optim.AdamW."""

import torch

from impl.optim.adamw import AdamW
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


PAIRS = [
    StepPair(item="adamw", name="AdamW, 100 tensors", ours=AdamW, theirs=torch.optim.AdamW, shapes=_shapes),
    StepPair(
        item="adamw",
        name="AdamW, amsgrad",
        ours=lambda p: AdamW(p, amsgrad=True),
        theirs=lambda p: torch.optim.AdamW(p, amsgrad=True),
        shapes=_shapes,
    ),
]
