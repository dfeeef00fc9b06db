"""Lookahead next to pytorch_optimizer's, over the same inner optimizers of torch."""

import torch

from impl.optim.lookahead import Lookahead
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


def _theirs(inner):
    from pytorch_optimizer import Lookahead as Theirs

    return Theirs(inner, k=2, alpha=0.5)


PAIRS = [
    StepPair(
        item="lookahead",
        name="Lookahead over SGD",
        ours=lambda p: Lookahead(torch.optim.SGD(p, lr=1e-3, momentum=0.9, foreach=True), k=2),
        theirs=lambda p: _theirs(torch.optim.SGD(p, lr=1e-3, momentum=0.9, foreach=True)),
        shapes=_shapes,
    ),
    StepPair(
        item="lookahead",
        name="Lookahead over AdamW",
        ours=lambda p: Lookahead(torch.optim.AdamW(p, foreach=True), k=2),
        theirs=lambda p: _theirs(torch.optim.AdamW(p, foreach=True)),
        shapes=_shapes,
    ),
]
