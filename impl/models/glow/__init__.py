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

from ...layers.checks import check_sizes
from ...layers.flows import bits_per_dim, log_standard_normal, squeeze, unsqueeze
from .layers import ActNorm2d, AffineCoupling2d, Images, InvertibleConv1x1, LogDet

__all__ = ["ActNorm2d", "AffineCoupling2d", "Glow", "InvertibleConv1x1", "bits_per_dim"]


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
