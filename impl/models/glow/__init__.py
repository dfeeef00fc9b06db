"""Glow: a flow of images whose channels are mixed by learned invertible matrices.

Kingma & Dhariwal 2018, arXiv:1807.03039, §3 and table 1. A step of flow on (C, H, W) is

    actnorm      y = s ⊙ x + b, a number for each channel                      log|det| = H W Σ log|s|
    1×1 conv     y = W x at each pixel, W = P L (U + diag(s))                  log|det| = H W Σ log|s|     eq. 9 to 11
    coupling     (x_a, x_b) = halves of the channels;  (h, t) = NN(x_b)
                 y = (σ(h + 2) ⊙ x_a + t, x_b)                                 log|det| = Σ log σ(h + 2)

A level is `squeeze`, K steps, and half of the channels leave for z; the last level keeps all (figure 2b). z is standard
normal under the model.

Convention: the paper writes exp(h) for the coupling's scale; σ(h + 2) is what was released. Images lie in [0, 1), and
½ is subtracted from them. The start that depends on data is a call of its own: `initialize`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.flows import bits_per_dim, log_standard_normal, squeeze, unsqueeze
from ...layers.initialisers import orthogonal_
from ...layers.numerics import at_least_float32

__all__ = ["ActNorm2d", "AffineCoupling2d", "Glow", "InvertibleConv1x1", "bits_per_dim"]

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


class _Shuffle(nn.Module):
    """A fixed order of the channels: what the 1×1 convolution replaced."""

    def __init__(self, order: Tensor):
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x):
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, y):
        return y[:, self.order.argsort()], y.new_zeros(len(y))


class Glow(nn.Module):
    """A multi-scale flow from images to z of as many dimensions.

    Args:
        in_shape: (C, H, W) of an image; H and W divisible by 2^levels.
        levels: L.
        steps: K, of each level.
        hidden_channels: of the couplings' networks.
        permutation: "conv", the invertible 1×1 convolution; "shuffle", a fixed random order of the channels; "reverse",
            their reversal.

    z is (B, C·H·W): what left at the first level, flattened, then that of the next, and all of the last one's.

    Raises:
        ValueError: a size below 1, a shape that cannot be halved so often, another permutation; images of another
            shape.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, §3, figure 2.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        levels: int = 3,
        steps: int = 32,
        hidden_channels: int = 512,
        permutation: str = "conv",
    ):
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"expected in_shape (channels, height, width), got {tuple(in_shape)}")
        c, h, w = in_shape
        check_sizes(channels=c, height=h, width=w, levels=levels, steps=steps)
        if h % 2**levels or w % 2**levels:
            raise ValueError(f"expected a height and width divisible by 2^{levels}, got {h} and {w}")
        kinds = {
            "conv": InvertibleConv1x1,
            "shuffle": lambda c: _Shuffle(torch.randperm(c)),
            "reverse": lambda c: _Shuffle(torch.arange(c).flip(0)),
        }
        if permutation not in kinds:
            raise ValueError(f"expected a permutation of {', '.join(kinds)}, got {permutation!r}")
        self.in_shape, self.levels, self.shapes = (c, h, w), nn.ModuleList(), []
        for level in range(levels):
            c, h, w = 4 * c, h // 2, w // 2
            layers = [
                layer
                for _ in range(steps)
                for layer in (ActNorm2d(c), kinds[permutation](c), AffineCoupling2d(c, hidden_channels))
            ]
            self.levels.append(nn.ModuleList(layers))
            c = c // 2 if level < levels - 1 else c
            self.shapes.append((c, h, w))  # of what leaves for z

    def forward(self, x: Images) -> tuple[Float[Tensor, "b d"], LogDet]:
        """z = f(x), and log|det ∂z/∂x| of each image."""
        return self._forward(x, initialize=False)

    @torch.no_grad()
    def initialize(self, x: Images) -> None:
        """Sets every actnorm, one after the other, by what reaches it of this batch."""
        self._forward(x, initialize=True)

    def _forward(self, x, initialize):
        if x.shape[1:] != self.in_shape:
            raise ValueError(f"expected images of shape {self.in_shape}, got {tuple(x.shape)}")
        h, log_det, left = x - 0.5, x.new_zeros(len(x)), []
        for number, layers in enumerate(self.levels):
            h = squeeze(h)
            for layer in layers:
                if initialize and isinstance(layer, ActNorm2d):
                    layer.initialize(h)
                h, part = layer(h)
                log_det = log_det + part
            if number < len(self.levels) - 1:
                z, h = h.chunk(2, dim=1)
                left.append(z.flatten(1))
        return torch.cat([*left, h.flatten(1)], dim=1), log_det

    def inverse(self, z: Float[Tensor, "b d"]) -> tuple[Images, LogDet]:
        """x = f⁻¹(z), and log|det ∂x/∂z| of each sample.

        Raises:
            ValueError: z of another width than C·H·W.
        """
        if z.dim() != 2 or z.shape[1] != math.prod(self.in_shape):
            raise ValueError(f"expected z of shape (batch, {math.prod(self.in_shape)}), got {tuple(z.shape)}")
        *left, h = (p.unflatten(1, s) for p, s in zip(z.split([math.prod(s) for s in self.shapes], 1), self.shapes))
        log_det = z.new_zeros(len(z))
        for number, layers in reversed(list(enumerate(self.levels))):
            if number < len(self.levels) - 1:
                h = torch.cat([left[number], h], dim=1)
            for layer in reversed(layers):
                h, part = layer.inverse(h)
                log_det = log_det + part
            h = unsqueeze(h)
        return h + 0.5, log_det

    def log_prob(self, x: Images) -> Float[Tensor, " b"]:
        """log p(x) = log N(f(x); 0, I) + log|det ∂f/∂x|, in nats."""
        z, log_det = self(x)
        return log_standard_normal(z) + log_det

    def sample(self, n: int, temperature: float = 1.0, generator: Generator | None = None) -> Images:
        """f⁻¹ of n samples of N(0, T² I).

        Args:
            temperature: T >= 0; below 1, samples are nearer to the mode and less varied.

        Raises:
            ValueError: n below 1, or a negative temperature.

        Source: Kingma & Dhariwal 2018, §5, "Synthesis and interpolation".
        """
        check_sizes(n=n)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"expected a temperature >= 0, got {temperature}")
        like = next(self.parameters())
        noise = torch.randn(n, math.prod(self.in_shape), generator=generator, dtype=like.dtype, device=like.device)
        return self.inverse(temperature * noise)[0]


def _check(x, channels):
    """Images of so many channels."""
    check_space(x, 2, channels)
