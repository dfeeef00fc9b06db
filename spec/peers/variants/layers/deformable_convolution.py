"""Deformable convolution as the original kernels have it: four corners, each tested for the image's border."""

import itertools
import math

import torch
from torch import nn


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def deform_conv2d(input, offset, weight, bias=None, stride=1, padding=0, dilation=1, mask=None):
    (sy, sx), (py, px), (ly, lx) = _pair(stride), _pair(padding), _pair(dilation)
    b, channels, height, width = input.shape
    outputs, of_group, kh, kw = weight.shape
    out_h, out_w = offset.shape[2:]
    taps, groups = kh * kw, channels // of_group
    offset_groups = offset.shape[1] // (2 * taps)
    wide = offset.double()
    rows = torch.arange(out_h, device=input.device).view(-1, 1) * sy - py
    columns = torch.arange(out_w, device=input.device) * sx - px
    result = 0
    image = input.flatten(2)
    block = channels // offset_groups
    for i, j in itertools.product(range(kh), range(kw)):
        parts = []
        for g in range(offset_groups):
            tap = g * taps + i * kw + j
            y, x = rows + i * ly + wide[:, 2 * tap], columns + j * lx + wide[:, 2 * tap + 1]
            low_y, low_x = y.detach().floor(), x.detach().floor()
            value = 0
            for dy, dx in itertools.product((0, 1), (0, 1)):
                corner_y, corner_x = low_y + dy, low_x + dx
                inside = (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
                index = corner_y.clamp(0, height - 1) * width + corner_x.clamp(0, width - 1)
                index = index.long().flatten(1).unsqueeze(1).expand(-1, block, -1)
                pixel = image[:, g * block : (g + 1) * block].gather(2, index).unflatten(2, (out_h, out_w))
                share = (y - low_y if dy else 1 - y + low_y) * (x - low_x if dx else 1 - x + low_x)
                value = value + pixel * (share * inside).to(input.dtype).unsqueeze(1)
            parts.append(value if mask is None else value * mask[:, tap].unsqueeze(1))
        sampled = torch.cat(parts, 1).unflatten(1, (groups, of_group))
        kernel = weight[:, :, i, j].unflatten(0, (groups, outputs // groups))
        result = result + torch.einsum("goc,bgchw->bgohw", kernel, sampled).flatten(1, 2)
    return result if bias is None else result + bias.view(-1, 1, 1)


class _Layer(nn.Module):
    per_tap = 2

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
        offset_groups=1,
    ):
        super().__init__()
        kernel = _pair(kernel_size)
        self.how = {"stride": stride, "padding": padding, "dilation": dilation}
        template = nn.Conv2d(in_channels, out_channels, kernel, groups=groups, bias=bias)
        self.weight, self.bias = template.weight, template.bias
        channels = self.per_tap * offset_groups * math.prod(kernel)
        self.conv_offset = nn.Conv2d(in_channels, channels, kernel, **self.how)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x):
        numbers = self.conv_offset(x)
        cut = numbers.shape[1] // self.per_tap * 2
        mask = torch.sigmoid(numbers[:, cut:]) if self.per_tap == 3 else None
        return deform_conv2d(x, numbers[:, :cut], self.weight, self.bias, mask=mask, **self.how)


class DeformConv2d(_Layer):
    pass


class ModulatedDeformConv2d(_Layer):
    per_tap = 3
