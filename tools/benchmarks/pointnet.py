"""PointNet and a level of PointNet++ next to the same networks of torch's layers, with channels before points."""

import torch
from torch import nn

from impl.models.pointnet import PointNet
from impl.models.pointnet2 import SetAbstraction
from tools.bench import Pair


def _clouds():
    return (torch.randn(8, 512, 3),)


def _mlp(*widths):
    layers = [(nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(*(layer for group in layers for layer in group))


def _head(*widths):
    layers = [(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in zip(widths, widths[1:])]
    return nn.Sequential(*(layer for group in layers for layer in group))


class _Transform(nn.Module):
    def __init__(self, k, width):
        super().__init__()
        self.k = k
        self.point_mlp = _mlp(k, width, 2 * width, 16 * width)
        self.cloud_mlp = nn.Sequential(_head(16 * width, 8 * width, 4 * width), nn.Linear(4 * width, k * k))

    def forward(self, x):
        return self.cloud_mlp(self.point_mlp(x).amax(2)).view(-1, self.k, self.k) + torch.eye(self.k)


class _Library(nn.Module):
    def __init__(self, num_classes, width):
        super().__init__()
        self.first, self.second = _Transform(3, width), _Transform(width, width)
        self.local = _mlp(3, width, width)
        self.whole = _mlp(width, width, 2 * width, 16 * width)
        self.head = nn.Sequential(_head(16 * width, 8 * width, 4 * width), nn.Dropout(0.3))
        self.last = nn.Linear(4 * width, num_classes)

    def forward(self, points):
        x = points.transpose(1, 2)
        x = self.local(self.first(x).transpose(1, 2) @ x)
        a = self.second(x)
        x = self.whole(a.transpose(1, 2) @ x).amax(2)
        return self.last(self.head(x)), a


class _LibraryLevel(nn.Module):
    """Sampling, a ball query by torch.cdist, convolutions of 1 × 1 and a maximum."""

    def __init__(self):
        super().__init__()
        layers = [(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((3, 32), (32, 32), (32, 64))]
        self.mlp = nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, points):
        batch, n = torch.arange(len(points)), points.shape[1]
        chosen, distance = [torch.zeros_like(batch)], torch.full(points.shape[:2], torch.inf)
        for _ in range(127):
            last = points.detach()[batch, chosen[-1]]
            distance = torch.minimum(distance, (points.detach() - last[:, None]).square().sum(-1))
            chosen.append(distance.argmax(1))
        centres = points[batch[:, None], torch.stack(chosen, 1)]
        near = torch.cdist(centres.detach(), points.detach()) <= 0.4
        order = torch.arange(n).where(near, n).sort(-1).values[..., :16]
        order = order.where(order < n, order[..., :1])
        group = points[batch[:, None, None], order] - centres[:, :, None]
        return centres, self.mlp(group.permute(0, 3, 1, 2)).amax(3).mT


PAIRS = [
    Pair(
        item="pointnet",
        name="PointNet, 8 × 512 points, width 32",
        ours=lambda: PointNet(40, width=32),
        theirs=lambda: _Library(40, 32),
        inputs=_clouds,
    ),
    Pair(
        item="pointnet2",
        name="a level of 128 centres, 8 × 512 points",
        ours=lambda: SetAbstraction(128, (0.4,), (16,), 0, ((32, 32, 64),)),
        theirs=_LibraryLevel,
        inputs=_clouds,
    ),
]
