"""Dropout next to torch.nn.Dropout, and predictive moments next to a loop over torch's passes."""

import torch
from torch import nn

from impl.layers.dropout import Dropout
from impl.models.mc_dropout import MCDropout, enable_dropout
from tools.bench import Pair


def _network(dropout):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), dropout(0.5), nn.Linear(256, 256), nn.ReLU(), dropout(0.5))


class _Vectorised(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = MCDropout(_network(Dropout), num_samples=20)

    def forward(self, x):
        return self.model.predict(x)[:2]


class _Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = _network(nn.Dropout)

    def forward(self, x):
        with enable_dropout(self.model):
            samples = torch.stack([self.model(x) for _ in range(20)])
        return samples.mean(0), samples.var(0)


PAIRS = [
    Pair(
        item="mc-dropout",
        name="Dropout",
        ours=lambda: Dropout(0.3).train(),
        theirs=lambda: nn.Dropout(0.3).train(),
        inputs=lambda: (torch.randn(512, 1024),),
    ),
    Pair(
        item="mc-dropout",
        name="MCDropout, 20 passes",
        ours=_Vectorised,
        theirs=_Loop,
        inputs=lambda: (torch.randn(64, 64),),
    ),
]
