"""Normalization: gives a set S of a layer's values mean 0 and variance 1, then a learned scale γ and shift β.

    y = γ (x − μ)/√(σ² + ε) + β,    μ = 1/m Σ_S x,    σ² = 1/m Σ_S (x − μ)²

What S is makes the method. For x of shape (N, C, space) the values that share one μ and σ² are, of
    BatchNorm       a channel: all samples, all positions       Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 1, §3.2
    LayerNorm       a sample: all its features                  Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 3
    InstanceNorm    a channel of a sample: all its positions    Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022
    GroupNorm       a group of neighbouring channels of a sample, all positions   Wu & He 2018, arXiv:1803.08494, eq. 7

Convention: ε inside the root; σ² biased where it normalizes, unbiased in running_var (Ioffe & Szegedy, Alg. 2);
momentum is the weight of the new batch, running ← (1 − momentum)·running + momentum·new, as in torch; the arithmetic is
in float32 or wider.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_channels, check_floating, check_not_negative, check_sizes
from .numerics import at_least_float32


class _Norm(nn.Module):
    """The equations; a subclass says what S is."""

    def __init__(self, shape, eps, weight, bias):
        super().__init__()
        check_not_negative(eps=eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape)) if weight else None  # γ
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None  # β

    def statistics(self, x, over):
        """x − μ, μ, σ² and m over the dimensions of S; E[x²] − μ² would lose the digits of values far from 0."""
        m = math.prod([x.shape[dim] for dim in over])
        mean = x.sum(over, keepdim=True) / m
        centred = x - mean
        return centred, mean, centred.square().sum(over, keepdim=True) / m, m

    def normalize(self, centred, variance, shape):
        """y, with γ and β of a shape that broadcasts against x."""
        scale = (at_least_float32(variance) + self.eps).rsqrt()
        y = centred * (scale if self.weight is None else scale * self.weight.reshape(shape))
        return y if self.bias is None else y + self.bias.reshape(shape)


class _ChannelNorm(_Norm):
    """BatchNorm and InstanceNorm: γ and β per channel, and running statistics, which normalize in evaluation."""

    dimensions: tuple[int, ...]  # that an input may have
    apart: tuple[int, ...] = (1,)  # the dimensions that S does not extend over

    def __init__(self, num_features: int, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        check_sizes(num_features=num_features)
        super().__init__(num_features, eps, affine, affine)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"expected momentum in [0, 1] or None, got {momentum}")
        self.num_features, self.momentum = num_features, momentum
        self.register_buffer("running_mean", torch.zeros(num_features) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    def forward(self, input: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        check_floating(input)
        if input.dim() not in self.dimensions:
            raise ValueError(f"expected an input of dimensions {self.dimensions}, got shape {tuple(input.shape)}")
        check_channels(input, self.num_features)
        x, shape = at_least_float32(input), (-1, *[1] * (input.dim() - 2))
        if self.training or self.running_mean is None:
            over = [dim for dim in range(input.dim()) if dim not in self.apart]
            centred, mean, variance, m = self.statistics(x, over)
            if m < 2 or input.shape[0] == 0:
                raise ValueError(f"expected more than 1 value per channel, got shape {tuple(input.shape)}")
            if self.running_mean is not None:
                self._track(mean, variance * (m / (m - 1)))
        else:
            centred, variance = x - self.running_mean.reshape(shape), self.running_var.reshape(shape)
        return self.normalize(centred, variance, shape).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean, variance):
        self.num_batches_tracked += 1
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            step = new.mean([dim for dim in range(new.dim()) if dim != 1]) - running
            running += step / self.num_batches_tracked if self.momentum is None else self.momentum * step

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if self.num_batches_tracked is not None:  # states from before torch 0.4.1 do not count batches
            state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}"


class BatchNorm1d(_ChannelNorm):
    """Batch normalization of (N, C) or (N, C, L): one mean and variance per channel, of all samples and positions.

    In training the batch's own statistics normalize, and the running ones follow; in evaluation the running ones do.

    Args:
        num_features: C.
        eps: ε.
        momentum: weight of the new batch in the running statistics; None makes them the plain average of all batches.
        affine: if True, γ and β are learned, one of each per channel.
        track_running_stats: if True, running statistics are kept; without them evaluation uses the batch's own, too.

    The buffers are running_mean, initialised to 0, running_var, to 1, and the int64 count num_batches_tracked; a state
    without the count, as torch saved it before 0.4.1, loads and leaves the count as it is.

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
    apart = (0, 1)

    def __init__(self, num_features: int, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False):
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


class LayerNorm(_Norm):
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

    def __init__(self, normalized_shape: int | Sequence[int], eps=1e-5, elementwise_affine=True, bias=True):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"expected normalized_shape of sizes >= 1, got {normalized_shape}")
        super().__init__(shape, eps, elementwise_affine, elementwise_affine and bias)
        self.normalized_shape = shape

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        check_floating(input)
        trailing = len(self.normalized_shape)
        if input.shape[-trailing:] != self.normalized_shape:
            raise ValueError(f"expected an input ending in {self.normalized_shape}, got shape {tuple(input.shape)}")
        centred, _, variance, _ = self.statistics(at_least_float32(input), tuple(range(-trailing, 0)))
        return self.normalize(centred, variance, self.normalized_shape).to(input.dtype)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(_Norm):
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

    def __init__(self, num_groups: int, num_channels: int, eps=1e-5, affine=True):
        check_sizes(num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(f"expected num_channels to be a multiple of num_groups = {num_groups}, got {num_channels}")
        super().__init__(num_channels, eps, affine, affine)
        self.num_groups, self.num_channels = num_groups, num_channels

    def forward(self, input: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        check_floating(input)
        check_channels(input, self.num_channels)
        x = at_least_float32(input).unflatten(1, (self.num_groups, -1))  # N G C/G *
        centred, _, variance, _ = self.statistics(x, tuple(range(2, x.dim())))
        y = self.normalize(centred, variance, (self.num_groups, -1, *[1] * (input.dim() - 2)))
        return y.flatten(1, 2).to(input.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"
