"""Convolutions of torch.nn, and two layers put together from them."""

import torch
from torch import nn
from torch.nn import Conv1d, Conv2d

__all__ = ["ContextModule", "Conv1d", "Conv2d", "DepthwiseSeparableConv2d"]


class ContextModule(nn.Module):
    """Yu & Koltun's basic context module at its identity start."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(channels, channels, 3, padding=l, dilation=l) for l in (1, 1, 2, 4, 8, 16, 1)]
            + [nn.Conv2d(channels, channels, 1)]
        )
        for layer in self.layers:
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class DepthwiseSeparableConv2d(nn.Sequential):
    """Two convolutions in a row."""

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, depth_multiplier=1, bias=False
    ):
        super().__init__()
        between = in_channels * depth_multiplier
        how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": in_channels, "bias": bias}
        self.add_module("depthwise", nn.Conv2d(in_channels, between, kernel_size, **how))
        self.add_module("pointwise", nn.Conv2d(between, out_channels, 1, bias=bias))
