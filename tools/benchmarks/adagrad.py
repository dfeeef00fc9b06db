"""AdaGrad next to torch.optim.Adagrad."""

import torch

from impl.optim.adagrad import Adagrad
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


PAIRS = [
    StepPair(item="adagrad", name="Adagrad, 100 tensors", ours=Adagrad, theirs=torch.optim.Adagrad, shapes=_shapes),
    StepPair(
        item="adagrad",
        name="Adagrad, lr_decay",
        ours=lambda p: Adagrad(p, lr_decay=0.01, weight_decay=0.01),
        theirs=lambda p: torch.optim.Adagrad(p, lr_decay=0.01, weight_decay=0.01),
        shapes=_shapes,
    ),
]
