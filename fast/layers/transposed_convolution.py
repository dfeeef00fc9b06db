"""Transposed convolution, the adjoint Aᵀ of the convolution A of the same weight: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩.

    x[c, q] = b[c] + Σ w[o, c, t] y[o, p]        over all o, p, t with s·p + l·t − padding = q
                                          Zeiler et al. 2010 (CVPR); Dumoulin & Visin 2016, arXiv:1603.07285, §4

Convention: the weight is (in_channels, out_channels/groups, kh, kw), so that A and Aᵀ share a tensor.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from ._correlation import spread
from ._window import check_channels, check_input, extents, pad, sizes
from .initialisers import kaiming_uniform_


class ConvTranspose2d(nn.Module):
    """(B, C, H, W) → (B, O, H', W'), H' = (H − 1)·stride − 2·padding + l·(k − 1) + 1 + output_padding.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: one integer for both dimensions, or (height, width).
        padding: that of the convolution A; what A added at each end is cut off here.
        output_padding: rows and columns at the end that A, for its stride, does not see; less than stride or dilation.
        groups: both kinds of channels fall into this many blocks; a block of outputs sees its block of inputs.
        bias: if True, b is added.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels; an output without a pixel.

    Source: Dumoulin & Visin 2016, arXiv:1603.07285, §4, relationships 8-14.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
    ):
        super().__init__()
        check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sizes("kernel_size", kernel_size, 2)
        self.stride = sizes("stride", stride, 2)
        self.dilation = sizes("dilation", dilation, 2)
        self.padding = sizes("padding", padding, 2, least=0)
        self.output_padding = sizes("output_padding", output_padding, 2, least=0)
        if any(extra >= max(steps) for extra, *steps in zip(self.output_padding, self.stride, self.dilation)):
            raise ValueError(f"expected output_padding below stride or dilation, got {self.output_padding}")
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels // groups, *self.kernel_size))
        kaiming_uniform_(self.weight, a=5**0.5)
        bound = self.weight[0].numel() ** -0.5
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, input: Inexact[Tensor, "b c h w"]) -> Inexact[Tensor, "b o p q"]:
        check_input(input, 2, self.in_channels)
        covered = [
            (n - 1) * s + extent
            for n, s, extent in zip(input.shape[2:], self.stride, extents(self.kernel_size, self.dilation))
        ]
        if any(n + extra <= 2 * p for n, extra, p in zip(covered, self.output_padding, self.padding)):
            raise ValueError(f"expected an output of at least 1 × 1, got shape {tuple(input.shape)} and {self}")
        x = spread(input, self.weight, covered, self.stride, self.dilation, self.groups)
        x = pad(x, [(0, extra) for extra in self.output_padding])
        output = pad(x, [(-p, -p) for p in self.padding])  # a negative margin cuts off
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, output_padding={self.output_padding}, groups={self.groups}, "
            f"dilation={self.dilation}, bias={self.bias is not None}"
        )
