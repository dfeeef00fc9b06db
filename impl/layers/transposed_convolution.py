"""Transposed convolution, the adjoint Aᵀ of the convolution A of the same weight: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩.

    x[c, q] = b[c] + Σ w[o, c, t] y[o, p]        over all o, p, t with s·p + l·t − padding = q
                                          Zeiler et al. 2010 (CVPR); Dumoulin & Visin 2016, arXiv:1603.07285, §4

Convention: the weight is (in_channels, out_channels/groups, kh, kw), so that A and Aᵀ share a tensor.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from .checks import check_groups, check_space, per_dimension
from .numerics import at_least_float32
from .windows import extents, indices, pad


class ConvTranspose2d(nn.Module):
    """(B, C, H, W) → (B, O, H', W'), H' = (H − 1)·stride − 2·padding + l·(k − 1) + 1 + output_padding.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: one integer for both dimensions, or (height, width).
        padding: that of the convolution A; what A added at each end is cut off here.
        output_padding: rows and columns at the end that A, for its stride, does not see; less than stride or dilation.
        groups: both kinds of channels fall into this many blocks; a block of outputs sees its block of inputs.
        bias: if True, b is added.

    Weight and bias are initialised uniform in ±1/√(O/groups · taps).

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
        check_groups(groups, in_channels, out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_dimension("kernel_size", kernel_size, 2)
        self.stride = per_dimension("stride", stride, 2)
        self.dilation = per_dimension("dilation", dilation, 2)
        self.padding = per_dimension("padding", padding, 2, least=0)
        self.output_padding = per_dimension("output_padding", output_padding, 2, least=0)
        if any(extra >= max(steps) for extra, *steps in zip(self.output_padding, self.stride, self.dilation)):
            raise ValueError(f"expected output_padding below stride or dilation, got {self.output_padding}")
        bound = (out_channels // groups * math.prod(self.kernel_size)) ** -0.5
        shape = in_channels, out_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, input: Inexact[Tensor, "b c h w"]) -> Inexact[Tensor, "b o p q"]:
        check_space(input, 2, self.in_channels)
        b, _, *count = input.shape
        extent = extents(self.kernel_size, self.dilation)
        size = [(n - 1) * s + e + out for n, s, e, out in zip(count, self.stride, extent, self.output_padding)]
        if any(n <= 2 * p for n, p in zip(size, self.padding)):
            raise ValueError(f"expected an output of at least 1 × 1, got shape {tuple(input.shape)} and {self}")
        index = indices(size, count, self.kernel_size, self.stride, self.dilation, input.device).flatten()
        # What every pixel adds under every tap, to each output channel; summed in float32 or wider.
        weight = self.weight.reshape(self.groups, self.in_channels // self.groups, -1)
        products = weight.mT @ input.reshape(b, self.groups, weight.shape[1], math.prod(count))
        products = products.reshape(b, self.out_channels, len(index))
        x = at_least_float32(products.new_zeros(b, self.out_channels, math.prod(size)))
        x = x.scatter_add(2, index.expand_as(products), products.to(x.dtype)).to(products.dtype)
        output = pad(x.unflatten(2, size), [(-p, -p) for p in self.padding])  # a negative margin cuts off
        return output if self.bias is None else output + self.bias.to(output.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, output_padding={self.output_padding}, groups={self.groups}, "
            f"dilation={self.dilation}, bias={self.bias is not None}"
        )
