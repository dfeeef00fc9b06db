"""The three layers of a step of flow: each gives its output and log|det| of its Jacobian, forwards and backwards.

Kingma & Dhariwal 2018, arXiv:1807.03039, table 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.initialisers import orthogonal_
from ...layers.numerics import at_least_float32

Images = Float[Tensor, "b c h w"]
LogDet = Float[Tensor, " b"]


def _pixels(x: Tensor, each: Tensor) -> Tensor:
    """A log-determinant of one pixel, for all pixels of each sample: (b)."""
    return (each * x.shape[2] * x.shape[3]).expand(len(x))


class ActNorm2d(nn.Module):
    """y = s ⊙ x + b with a scale and a bias of each channel.

    Args:
        num_channels: C.

    Raises:
        ValueError: a size below 1; images of other channels.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, §3.1. s is 1 and b 0 until `initialize`.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        check_sizes(num_channels=num_channels)
        self.scale, self.bias = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels))

    @torch.no_grad()
    def initialize(self, x: Images) -> None:
        """Sets s and b so that the channels of y have mean 0 and variance 1 on this batch.

        A channel that is constant is divided by 10⁻⁶.
        """
        _check(x, len(self.scale))
        mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
        self.scale.copy_(1 / (std + 1e-6))
        self.bias.copy_(-mean * self.scale)

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        """y, and log|det ∂y/∂x| of each sample."""
        _check(x, len(self.scale))
        return x * self.scale[:, None, None] + self.bias[:, None, None], _pixels(x, self.scale.abs().log().sum())

    def inverse(self, y: Images) -> tuple[Images, LogDet]:
        """x, and log|det ∂x/∂y| of each sample."""
        _check(y, len(self.scale))
        return (y - self.bias[:, None, None]) / self.scale[:, None, None], _pixels(y, -self.scale.abs().log().sum())


class InvertibleConv1x1(nn.Module):
    """y = W x at each pixel, W a square matrix of channels that begins as a random rotation.

    Args:
        num_channels: C.
        lu_decomposed: if True, W = P L (U + diag(s)) with a fixed permutation P and fixed signs of s: L is lower
            triangular with ones on its diagonal, U strictly upper triangular. If False, W itself is the parameter.

    The state has `weight`, or else `permutation` (C, C), `sign` (C,), `lower` and `upper` (C, C), of which only what
    lies below or above the diagonal counts, and `log_scale` (C,), ln |s|.

    Raises:
        ValueError: a size below 1; images of other channels.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, §3.2, eq. 9 to 11.
    """

    def __init__(self, num_channels: int, lu_decomposed: bool = True):
        super().__init__()
        check_sizes(num_channels=num_channels)
        rotation, self.lu_decomposed = orthogonal_(torch.empty(num_channels, num_channels)), lu_decomposed
        if not lu_decomposed:
            self.weight = nn.Parameter(rotation)
            return
        p, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("permutation", p)
        self.register_buffer("sign", upper.diagonal().sign())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(upper.diagonal().abs().log())

    def matrix(self) -> Float[Tensor, "c c"]:
        """W."""
        if not self.lu_decomposed:
            return self.weight
        lower, upper = self._factors()
        return self.permutation @ lower @ upper

    def _factors(self):
        """L and U + diag(s)."""
        one = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + (self.sign * self.log_scale.exp()).diag()

    def _log_det(self):
        if self.lu_decomposed:
            return self.log_scale.sum()
        return torch.linalg.slogdet(at_least_float32(self.weight)).logabsdet.to(self.weight.dtype)

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        """y, and log|det ∂y/∂x| of each sample."""
        w = self.matrix()
        _check(x, len(w))
        return (w @ x.flatten(2)).view_as(x), _pixels(x, self._log_det())

    def inverse(self, y: Images) -> tuple[Images, LogDet]:
        """x, and log|det ∂x/∂y| of each sample; by two triangular systems if W is decomposed."""
        flat = y.flatten(2)
        if self.lu_decomposed:
            lower, upper = self._factors()
            _check(y, len(upper))
            x = torch.linalg.solve_triangular(lower, self.permutation.T @ flat, upper=False, unitriangular=True)
            x = torch.linalg.solve_triangular(upper, x, upper=True)
        else:
            _check(y, len(self.weight))
            x = torch.linalg.solve(self.weight, flat)
        return x.view_as(y), _pixels(y, -self._log_det())


class AffineCoupling2d(nn.Module):
    """The first half of the channels is scaled and shifted by amounts that the second half decides.

    Args:
        num_channels: C, even.
        hidden_channels: of the network's two hidden layers.

    The network is three convolutions, `first` 3×3, `second` 1×1 and `last` 3×3, with ReLU between; the last is 0 at
    first, so that y_a = σ(2) x_a. Its output has h for each channel of x_a, then t.

    Raises:
        ValueError: a size below 1, an odd number of channels; images of other channels.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, §3.3, table 1.
    """

    def __init__(self, num_channels: int, hidden_channels: int):
        super().__init__()
        check_sizes(num_channels=num_channels, hidden_channels=hidden_channels)
        if num_channels % 2:
            raise ValueError(f"expected an even number of channels, got {num_channels}")
        self.num_channels = num_channels
        self.first = Conv2d(num_channels // 2, hidden_channels, 3, padding=1)
        self.second = Conv2d(hidden_channels, hidden_channels, 1)
        self.last = Conv2d(hidden_channels, num_channels, 3, padding=1)
        self.last.weight.data.zero_()
        self.last.bias.data.zero_()

    def _scale_and_shift(self, b):
        """σ(h + 2), its logarithm summed over each sample, and t."""
        h, t = self.last(self.second(self.first(b).relu()).relu()).chunk(2, dim=1)
        log_scale = -torch.logaddexp(torch.zeros_like(h), -h - 2)  # ln σ(h + 2)
        return log_scale.exp(), log_scale.flatten(1).sum(1), t

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        """y, and log|det ∂y/∂x| of each sample."""
        _check(x, self.num_channels)
        a, b = x.chunk(2, dim=1)
        scale, log_det, t = self._scale_and_shift(b)
        return torch.cat([scale * a + t, b], dim=1), log_det

    def inverse(self, y: Images) -> tuple[Images, LogDet]:
        """x, and log|det ∂x/∂y| of each sample."""
        _check(y, self.num_channels)
        a, b = y.chunk(2, dim=1)
        scale, log_det, t = self._scale_and_shift(b)
        return torch.cat([(a - t) / scale, b], dim=1), -log_det


def _check(x, channels):
    """Images of so many channels."""
    check_space(x, 2, channels)
