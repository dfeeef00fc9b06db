"""The normalizations next to torch's kernels, at the sizes of a small image network or transformer."""

import torch
from torch import nn

from impl.layers.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm
from tools.bench import Pair


def _pair(item, ours, theirs, arguments, shape):
    size = "×".join(map(str, shape))
    return Pair(
        item=item,
        name=f"{ours.__name__} {size}",
        ours=lambda: ours(*arguments),
        theirs=lambda: theirs(*arguments),
        inputs=lambda: (torch.randn(shape),),
    )


PAIRS = [
    _pair("batch-norm", BatchNorm1d, nn.BatchNorm1d, (512,), (1024, 512)),
    _pair("batch-norm", BatchNorm2d, nn.BatchNorm2d, (64,), (16, 64, 28, 28)),
    _pair("layer-norm", LayerNorm, nn.LayerNorm, (768,), (8, 128, 768)),
    _pair("instance-norm", InstanceNorm2d, nn.InstanceNorm2d, (64,), (8, 64, 32, 32)),
    _pair("group-norm", GroupNorm, nn.GroupNorm, (32, 128), (8, 128, 24, 24)),
]
