"""RealNVP: an invertible network of couplings, whose density, inverse and samples are all exact and cheap.

Dinh, Sohl-Dickstein & Bengio 2016, arXiv:1605.08803.

    log p(x) = log p_Z(f(x)) + log|det ∂f/∂x|,  p_Z = N(0, I)                             (eq. 2, 3)
    y = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s(b ⊙ x)) + t(b ⊙ x)),  log|det| = Σ (1 − b) ⊙ s       (eq. 6, 9)
    x = b ⊙ y + (1 − b) ⊙ (y − t(b ⊙ y)) ⊙ exp(−s(b ⊙ y))                                 (eq. 8)
    (z⁽ⁱ⁺¹⁾, h⁽ⁱ⁺¹⁾) = f⁽ⁱ⁺¹⁾(h⁽ⁱ⁾),  z = (z⁽¹⁾, …, z⁽ᴸ⁾)                                  (eq. 13-16)

Convention: b = 1 where x passes unchanged; s = scale ⊙ tanh(·) with a learned scale of each channel (§4.1). The
networks are residual, without batch normalization (§3.7), so that the density of a sample is its own.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_fractions, check_sizes
from ...layers.convolution import Conv2d
from ...layers.flows import from_logits, log_standard_normal, squeeze, to_logits, unsqueeze

Sample = Float[Tensor, "batch features *space"]
LogDet = Float[Tensor, " batch"]


def checkerboard_mask(channels: int, height: int, width: int, parity: int = 1) -> Bool[Tensor, "c h w"]:
    """b = 1 where row + column is odd (parity 1) or even (parity 0), the same in every channel.

    Raises:
        ValueError: a size below 1, or another parity.

    Source: §3.4, figure 3, left.
    """
    check_sizes(channels=channels, height=height, width=width)
    _check_parity(parity)
    odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == parity
    return odd.expand(channels, height, width).clone()


def channel_mask(channels: int, height: int, width: int, parity: int = 1) -> Bool[Tensor, "c h w"]:
    """b = 1 in the first half of the channels (parity 1) or in the second (parity 0).

    Raises:
        ValueError: a size below 1, an odd number of channels, or another parity.

    Source: §3.4, figure 3, right.
    """
    check_sizes(channels=channels, height=height, width=width)
    _check_parity(parity)
    if channels % 2:
        raise ValueError(f"expected an even number of channels, got {channels}")
    first = (torch.arange(channels) < channels // 2) == (parity == 1)
    return first[:, None, None].expand(channels, height, width).clone()


def _check_parity(parity):
    if parity not in (0, 1):
        raise ValueError(f"expected parity 0 or 1, got {parity}")


class AffineCoupling(nn.Module):
    """Scales and shifts a part of x by amounts that the other part decides.

    Args:
        mask: b, of the shape of a sample, (features, *space): True or 1 where x passes unchanged.
        net: (B, features, *space) → (B, 2·features, *space): what goes into tanh, then t. It sees b ⊙ x alone.

    The state has `mask`, boolean, and `scale` of shape (features,), initialised at 1, next to the state of `net`.

    Raises:
        ValueError: a mask without dimensions or with other values than 0 and 1; an input of another shape than the
            mask's; a network whose output has another shape.

    Source: §3.2-3.4, eq. 4-9.
    """

    def __init__(self, mask: Tensor, net: Callable[[Tensor], Tensor]):
        super().__init__()
        if mask.dim() < 1 or 0 in mask.shape or (mask.is_floating_point() and mask.isnan().any()):
            raise ValueError(f"expected a mask of 0 and 1 with 1 or more dimensions, got shape {tuple(mask.shape)}")
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"expected a mask of 0 and 1, got {mask.unique().tolist()}")
        self.register_buffer("mask", mask.bool().clone())
        self.net = net
        self.scale = nn.Parameter(torch.ones(mask.shape[0]))

    def forward(self, x: Sample) -> tuple[Sample, LogDet]:
        """y, and log|det ∂y/∂x| of each sample."""
        s, t = self._scale_and_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, y: Sample) -> tuple[Sample, LogDet]:
        """x, and log|det ∂x/∂y| of each sample."""
        s, t = self._scale_and_shift(y)
        return (y - t) * (-s).exp(), -s.flatten(1).sum(1)

    def _scale_and_shift(self, x):
        """(1 − b) ⊙ s(b ⊙ x) and (1 − b) ⊙ t(b ⊙ x): both 0 where x passes unchanged, so it may be x or y."""
        if x.shape[1:] != self.mask.shape:
            raise ValueError(f"expected samples of shape {tuple(self.mask.shape)}, got {tuple(x.shape)}")
        output = self.net(x.masked_fill(~self.mask, 0))
        expected = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        if output.shape != expected:
            raise ValueError(f"expected {expected} from the network, got {tuple(output.shape)}")
        s, t = output.chunk(2, dim=1)
        s = self.scale.view(-1, *[1] * (x.dim() - 2)) * s.tanh()
        return s.masked_fill(self.mask, 0), t.masked_fill(self.mask, 0)


class _ResidualNetwork(nn.Module):
    """s and t of images: 3×3 convolutions in residual blocks (§3.7), the last one initialised at 0."""

    def __init__(self, channels: int, hidden_channels: int, num_blocks: int):
        super().__init__()
        self.first = Conv2d(channels, hidden_channels, 3, padding=1)
        inner = [Conv2d(hidden_channels, hidden_channels, 3, padding=1) for _ in range(2 * num_blocks)]
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in zip(inner[::2], inner[1::2]))
        self.last = Conv2d(hidden_channels, 2 * channels, 3, padding=1)
        self.last.weight.data.zero_()
        self.last.bias.data.zero_()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        h = self.first(x)
        for one, two in self.blocks:
            h = h + two(one(h.relu()).relu())
        return self.last(h.relu())


class RealNVP(nn.Module):
    """A multi-scale flow from images to z of as many dimensions, standard normal under the model.

    Of each scale but the last: three couplings of alternating checkerboards, the first with parity 1; `squeeze`; three
    couplings of alternating halves of the channels, the first with parity 1; then the first half of the channels is
    factored out into z. The last scale has four couplings of alternating checkerboards, the first with parity 1.

    Args:
        in_shape: (C, H, W) of an image; H and W divisible by 2^(num_scales − 1).
        num_scales: L.
        hidden_channels, num_blocks: width and residual blocks of the network in each coupling.
        alpha: images lie in [0, 1) and go through `to_logits` first; None for data of any real values.

    z is (B, C·H·W): what was factored out at the first scale, flattened, then that of the next, and the last one's.
    Every network starts at s = t = 0, so that a new model with alpha=None is a permutation.

    Raises:
        ValueError: a size below 1, a shape that cannot be halved so often, alpha outside of [0, 1); an input of another
            shape.

    Source: §3.4-3.6, §4.1.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        num_scales: int = 2,
        hidden_channels: int = 32,
        num_blocks: int = 2,
        alpha: float | None = 0.05,
    ):
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"expected in_shape (channels, height, width), got {tuple(in_shape)}")
        c, h, w = in_shape
        check_sizes(channels=c, height=h, width=w)
        check_sizes(num_scales=num_scales, hidden_channels=hidden_channels, num_blocks=num_blocks)
        if h % 2 ** (num_scales - 1) or w % 2 ** (num_scales - 1):
            raise ValueError(f"expected a height and width divisible by 2^{num_scales - 1}, got {h} and {w}")
        if alpha is not None:
            check_fractions(alpha=alpha)
        self.in_shape, self.alpha = (c, h, w), alpha

        def couplings(make_mask, count):
            masks = [make_mask(c, h, w, parity=(i + 1) % 2) for i in range(count)]
            return nn.ModuleList(AffineCoupling(m, _ResidualNetwork(c, hidden_channels, num_blocks)) for m in masks)

        self.checkerboards, self.channels = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_scales - 1):
            self.checkerboards.append(couplings(checkerboard_mask, 3))
            c, h, w = 4 * c, h // 2, w // 2
            self.channels.append(couplings(channel_mask, 3))
            c = c // 2  # the other half is factored out
        self.last = couplings(checkerboard_mask, 4)
        self.last_shape = (c, h, w)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], LogDet]:
        """z = f(x), and log|det ∂z/∂x| of each image, that of the logits included."""
        if x.shape[1:] != self.in_shape:
            raise ValueError(f"expected images of shape {self.in_shape}, got {tuple(x.shape)}")
        h, log_det = (x, x.new_zeros(x.shape[0])) if self.alpha is None else to_logits(x, self.alpha)
        factored = []
        for checkerboards, channels in zip(self.checkerboards, self.channels):
            h, log_det = _through(checkerboards, h, log_det)
            h, log_det = _through(channels, squeeze(h), log_det)
            z, h = h.chunk(2, dim=1)
            factored.append(z.flatten(1))
        h, log_det = _through(self.last, h, log_det)
        return torch.cat([*factored, h.flatten(1)], dim=1), log_det

    def inverse(self, z: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b c h w"], LogDet]:
        """x = f⁻¹(z), and log|det ∂x/∂z| of each sample.

        Raises:
            ValueError: z of another width than C·H·W.
        """
        if z.dim() != 2 or z.shape[1] != math.prod(self.in_shape):
            raise ValueError(f"expected z of shape (batch, {math.prod(self.in_shape)}), got {tuple(z.shape)}")
        c, h, w = self.last_shape
        shapes = [(c // 2**i, h * 2**i, w * 2**i) for i in range(len(self.channels))]  # the coarsest first
        *factored, last = z.split([*(math.prod(s) for s in reversed(shapes)), c * h * w], dim=1)
        x, log_det = _back(self.last, last.unflatten(1, (c, h, w)), z.new_zeros(z.shape[0]))
        for checkerboards, channels, part, shape in zip(
            reversed(self.checkerboards), reversed(self.channels), reversed(factored), shapes
        ):
            x, log_det = _back(channels, torch.cat([part.unflatten(1, shape), x], dim=1), log_det)
            x, log_det = _back(checkerboards, unsqueeze(x), log_det)
        if self.alpha is None:
            return x, log_det
        x, slope = from_logits(x, self.alpha)
        return x, log_det + slope

    def log_prob(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """log p(x) = log N(f(x); 0, I) + log|det ∂f/∂x|, in nats (eq. 3)."""
        z, log_det = self(x)
        return log_standard_normal(z) + log_det

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n c h w"]:
        """f⁻¹ of n samples of N(0, I).

        Raises:
            ValueError: n below 1.
        """
        check_sizes(n=n)
        like = self.last[0].scale
        noise = torch.randn(n, math.prod(self.in_shape), generator=generator, dtype=like.dtype, device=like.device)
        return self.inverse(noise)[0]


def _through(layers, h, log_det):
    """All layers in order, and the sum of log-determinants."""
    for layer in layers:
        h, part = layer(h)
        log_det = log_det + part
    return h, log_det


def _back(layers, h, log_det):
    """Their inverses in reverse order, and the sum of log-determinants."""
    for layer in reversed(layers):
        h, part = layer.inverse(h)
        log_det = log_det + part
    return h, log_det
