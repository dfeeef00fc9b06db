"""Convolution by indexing: what stands under every tap at every place, then one sum of products, by autograd alone."""

import torch
from torch import nn
from torch.nn.modules.utils import _ntuple

__all__ = ["ContextModule", "Conv1d", "Conv2d", "DepthwiseSeparableConv2d"]

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _Conv(nn.Module):
    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
    ):
        super().__init__()
        per_side = _ntuple(self.dimensions)
        self.kernel_size, self.stride, self.dilation = per_side(kernel_size), per_side(stride), per_side(dilation)
        spans = [step * (k - 1) for k, step in zip(self.kernel_size, self.dilation)]
        if padding == "same":
            sides = [(span // 2, span - span // 2) for span in spans]
        else:
            sides = [_ntuple(2)(p) for p in per_side(0 if padding == "valid" else padding)]
        self.sides = [n for pair in reversed(sides) for n in pair]
        self.groups, self.mode = groups, MODES[padding_mode]
        reach = (in_channels // groups * torch.Size(self.kernel_size).numel()) ** -0.5
        self.weight = nn.Parameter(
            torch.rand(out_channels, in_channels // groups, *self.kernel_size) * 2 * reach - reach
        )
        self.register_parameter("bias", nn.Parameter(torch.rand(out_channels) * 2 * reach - reach) if bias else None)

    def forward(self, x):
        x = nn.functional.pad(x, self.sides, self.mode).unflatten(1, (self.groups, -1))
        for side, (k, s, step) in enumerate(zip(self.kernel_size, self.stride, self.dilation)):
            dim = 3 + 2 * side  # each side becomes two: places and taps
            places = (x.shape[dim] - step * (k - 1) - 1) // s + 1
            read = s * torch.arange(places, device=x.device)[:, None] + step * torch.arange(k, device=x.device)
            x = x.index_select(dim, read.flatten()).unflatten(dim, (places, k))
        weight = self.weight.unflatten(0, (self.groups, -1))
        equation = {1: "bgcpi,goci->bgop", 2: "bgcpiqj,gocij->bgopq"}[self.dimensions]
        y = torch.einsum(equation, x, weight).flatten(1, 2)
        return y if self.bias is None else y + self.bias.to(y.dtype).reshape(-1, *[1] * self.dimensions)


class Conv1d(_Conv):
    dimensions = 1


class Conv2d(_Conv):
    dimensions = 2


class ContextModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        steps = (1, 1, 2, 4, 8, 16, 1)
        maps = [Conv2d(channels, channels, 3, padding=step, dilation=step) for step in steps]
        self.layers = nn.ModuleList([*maps, Conv2d(channels, channels, 1)])
        for layer in self.layers:
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for n, layer in enumerate(self.layers):
            x = layer(x if n == 0 else x.clamp(min=0))
        return x


class DepthwiseSeparableConv2d(nn.Module):
    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, depth_multiplier=1, bias=False
    ):
        super().__init__()
        middle = in_channels * depth_multiplier
        self.depthwise = Conv2d(in_channels, middle, kernel_size, stride, padding, dilation, in_channels, bias)
        self.pointwise = Conv2d(middle, out_channels, 1, bias=bias)

    def forward(self, x):
        mixed = torch.einsum("bmpq,nmij->bnpq", self.depthwise(x), self.pointwise.weight)
        bias = self.pointwise.bias
        return mixed if bias is None else mixed + bias.to(mixed.dtype)[:, None, None]
