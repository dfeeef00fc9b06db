"""DETR next to torch.nn's attention."""

import torch
from torch import nn

from impl.models.detr import DETR, image_positions
from tools.bench import Pair


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(256, 8, batch_first=True)
        self.transform = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256))
        self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(2))

    def forward(self, x, p):
        x = self.norms[0](x + self.attention(x + p, x + p, x, need_weights=False)[0])
        return self.norms[1](x + self.transform(x))


class _Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.other = (nn.MultiheadAttention(256, 8, batch_first=True) for _ in range(2))
        self.transform = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256))
        self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(3))

    def forward(self, y, q, x, p):
        y = self.norms[0](y + self.own(y + q, y + q, y, need_weights=False)[0])
        y = self.norms[1](y + self.other(y + q, x + p, x, need_weights=False)[0])
        return self.norms[2](y + self.transform(y))


class _Library(nn.Module):
    """A layer of each on features of 20 × 20, of torch.nn's parts."""

    def __init__(self):
        super().__init__()
        self.input = nn.Conv2d(512, 256, 1)
        self.encoder = nn.ModuleList(_Encoder() for _ in range(1))
        self.decoder = nn.ModuleList(_Decoder() for _ in range(1))
        self.norm, self.queries = nn.LayerNorm(256), nn.Parameter(torch.randn(100, 256))
        self.classes = nn.Linear(256, 92)
        layers = nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4), nn.Sigmoid()
        self.boxes = nn.Sequential(*layers)

    def forward(self, features):
        mask = torch.ones(len(features), 20, 20, dtype=torch.bool)
        p = image_positions(mask, 256).to(features.dtype).flatten(1, 2)
        x, q = self.input(features).flatten(2).mT, self.queries.expand(len(features), -1, -1)
        for layer in self.encoder:
            x = layer(x, p)
        y = torch.zeros_like(q)
        for layer in self.decoder:
            y = layer(y, q, x, p)
        y = self.norm(y)
        return self.classes(y), self.boxes(y)


PAIRS = [
    Pair(
        item="detr",
        name="a layer of each, 400 features",
        ours=lambda: DETR(nn.Identity(), 512, 91, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0),
        theirs=_Library,
        inputs=lambda: (torch.randn(2, 512, 20, 20),),
    ),
]
