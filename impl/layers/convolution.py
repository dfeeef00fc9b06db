"""Convolution with stride, dilation and groups, and the layers that are built of it.

    y[o, p] = b[o] + Σ_{c,t} w[o, c, t] · x[c, s·p + l·t − padding]
    dilated: l > 1 spreads the taps, (F *_l k)(p) = Σ_{s+lt=p} F(s) k(t)   Yu & Koltun 2015, arXiv:1511.07122, eq. 2
    depthwise separable: a kernel per channel, then sums over channels at each pixel, of cost ratio 1/N + 1/D_K²
                                           Howard et al. 2017, arXiv:1704.04861, §3.1; Chollet 2016, arXiv:1610.02357

Convention: the kernel is not flipped, as everywhere in deep learning; arguments and parameters as in torch.nn.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from .checks import check_groups, check_space, per_dimension
from .windows import margins, pad, windows


def convolve(x: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:
    """y[o, p] = Σ_{c,t} w[o, c, t] · x[c, s·p + l·t], where an output sees the input channels of its group alone.

    Args:
        x: (B, C, space), already padded; any number of dimensions of space.
        weight: w, (O, C/groups, kernel).
        stride, dilation: s and l, one for each dimension.

    Raises:
        ValueError: an input smaller than the kernel.
    """
    under = windows(x, weight.shape[2:], stride, dilation).unflatten(1, (groups, weight.shape[1])).flatten(2, 3)
    products = weight.unflatten(0, (groups, -1)).flatten(2) @ under.flatten(3)  # (B, groups, O/groups, positions)
    return products.flatten(1, 2).unflatten(2, under.shape[3:])


class _Convolution(nn.Module):
    """What Conv1d and Conv2d share: all but `dimensions`, how many there are of space."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int | Sequence[int]] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        check_groups(groups, in_channels, out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.dimensions)
        self.stride = per_dimension("stride", stride, self.dimensions)
        self.dilation = per_dimension("dilation", dilation, self.dimensions)
        self.padding, self.padding_mode = padding, padding_mode
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"expected padding as integers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"expected stride 1 with padding 'same', got {self.stride}")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"expected padding_mode zeros, reflect, replicate or circular, got {padding_mode!r}")
        self.margins = margins(padding, self.kernel_size, self.dilation)
        bound = (in_channels // groups * math.prod(self.kernel_size)) ** -0.5  # 1/√fan-in
        shape = out_channels, in_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, input: Inexact[Tensor, "b c *space"]) -> Inexact[Tensor, "b o *positions"]:
        check_space(input, self.dimensions, self.in_channels)
        y = convolve(pad(input, self.margins, self.padding_mode), self.weight, self.stride, self.dilation, self.groups)
        # Of the output's dtype: a float32 bias would widen what autocast has convolved in bfloat16.
        return y if self.bias is None else y + self.bias.to(y.dtype).view(-1, *[1] * self.dimensions)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class Conv1d(_Convolution):
    """Convolution of sequences (B, C, L). Arguments and errors: see `Conv2d`."""

    dimensions = 1


class Conv2d(_Convolution):
    """Convolution of images (B, C, H, W) → (B, O, H', W'), H' = ⌊(H + 2·padding − l·(k − 1) − 1)/stride⌋ + 1.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: one integer for both dimensions, or (height, width); dilation is l, the distance
            of neighbouring taps.
        padding: how much is added at each end: one integer for both dimensions or (height, width), of which each may
            be a pair (before, after); "same" keeps the size at stride 1, the odd one at the end; "valid" is 0.
        groups: both kinds of channels fall into this many blocks; a block of outputs sees its block of inputs.
        bias: if True, b is added.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Weight and bias are initialised uniform in ±1/√fan-in, fan-in = C/groups · taps. In a region of torch.autocast a
    convolution of float32 has the region's dtype, as torch's.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels, or smaller than the kernel.

    Source: Yu & Koltun 2015, arXiv:1511.07122, eq. 2.
    """

    dimensions = 2


class ContextModule(nn.Module):
    """Seven dilated 3×3 convolutions and a 1×1: each output sees 67×67 inputs at full resolution, for 64·C² weights.

    A ReLU follows each of the seven. It is initialised as the identity of non-negative maps, for it is put between a
    trained network and its output.

    Args:
        channels: C, of the input and of every layer.

    Raises:
        ValueError: fewer than 1 channel; an input of other dimensions or channels.

    Source: Yu & Koltun 2015, arXiv:1511.07122, §3: table 1, row "Basic", and eq. 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        layers = [Conv2d(channels, channels, 3, padding=step, dilation=step) for step in (1, 1, 2, 4, 8, 16, 1)]
        self.layers = nn.ModuleList([*layers, Conv2d(channels, channels, 1)])
        for layer in self.layers:  # k(t, a, b) = 1[t = 0]·1[a = b], where t = 0 is the centre of the kernel
            centre = layer.kernel_size[0] // 2
            layer.weight.data.zero_()[:, :, centre, centre] = torch.eye(channels)
            layer.bias.data.zero_()

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        for layer in self.layers[:-1]:
            input = layer(input).relu()
        return self.layers[-1](input)


class DepthwiseSeparableConv2d(nn.Module):
    """A kernel for each channel by itself, then a 1×1 convolution that mixes the channels.

    Args:
        in_channels, out_channels: M and N.
        kernel_size, stride, padding, dilation: of the depthwise convolution, as in `Conv2d`.
        depth_multiplier: kernels for each input channel; output c·depth_multiplier + i is the i-th of channel c.
        bias: if True, both convolutions have a bias; it is redundant before a batch normalization.

    Raises:
        ValueError: as `Conv2d`.

    Convention: there is nothing between the two, as in Xception; MobileNet has batch normalization and ReLU after each.
    Source: Howard et al. 2017, arXiv:1704.04861, §3.1, eq. 3-5; Chollet 2016, arXiv:1610.02357.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int | Sequence[int]] | str = 0,
        dilation: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        if depth_multiplier < 1:
            raise ValueError(f"expected depth_multiplier >= 1, got {depth_multiplier}")
        middle = in_channels * depth_multiplier
        self.depthwise = Conv2d(in_channels, middle, kernel_size, stride, padding, dilation, in_channels, bias)
        self.pointwise = Conv2d(middle, out_channels, 1, bias=bias)

    def forward(self, input: Inexact[Tensor, "b c h w"]) -> Inexact[Tensor, "b o p q"]:
        return self.pointwise(self.depthwise(input))
