"""Convolution with stride, dilation and groups, and the layers that are built of it.

    y[o, p] = b[o] + Σ_{c,t} w[o, c, t] · x[c, s·p + l·t − padding]
    dilated: l > 1 spreads the taps, (F *_l k)(p) = Σ_{s+lt=p} F(s) k(t)   Yu & Koltun 2015, arXiv:1511.07122, eq. 2
    depthwise separable: a kernel per channel, then sums over channels at each pixel, of cost ratio 1/N + 1/D_K²
                                           Howard et al. 2017, arXiv:1704.04861, §3.1; Chollet 2016, arXiv:1610.02357

Convention: the kernel is not flipped, as everywhere in deep learning; arguments and parameters as in torch.nn.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from ._correlation import correlate
from ._window import MARGINS, check_channels, check_input, extents, pad, positions, sizes
from .initialisers import kaiming_uniform_


class _Convolution(nn.Module):
    """What Conv1d and Conv2d share: all but the number of dimensions."""

    dimensions: int

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
        check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sizes("kernel_size", kernel_size, self.dimensions)
        self.stride = sizes("stride", stride, self.dimensions)
        self.dilation = sizes("dilation", dilation, self.dimensions)
        self.padding = padding if isinstance(padding, str) else _margins("padding", padding, self.dimensions)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"expected padding as integers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"expected stride 1 with padding 'same', got {self.stride}")
        if padding_mode not in MARGINS:
            raise ValueError(f"expected padding_mode of {', '.join(MARGINS)}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        kaiming_uniform_(self.weight, a=5**0.5)  # uniform in ±1/√fan-in, and so is the bias
        bound = self.weight[0].numel() ** -0.5
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def _margins(self) -> list[tuple[int, int]]:
        """(before, after) of each dimension; "same" leaves the odd one for the end."""
        if self.padding == "same":
            return [((n - 1) // 2, n // 2) for n in extents(self.kernel_size, self.dilation)]
        if self.padding == "valid":
            return [(0, 0)] * self.dimensions
        return [(side, side) if isinstance(side, int) else side for side in self.padding]

    def forward(self, input):
        check_input(input, self.dimensions, self.in_channels)
        x = pad(input, self._margins(), self.padding_mode)
        positions(x.shape[2:], self.kernel_size, self.stride, self.dilation)  # it raises if there are none
        weight, stride, dilation = self.weight, self.stride, self.dilation
        if self.dimensions == 1:  # a sequence is an image of one row
            x, weight, stride, dilation = x.unsqueeze(2), weight.unsqueeze(2), (1, *stride), (1, *dilation)
        output = correlate(x, weight, stride, dilation, self.groups)
        output = output.squeeze(2) if self.dimensions == 1 else output
        if self.bias is None:
            return output
        return output + self.bias.to(output.dtype).reshape(-1, *(1 for _ in self.kernel_size))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


def _margins(name, value, dimensions):
    """One integer for all sides; or for each dimension one, or (before, after)."""
    if isinstance(value, int) or all(isinstance(side, int) for side in value):
        return sizes(name, value, dimensions, least=0)
    if len(value) != dimensions:
        raise ValueError(f"expected {name} of {dimensions} dimensions, got {value}")
    return tuple(sizes(name, side, 2, least=0) for side in value)


class Conv1d(_Convolution):
    """Convolution of sequences (B, C, L). Arguments and errors: see `Conv2d`."""

    dimensions = 1

    def forward(self, input: Inexact[Tensor, "b c l"]) -> Inexact[Tensor, "b o p"]:
        return super().forward(input)


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

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels, or smaller than the kernel.

    Source: Yu & Koltun 2015, arXiv:1511.07122, eq. 2.
    """

    dimensions = 2

    def forward(self, input: Inexact[Tensor, "b c h w"]) -> Inexact[Tensor, "b o p q"]:
        return super().forward(input)


class ContextModule(nn.Module):
    """Seven dilated 3×3 convolutions and a 1×1: each output sees 67×67 inputs at full resolution, for 64·C² weights.

    It is initialised as the identity of non-negative maps, for it is put between a trained network and its output.

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
        *layers, last = self.layers
        for layer in layers:
            input = layer(input).relu()
        return last(input)


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
