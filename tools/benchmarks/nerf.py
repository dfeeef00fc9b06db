"""NeRF's network and quadrature next to torch.nn's layers and a product of what each segment lets through."""

import torch
from torch import nn
from torch.nn import functional

from impl.models.nerf import NeRF, volume_render
from tools.bench import Pair


class _Library(nn.Module):
    """torch.nn.Linear and relu; the released order of the encoding, each frequency by itself."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear({0: 60, 5: 316}.get(i, 256), 256) for i in range(8))
        self.sigma, self.feature = nn.Linear(256, 1), nn.Linear(256, 256)
        self.direction, self.rgb = nn.Linear(280, 128), nn.Linear(128, 3)

    def encode(self, p, octaves):
        return torch.cat([f(torch.pi * 2.0**k * p) for k in range(octaves) for f in (torch.sin, torch.cos)], dim=-1)

    def forward(self, x, d):
        encoded = h = self.encode(x, 10)
        for i, layer in enumerate(self.layers):
            h = functional.relu(layer(torch.cat([encoded, h], dim=-1) if i == 5 else h))
        shade = functional.relu(self.direction(torch.cat([self.feature(h), self.encode(d, 4)], dim=-1)))
        return torch.sigmoid(self.rgb(shade)), functional.relu(self.sigma(h)).squeeze(-1)


def _by_product(rgb, sigma, t, directions):
    delta = torch.cat([t[:, 1:] - t[:, :-1], torch.full_like(t[:, :1], 1e10)], dim=-1)
    alpha = 1 - torch.exp(-sigma * delta * directions.norm(dim=-1, keepdim=True))
    passed = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1] + 1e-10], dim=-1)
    weights = alpha * passed.cumprod(-1)
    return (weights[..., None] * rgb).sum(1), (weights * t).sum(1), weights.sum(1), weights


def _rays():
    """1,024 rays of 192 samples, as many as the fine network sees."""
    return torch.rand(1024, 192, 3), torch.rand(1024, 192), torch.rand(1024, 192).cumsum(1), torch.randn(1024, 3)


PAIRS = [
    Pair(
        item="nerf",
        name="NeRF, 4,096 points",
        ours=NeRF,
        theirs=_Library,
        inputs=lambda: (torch.randn(4096, 3), torch.randn(4096, 3)),
    ),
    Pair(item="nerf", name="volume_render", ours=lambda: volume_render, theirs=lambda: _by_product, inputs=_rays),
]
