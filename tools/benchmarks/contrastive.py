"""Contrastive losses next to torch.nn.functional's normalisation and cross entropy."""

import torch
from torch import nn
from torch.nn import functional

from impl.models.clip import clip_loss
from impl.models.moco import MoCo, info_nce_loss
from impl.models.simclr import nt_xent_loss
from tools.bench import Pair


def _views():
    return torch.randn(512, 128), torch.randn(512, 128)


def _nt_xent(first, second):
    z = functional.normalize(torch.cat([first, second]))
    scores = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(scores, torch.arange(len(z)).roll(len(first)))


def _clip(images, texts):
    logits = functional.normalize(images) @ functional.normalize(texts).T / 0.07
    pairs = torch.arange(len(images))
    return (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2


class _Step(nn.Module):
    """The loss of a batch in training, with a queue of 4,096 keys."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.moco = MoCo(nn.Linear(128, 64), 64, queue_size=4096)

    def forward(self, first, second):
        return info_nce_loss(self.moco(first, second))


class _LibraryStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_q, self.of_k = nn.Linear(128, 64), nn.Linear(128, 64).requires_grad_(False)
        self.register_buffer("queue", functional.normalize(torch.randn(4096, 64)))
        self.row = 0

    def forward(self, first, second):
        q = functional.normalize(self.of_q(first))
        with torch.no_grad():
            for of_k, of_q in zip(self.of_k.parameters(), self.of_q.parameters()):
                of_k.mul_(0.999).add_(of_q, alpha=0.001)
            k = functional.normalize(self.of_k(second))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.clone().T], dim=1) / 0.07
        self.queue[self.row : self.row + len(k)] = k
        self.row = (self.row + len(k)) % len(self.queue)
        return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


PAIRS = [
    Pair(item="simclr", name="nt_xent_loss", ours=lambda: nt_xent_loss, theirs=lambda: _nt_xent, inputs=_views),
    Pair(item="moco", name="a step, queue of 4,096", ours=_Step, theirs=_LibraryStep, inputs=_views),
    Pair(
        item="clip",
        name="clip_loss",
        ours=lambda: lambda images, texts: clip_loss(images, texts, 1 / 0.07),
        theirs=lambda: _clip,
        inputs=_views,
    ),
]
