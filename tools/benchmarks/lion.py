"""Lion next to AdamW of torch.optim, which has no Lion: one state tensor and no root against two and one."""

import torch

from impl.optim.lion import Lion
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


PAIRS = [
    StepPair(item="lion", name="Lion next to AdamW", ours=Lion, theirs=torch.optim.AdamW, shapes=_shapes),
]
