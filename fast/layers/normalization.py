"""Normalization: gives a set S of a layer's values mean 0 and variance 1, then a learned scale γ and shift β.

    y = γ (x − μ)/√(σ² + ε) + β,    μ = 1/m Σ_S x,    σ² = 1/m Σ_S (x − μ)²

What S is makes the method. For x of shape (N, C, space) the values that share one μ and σ² are, of
    BatchNorm       a channel: all samples, all positions       Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1, §3.2
    LayerNorm       a sample: all its features                  Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 3
    InstanceNorm    a channel of a sample: all its positions    Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022
    GroupNorm       a group of neighbouring channels of a sample, all positions   Wu & He 2018, arXiv:1803.08494, eq. 7

Convention: ε inside the root; σ² biased where it normalizes, unbiased in running_var (Ioffe & Szegedy, Alg. 2);
momentum is the weight of the new batch, running ← (1 − momentum)·running + momentum·new, as in torch.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._channel_norm import _ChannelNorm, check_channels, check_eps, check_floating, check_size
from ._standardize import standardize


class BatchNorm1d(_ChannelNorm):
    """Batch normalization of (N, C) or (N, C, L): one mean and variance per channel, of all samples and positions.

    In training the batch's own statistics normalize, and the running ones follow; in evaluation the running ones do.

    Args:
        num_features: C.
        eps: ε.
        momentum: weight of the new batch in the running statistics; None makes them the plain average of all batches.
        affine: if True, γ and β are learned, one of each per channel.
        track_running_stats: if True, running statistics are kept; without them evaluation uses the batch's own, too.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels, or not of floating point; a
            single value per channel where the batch's statistics are needed.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1 and 2.
    """

    dimensions = (2, 3)


class BatchNorm2d(_ChannelNorm):
    """Batch normalization of (N, C, H, W). Arguments and errors: see `BatchNorm1d`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, §3.2: m' = m·p·q values per channel.
    """

    dimensions = (4,)


class BatchNorm3d(_ChannelNorm):
    """Batch normalization of (N, C, D, H, W). Arguments and errors: see `BatchNorm1d`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, §3.2.
    """

    dimensions = (5,)


class _InstanceNorm(_ChannelNorm):
    over = (2,)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class InstanceNorm1d(_InstanceNorm):
    """Instance normalization of (N, C, L): one mean and variance per channel of each sample, in evaluation as well.

    Args:
        num_features: C.
        eps: ε.
        momentum: weight of the new batch in the running statistics; None makes them the plain average of all batches.
        affine: if True, γ and β are learned, one of each per channel.
        track_running_stats: if True, averages of the statistics over batches are kept, and normalize in evaluation.

    Raises:
        ValueError: an argument out of range; an input of other dimensions or channels, or not of floating point; a
            single position where the sample's own statistics are needed.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
    """

    dimensions = (3,)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalization of (N, C, H, W). Arguments and errors: see `InstanceNorm1d`.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
    """

    dimensions = (4,)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalization of (N, C, D, H, W). Arguments and errors: see `InstanceNorm1d`.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022.
    """

    dimensions = (5,)


class LayerNorm(nn.Module):
    """Layer normalization over the trailing dimensions; every feature has its own γ and β.

    Args:
        normalized_shape: sizes of the trailing dimensions that are normalized together; an integer for the last alone.
        eps: ε.
        elementwise_affine: if True, γ is learned, and β with `bias`.
        bias: if True, β is learned (with `elementwise_affine`).

    Raises:
        ValueError: an argument out of range; an input that does not end in `normalized_shape`, or is not of floating
            point.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 3.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not self.normalized_shape or min(self.normalized_shape) < 1:
            raise ValueError(f"expected normalized_shape of sizes >= 1, got {normalized_shape}")
        check_eps(eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None  # γ
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine and bias else None  # β

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        check_floating(input)
        split = input.dim() - len(self.normalized_shape)
        if input.shape[split:] != self.normalized_shape:
            raise ValueError(f"expected an input ending in {self.normalized_shape}, got shape {tuple(input.shape)}")
        width = math.prod(self.normalized_shape)
        x = input.reshape(math.prod(input.shape[:split]), width)
        output, _, _ = standardize(x, self.weight, self.bias, (1, width), over=(1,), eps=self.eps)
        return output.reshape(input.shape)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(nn.Module):
    """Group normalization of (N, C, *): one mean and variance per group of C/G neighbouring channels of each sample.

    Args:
        num_groups: G; 1 is LayerNorm of the whole sample (with γ per channel), C is InstanceNorm.
        num_channels: C.
        eps: ε.
        affine: if True, γ and β are learned, one of each per channel.

    Raises:
        ValueError: an argument out of range, or C no multiple of G; an input without C channels in dimension 1, or not
            of floating point.

    Source: Wu & He 2018, arXiv:1803.08494, eq. 7.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        check_size("num_groups", num_groups)
        check_size("num_channels", num_channels)
        check_eps(eps)
        if num_channels % num_groups:
            raise ValueError(f"expected num_channels to be a multiple of num_groups = {num_groups}, got {num_channels}")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None  # γ
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None  # β

    def forward(self, input: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        check_floating(input)
        check_channels(input, self.num_channels)
        groups = (self.num_groups, self.num_channels // self.num_groups)
        x = input.reshape(input.shape[0], *groups, math.prod(input.shape[2:]))
        output, _, _ = standardize(x, self.weight, self.bias, (1, *groups, 1), over=(2, 3), eps=self.eps)
        return output.reshape(input.shape)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"
