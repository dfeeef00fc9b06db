"""SAM's two halves of a step next to pytorch_optimizer's, over the same base optimizer of torch."""

import torch

from impl.optim.sam import SAM
from tools.bench import StepPair


def _shapes():
    """A hundred parameters as a network has them: square, wide, and many vectors; 1.1 million elements."""
    return [(128, 128)] * 40 + [(256, 96)] * 20 + [(128,)] * 40


class _BothHalves:
    """Up and down with the gradients as they are: what SAM itself costs, without the model's passes."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.first_step()
        self.optimizer.second_step()


def _ours(adaptive):
    return lambda p: _BothHalves(SAM(p, torch.optim.SGD, adaptive=adaptive, lr=1e-3, momentum=0.9, foreach=True))


def _theirs(adaptive):
    def make(p):
        from pytorch_optimizer import SAM as Theirs

        return _BothHalves(Theirs(p, torch.optim.SGD, adaptive=adaptive, lr=1e-3, momentum=0.9, foreach=True))

    return make


PAIRS = [
    StepPair(item="sam", name="SAM over SGD", ours=_ours(False), theirs=_theirs(False), shapes=_shapes),
    StepPair(item="sam", name="SAM over SGD, adaptive", ours=_ours(True), theirs=_theirs(True), shapes=_shapes),
]
