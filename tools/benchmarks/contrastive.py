"""Contrastive losses next to torch.nn.functional's normalisation and cross entropy."""

import torch
from torch.nn import functional

from impl.models.clip import clip_loss
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


PAIRS = [
    Pair(item="simclr", name="nt_xent_loss", ours=lambda: nt_xent_loss, theirs=lambda: _nt_xent, inputs=_views),
    Pair(
        item="clip",
        name="clip_loss",
        ours=lambda: lambda images, texts: clip_loss(images, texts, 1 / 0.07),
        theirs=lambda: _clip,
        inputs=_views,
    ),
]
