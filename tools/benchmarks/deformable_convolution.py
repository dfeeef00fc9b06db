"""Deformable convolution next to torch's sampling kernel, one call for each of nine taps, and its convolution."""

import torch
from torch.nn import functional as F

from impl.layers.deformable_convolution import deform_conv2d
from tools.bench import Pair


def _ours(input, offset, weight, mask):
    return deform_conv2d(input, offset, weight, padding=1, mask=mask)


def _sampled(input, offset, weight, mask):
    """torch has no deformable convolution of its own; this is the shortest way with its fused kernels."""
    height, width = input.shape[2:]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    taps = []
    for k, (i, j) in enumerate((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        row, column = y + i + offset[:, 2 * k], x + j + offset[:, 2 * k + 1]
        grid = torch.stack([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1], -1)
        taps.append(F.grid_sample(input, grid, align_corners=True) * mask[:, k, None])
    return F.conv2d(torch.stack(taps, 2).flatten(1, 2), weight.flatten(1)[..., None, None])


def _inputs():
    shapes = (4, 32, 32, 32), (4, 18, 32, 32), (64, 32, 3, 3), (4, 9, 32, 32)
    return tuple(torch.randn(shape) for shape in shapes)


PAIRS = [
    Pair(
        item="deformable-conv",
        name="deform_conv2d 4×32×32×32",
        ours=lambda: _ours,
        theirs=lambda: _sampled,
        inputs=_inputs,
    )
]
