"""Convolutions next to torch's own kernels, at the sizes of small image networks."""

import torch
from torch import nn

from impl.layers.convolution import Conv2d, DepthwiseSeparableConv2d
from impl.layers.transposed_convolution import ConvTranspose2d
from tools.bench import Pair


def _pair(item, name, ours, theirs, shape):
    size = "×".join(map(str, shape))
    return Pair(item=item, name=f"{name} {size}", ours=ours, theirs=theirs, inputs=lambda: (torch.randn(shape),))


def _convolution(shape, out_channels, ours=Conv2d, theirs=nn.Conv2d, **arguments):
    def build(kind):
        return lambda: kind(shape[1], out_channels, **({"kernel_size": 3, "padding": 1} | arguments))

    return _pair("dilated-conv", ours.__name__, build(ours), build(theirs), shape)


def _separable():
    """torch's two kernels in a row."""
    depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(64, 128, 1, bias=False))


PAIRS = [
    _convolution((16, 3, 32, 32), 32),
    _convolution((8, 16, 64, 64), 16),
    _convolution((8, 64, 32, 32), 64, padding=2, dilation=2),
    _convolution((16, 128, 16, 16), 128),
    _convolution((16, 64, 32, 32), 128, stride=2),
    _convolution((8, 64, 16, 16), 32, ConvTranspose2d, nn.ConvTranspose2d, kernel_size=4, stride=2),
    _pair(
        "depthwise-separable-conv",
        "DepthwiseSeparableConv2d",
        lambda: DepthwiseSeparableConv2d(64, 128, 3, padding=1),
        _separable,
        (8, 64, 32, 32),
    ),
]
