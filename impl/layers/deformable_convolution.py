"""Deformable convolution: each tap reads the image where a learned offset moves it, at every position anew.

    v1   y(p) = Σ_k w_k · x(p + p_k + Δp_k)                                 Dai et al. 2017, arXiv:1703.06211, eq. 2
    v2   y(p) = Σ_k w_k · x(p + p_k + Δp_k) · Δm_k, Δm_k in [0, 1]          Zhu et al. 2018, arXiv:1811.11168, eq. 1
    x(p) = Σ_q G(q, p) x(q), G(q, p) = g(q_y, p_y) g(q_x, p_x), g(a, b) = max(0, 1 − |a − b|)      Dai et al., eq. 3-4

Convention: offsets are in pixels, (y, x) for each tap in turn, the groups of offsets outermost, as in
torchvision.ops.deform_conv2d; every pixel q outside the image is zero, by itself, so the border fades out. At a whole
offset, where the derivative jumps, it is that on the side ahead. Positions are float32 or wider.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_space, per_dimension
from .convolution import Conv2d
from .numerics import at_least_float32
from .windows import positions


def deform_conv2d(
    input: Float[Tensor, "b c h w"],
    offset: Float[Tensor, "b yx p q"],
    weight: Float[Tensor, "o i kh kw"],
    bias: Float[Tensor, " o"] | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    mask: Float[Tensor, "b m p q"] | None = None,
) -> Float[Tensor, "b o p q"]:
    """The convolution of `input` whose taps are moved by `offset` and, if given, weighed by `mask`.

    Args:
        input: x.
        offset: Δp, of 2·offset_groups·kh·kw channels; each group of offsets moves its block of input channels.
        weight: w, of C/groups input channels.
        bias: added to each output channel, or None.
        stride, padding, dilation: as of Conv2d: one integer for both dimensions or (height, width).
        mask: Δm, of offset_groups·kh·kw channels, or None for all ones.

    Raises:
        ValueError: shapes that do not belong together, an argument out of range.

    Source: Dai et al. 2017, arXiv:1703.06211, eq. 2-4; Zhu et al. 2018, arXiv:1811.11168, eq. 1.
    """
    check_space(input, 2)
    stride, dilation = per_dimension("stride", stride, 2), per_dimension("dilation", dilation, 2)
    padding = per_dimension("padding", padding, 2, least=0)
    b, c, *size = input.shape
    o, of_group, *kernel = weight.shape
    taps, groups = math.prod(kernel), c // of_group
    if groups * of_group != c or o % groups:
        raise ValueError(f"expected a weight (O, C/groups, kh, kw) for {c} channels, got shape {tuple(weight.shape)}")
    space = positions([n + 2 * p for n, p in zip(size, padding)], kernel, stride, dilation)
    offset_groups = offset.shape[1] // (2 * taps)
    if offset.shape != (b, 2 * offset_groups * taps, *space) or offset_groups == 0 or c % offset_groups:
        expected = f"({b}, 2·offset_groups·{taps}, {space[0]}, {space[1]}), offset_groups a divisor of {c}"
        raise ValueError(f"expected offsets of shape {expected}, got {tuple(offset.shape)}")
    if mask is not None and mask.shape != (b, offset_groups * taps, *space):
        raise ValueError(f"expected a mask of shape {(b, offset_groups * taps, *space)}, got {tuple(mask.shape)}")

    # Positions in float32 or wider: bfloat16 has no fractions of a pixel beyond the 128th.
    offset = at_least_float32(offset)
    move_down, move_right = offset.reshape(b, offset_groups, taps, 2, *space).unbind(3)
    rows, columns = _grid(kernel, space, stride, padding, dilation, offset)
    x = input.reshape(b, offset_groups, c // offset_groups, *size)
    sampled = _sample(x, rows + move_down, columns + move_right)  # (B, offset groups, C of each, taps, H', W')
    if mask is not None:
        sampled = sampled * mask.reshape(b, offset_groups, 1, taps, *space)
    sampled = sampled.reshape(b, groups, of_group * taps, math.prod(space))
    output = torch.matmul(weight.reshape(groups, o // groups, of_group * taps), sampled).reshape(b, o, *space)
    return output if bias is None else output + bias[:, None, None]


def _grid(kernel, space, stride, padding, dilation, like):
    """Where an ordinary convolution reads, s·p + l·t − padding: rows and columns, each (taps, H', W')."""
    y, x = (
        torch.arange(k).to(like)[:, None] * step + torch.arange(n).to(like) * s - p
        for k, n, s, p, step in zip(kernel, space, stride, padding, dilation)
    )
    y, x = y[:, None, :, None], x[None, :, None, :]
    return (t.expand(*kernel, *space).flatten(0, 1) for t in (y, x))


def _sample(x, rows, columns):
    """x (B, G, C, H, W) between its pixels, at rows and columns (B, G, taps, H', W'): (B, G, C, taps, H', W')."""
    height, width = x.shape[3:]
    # A frame of zeros, so that positions off the image need no case of their own: they are moved to the frame.
    framed = torch.constant_pad_nd(x, (1, 1, 1, 1)).flatten(3)
    rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
    top, left = rows.floor().clamp(max=height), columns.floor().clamp(max=width)
    down, right = (t.unsqueeze(2).to(x.dtype) for t in (rows - top, columns - left))  # 1 − g of the first neighbour
    first = top.long() * (width + 2) + left.long()
    upper = torch.lerp(_pixels(framed, first), _pixels(framed, first + 1), right)
    lower = torch.lerp(_pixels(framed, first + width + 2), _pixels(framed, first + width + 3), right)
    return torch.lerp(upper, lower, down)


def _pixels(x, index):
    """x (B, G, C, pixels) at index (B, G, taps, H', W'), the same for all channels of a group."""
    wanted = index.flatten(2).unsqueeze(2).expand(-1, -1, x.shape[2], -1)
    return x.gather(3, wanted).reshape(*x.shape[:3], *index.shape[2:])


class _DeformableConvolution(nn.Module):
    """The kernel, and the convolution that predicts its offsets (and masks)."""

    predicted_per_tap: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        offset_groups: int = 1,
    ):
        super().__init__()
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(f"expected offset_groups to divide {in_channels} channels, got {offset_groups}")
        self.padding = per_dimension("padding", padding, 2, least=0)
        base = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.in_channels, self.stride, self.dilation = in_channels, base.stride, base.dilation
        self.weight, self.bias = base.weight, base.bias
        predicted = self.predicted_per_tap * offset_groups * math.prod(base.kernel_size)
        self.conv_offset = Conv2d(in_channels, predicted, kernel_size, stride, padding, dilation)
        self.conv_offset.weight.data.zero_()
        self.conv_offset.bias.data.zero_()

    def _convolved(self, input, offset, mask=None):
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


class DeformConv2d(_DeformableConvolution):
    """Deformable convolution whose offsets come from a convolution of the same input.

    It is initialised as an ordinary convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of `Conv2d`.
        offset_groups: blocks of input channels that have offsets of their own.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels, or smaller than the kernel.

    Convention: `conv_offset` is initialised to zero; train it at a tenth of the learning rate (Dai et al., §3).
    Source: Dai et al. 2017, arXiv:1703.06211, §2.1.
    """

    predicted_per_tap = 2  # Δy, Δx

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        return self._convolved(input, self.conv_offset(input))


class ModulatedDeformConv2d(_DeformableConvolution):
    """Deformable convolution, v2: a mask in (0, 1) for each tap next to its offset, from the same convolution.

    Arguments and errors: see `DeformConv2d`. It is initialised as half an ordinary convolution, for sigmoid(0) = ½.

    Convention: the last third of the convolution's channels is the mask, the others are the offsets.
    Source: Zhu et al. 2018, arXiv:1811.11168, §3.2.
    """

    predicted_per_tap = 3  # Δy, Δx, Δm

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        predicted = self.conv_offset(input)
        masks = predicted.shape[1] // 3
        offset, mask = predicted.split([2 * masks, masks], dim=1)
        return self._convolved(input, offset, mask.sigmoid())
