"""StyleGAN and StyleGAN2: generators whose every layer is controlled by a style of its own.

Karras, Laine & Aila 2018, arXiv:1812.04948; Karras, Laine, Aittala, Hellsten, Lehtinen & Aila 2019, arXiv:1912.04958.

    w = f(z),  y = A w + b at every layer; the image starts from a learned constant             (2018, §2, figure 1b)
    AdaIN(x_i, y) = y_s,i (x_i − μ(x_i))/σ(x_i) + y_b,i                                         (2018, eq. 1)
    w'_ijk = s_i w_ijk,  w''_ijk = w'_ijk/√(Σ_i,k w'_ijk² + ε)                                  (2019, eq. 1-3)
    truncation: w ← w̄ + ψ (w − w̄), w̄ = E_z f(z); mixing: another w from a random layer on       (2018, appendix B, §3.1)
    R₁ = γ/2 E‖∇D(x)‖²;  path length: E(‖J_wᵀ y‖ − a)²                                          (2019, eq. 4)

`StyleGANGenerator` grows: it gives images at every resolution, faded in from the one below. `StyleGAN2Generator` has
the skip connections that replaced growing: its image is a sum of images of all resolutions.

Convention: all weights are stored as N(0, 1) and multiplied by 1/√fan_in at run time (equalised learning rate); every
activation is √2 · LeakyReLU of slope 0.2; convolutions of 3×3 have zeros around the image. Upsampling puts zeros
between the pixels and filters by [1, 3, 3, 1]/4 in each dimension; the convolution after it sees what the filter
leaks over the edge. Downsampling filters by [1, 3, 3, 1]/8. Resolution R has 2 log₂ R − 2 styles. In training w̄
follows the batch, styles are mixed and noise is fresh; in evaluation none of these happens, and noise is the fixed
one of the state.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_finite, check_sizes
from ...layers.upsampling import Upsample
from .discriminator import (
    StyleGAN2Discriminator,
    StyleGANDiscriminator,
    check_fade,
    minibatch_stddev,
    resolutions,
    widths,
)
from .layers import (
    AdaptiveInstanceNorm2d,
    EqualizedConv2d,
    MappingNetwork,
    ModulatedConv2d,
    NoiseInjection,
    leaky,
    upsampled,
)
from .regularization import PathLengthPenalty, r1_penalty

__all__ = [
    "AdaptiveInstanceNorm2d",
    "MappingNetwork",
    "ModulatedConv2d",
    "NoiseInjection",
    "PathLengthPenalty",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleGANDiscriminator",
    "StyleGANGenerator",
    "minibatch_stddev",
    "r1_penalty",
]

Latent = Float[Tensor, "b z"]
Styles = Float[Tensor, "b layers d"]
Images = Float[Tensor, "b c h w"]

_nearest = Upsample(scale_factor=2)


class _Generator(nn.Module):
    """What both generators share: the constant, and styles from z."""

    def __init__(self, z_dim, w_dim, resolution, image_channels, channels, num_layers, mixing_prob, w_avg_beta):
        super().__init__()
        check_sizes(image_channels=image_channels)
        for name, value in (("mixing_prob", mixing_prob), ("w_avg_beta", w_avg_beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {value}")
        self.sizes = resolutions(resolution)
        self.num_ws = 2 * len(self.sizes)
        self.mixing_prob, self.w_avg_beta = mixing_prob, w_avg_beta
        self.mapping = MappingNetwork(z_dim, w_dim, num_layers)
        self.register_buffer("w_avg", torch.zeros(w_dim))  # w̄
        self.const = nn.Parameter(torch.randn(channels, 4, 4))

    def styles(
        self,
        z: Latent,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        num_ws: int | None = None,
        generator: Generator | None = None,
    ) -> Styles:
        """A style for each layer, from z; in training with w̄ updated, and mixed with those of a second, random z.

        Args:
            truncation_psi: ψ; 1 leaves every w as it is, 0 puts w̄ in its place.
            truncation_cutoff: how many layers are truncated, from the coarsest on; None for all.
            num_ws: how many styles; None for those of the full resolution.
            generator: of the second z, the layer of the crossover and the choice of the mixed samples.

        Raises:
            ValueError: an infinite truncation_psi or NaN, a negative truncation_cutoff, num_ws below 1 or above
                `num_ws`, z of another size, in training no sample.
        """
        check_finite(truncation_psi=truncation_psi)
        num_ws = self.num_ws if num_ws is None else num_ws
        cutoff = num_ws if truncation_cutoff is None else truncation_cutoff
        if cutoff < 0 or not 1 <= num_ws <= self.num_ws:
            raise ValueError(f"expected a cutoff >= 0 and 1 to {self.num_ws} styles, got {cutoff} and {num_ws}")
        w = self.mapping(z)
        ws = w[:, None].expand(-1, num_ws, -1)
        layer = torch.arange(num_ws, device=z.device)
        if self.training:
            check_sizes(batch=z.shape[0])
            self.w_avg.lerp_(w.detach().mean(0).to(self.w_avg.dtype), 1 - self.w_avg_beta)
            like = {"generator": generator, "device": z.device}
            second = self.mapping(torch.randn(z.shape, dtype=z.dtype, **like))
            crossover = torch.randint(1, max(num_ws, 2), (z.shape[0], 1), **like)
            mixed = torch.rand(z.shape[0], 1, **like) < self.mixing_prob
            ws = torch.where((mixed & (layer >= crossover))[:, :, None], second[:, None], ws)
        psi = 1 + (truncation_psi - 1) * (layer < cutoff).to(ws.dtype)[:, None]  # 1 where nothing is truncated
        return torch.lerp(self.w_avg.to(ws.dtype), ws, psi)


class _AdaptiveLayer(nn.Module):
    """(3×3 convolution,) noise, bias, activation, AdaIN."""

    def __init__(self, conv, channels, size, w_dim):
        super().__init__()
        self.conv = conv
        self.noise = NoiseInjection(size, channels)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = AdaptiveInstanceNorm2d(channels, w_dim)

    def forward(self, x, w, noise_mode, generator):
        x = x if self.conv is None else self.conv(x)
        return self.norm(leaky(self.noise(x, noise_mode, generator) + self.bias[:, None, None]), w)


class _ModulatedLayer(nn.Module):
    """Modulated 3×3 convolution, noise, bias, activation."""

    def __init__(self, in_channels, channels, size, w_dim, up):
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, channels, 3, w_dim, up=up)
        self.noise = NoiseInjection(size)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, w, noise_mode, generator):
        return leaky(self.noise(self.conv(x, w), noise_mode, generator) + self.bias[:, None, None])


class _ModulatedImage(nn.Module):
    """The image of one resolution: modulated, not demodulated."""

    def __init__(self, channels, image_channels, w_dim):
        super().__init__()
        self.conv = ModulatedConv2d(channels, image_channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(image_channels))

    def forward(self, x, w):
        return self.conv(x, w) + self.bias[:, None, None]


class StyleGANGenerator(_Generator):
    """The first generator: two layers with AdaIN at each resolution, and an image from the last of them.

    Args:
        z_dim, w_dim: sizes of z and w.
        resolution: of the largest images, a power of two, at least 4.
        channel_base, channel_max: min(channel_base // size, channel_max) channels at each size.
        image_channels: of the images.
        num_layers: of the mapping network.
        mixing_prob: share of the samples of a training batch whose styles are mixed from two z.
        w_avg_beta: w̄ ← w_avg_beta · w̄ + (1 − w_avg_beta) · mean of the batch's w.

    A layer is a 3×3 convolution, noise of a strength for each channel, bias, activation, AdaIN. The first layer of a
    resolution upsamples before it convolves; that of the coarsest has no convolution, its input is the constant. An
    image is a 1×1 convolution of the last layer of its resolution; `to_rgb` counts from the coarsest.

    Raises:
        ValueError: a size, mixing_prob or w_avg_beta out of range, or channel_base below the resolution.

    Source: Karras, Laine & Aila 2018, §2, figure 1b and appendices B and C.
    """

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        resolution: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        image_channels: int = 3,
        num_layers: int = 8,
        mixing_prob: float = 0.9,
        w_avg_beta: float = 0.995,
    ):
        channels = widths(resolution, channel_base, channel_max)
        super().__init__(z_dim, w_dim, resolution, image_channels, channels[0], num_layers, mixing_prob, w_avg_beta)
        self.layers = nn.ModuleList()
        for size, before, c in zip(self.sizes, [None, *channels], channels):
            first = None if before is None else EqualizedConv2d(before, c, 3, padding=1, bias=False, up=2)
            second = EqualizedConv2d(c, c, 3, padding=1, bias=False)
            self.layers.extend(_AdaptiveLayer(conv, c, size, w_dim) for conv in (first, second))
        self.to_rgb = nn.ModuleList(EqualizedConv2d(c, image_channels, 1) for c in channels)

    def forward(
        self,
        z: Latent,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
        generator: Generator | None = None,
        resolution: int | None = None,
        alpha: float = 1.0,
    ) -> Images:
        """Images from z: `styles`, then `synthesis`.

        Args:
            resolution: of the images, from 4 to the generator's; None for that.
        """
        resolution = self.sizes[-1] if resolution is None else resolution
        if resolution not in self.sizes:
            raise ValueError(f"expected resolution of {self.sizes}, got {resolution}")
        num_ws = 2 * self.sizes.index(resolution) + 2
        ws = self.styles(z, truncation_psi, truncation_cutoff, num_ws, generator)
        return self.synthesis(ws, noise_mode, generator, alpha)

    def synthesis(
        self, ws: Styles, noise_mode: str | None = None, generator: Generator | None = None, alpha: float = 1.0
    ) -> Images:
        """Images from 2 log₂ R − 2 styles, at that resolution R.

        Args:
            noise_mode, generator: as in `NoiseInjection`, at every layer.
            alpha: weight of the image at this resolution; the rest is the one of the resolution below, enlarged by
                its nearest pixels.
        """
        check_fade(alpha)
        last = ws.shape[1] // 2 - 1
        if ws.shape[1] % 2 or not 0 <= last < len(self.sizes):
            raise ValueError(f"expected an even number of styles, 2 to {self.num_ws}, got {ws.shape[1]}")
        x = below = self.const.expand(ws.shape[0], -1, -1, -1)
        for n, layer in enumerate(self.layers[: ws.shape[1]]):
            below = x if n == 2 * last else below
            x = layer(x, ws[:, n], noise_mode, generator)
        image = self.to_rgb[last](x)
        if last and alpha < 1:
            image = torch.lerp(_nearest(self.to_rgb[last - 1](below)), image, alpha)
        return image


class StyleGAN2Generator(_Generator):
    """The second generator: modulated convolutions, and an image that is a sum over resolutions.

    Args:
        channel_base: min(channel_base // size, channel_max) channels at each size; twice the first paper's.
        z_dim, w_dim, resolution, channel_max, image_channels, num_layers, mixing_prob, w_avg_beta: as in
            `StyleGANGenerator`.

    A layer is a modulated 3×3 convolution, noise of one strength, bias, activation. At the coarsest resolution there is
    one layer; at every other there are two, of which the first upsamples. A modulated 1×1 convolution that is not
    demodulated, and a bias, make the image of each resolution of its last layer; it takes the style after that layer's,
    which is also the style of the layer that follows. The image of the resolution below is upsampled and added.

    Raises:
        ValueError: as `StyleGANGenerator`.

    Source: Karras et al. 2019, figures 2c and 7b, §2.2 and §4.1.
    """

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        resolution: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        image_channels: int = 3,
        num_layers: int = 8,
        mixing_prob: float = 0.9,
        w_avg_beta: float = 0.995,
    ):
        channels = widths(resolution, channel_base, channel_max)
        super().__init__(z_dim, w_dim, resolution, image_channels, channels[0], num_layers, mixing_prob, w_avg_beta)
        self.layers = nn.ModuleList([_ModulatedLayer(channels[0], channels[0], 4, w_dim, up=1)])
        for size, before, c in zip(self.sizes[1:], channels, channels[1:]):
            self.layers.append(_ModulatedLayer(before, c, size, w_dim, up=2))
            self.layers.append(_ModulatedLayer(c, c, size, w_dim, up=1))
        self.to_rgb = nn.ModuleList(_ModulatedImage(c, image_channels, w_dim) for c in channels)

    def forward(
        self,
        z: Latent,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
        generator: Generator | None = None,
    ) -> Images:
        """Images from z: `styles`, then `synthesis`."""
        ws = self.styles(z, truncation_psi, truncation_cutoff, generator=generator)
        return self.synthesis(ws, noise_mode, generator)

    def synthesis(self, ws: Styles, noise_mode: str | None = None, generator: Generator | None = None) -> Images:
        """Images from the styles of all layers; `noise_mode` and `generator` as in `NoiseInjection`."""
        if ws.shape[1] != self.num_ws:
            raise ValueError(f"expected {self.num_ws} styles, got {ws.shape[1]}")
        x, image = self.const.expand(ws.shape[0], -1, -1, -1), None
        for n, layer in enumerate(self.layers):
            x = layer(x, ws[:, n], noise_mode, generator)
            if n % 2 == 0:  # the last layer of its resolution
                part = self.to_rgb[n // 2](x, ws[:, n + 1])
                image = part if image is None else upsampled(image) + part
        return image
