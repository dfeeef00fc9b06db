"""The first stage of latent diffusion: an autoencoder of images whose latents are kept near to N(0, I), lightly.

Rombach et al. 2021, arXiv:2112.10752, §3.1 and appendix G; the layout after Esser, Rombach & Ommer 2020,
arXiv:2012.09841: residual blocks at each size as in DDPM, but with no time, attention at the coarsest alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.activation import SiLU
from ...layers.checks import check_not_negative, check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.normalization import GroupNorm
from ..ddpm import AttentionBlock, ResidualBlock
from ..vae import gaussian_kl

Images = Float[Tensor, "n c h w"]
Latents = Float[Tensor, "n z rows columns"]


class AutoencoderKL(nn.Module):
    """Images to the mean and log variance of their latents, 2^(sizes − 1) times smaller, and latents to images.

    Args:
        in_channels: of the images.
        latent_channels: of the latents.
        base_channels: of the first convolution.
        channel_mults: channels of each size, from fine to coarse, as multiples of base_channels.
        num_res_blocks: residual blocks of each size of the encoder; the decoder has one more.
        groups: of the norms.

    Raises:
        ValueError: a size below 1, no size, groups that do not divide; images or latents of other channels, sides that
            do not halve evenly.

    Source: Rombach et al. 2021, arXiv:2112.10752, §3.1; defaults are those of the released Stable Diffusion.
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        base_channels: int = 128,
        channel_mults: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        groups: int = 32,
    ):
        super().__init__()
        check_sizes(latent_channels=latent_channels, num_res_blocks=num_res_blocks, sizes=len(channel_mults))
        widths, z = [base_channels * m for m in channel_mults], latent_channels
        self.in_channels, self.latent_channels, self.factor = in_channels, z, 2 ** (len(widths) - 1)

        def blocks_of_a_size(before, after, count):
            return [ResidualBlock(c, after, None, groups) for c in [before] + [after] * (count - 1)]

        def middle(c):
            return [ResidualBlock(c, c, None, groups), AttentionBlock(c, groups), ResidualBlock(c, c, None, groups)]

        def last(c, channels):
            return [GroupNorm(groups, c, 1e-6), SiLU(), Conv2d(c, channels, 3, padding=1)]

        layers = [Conv2d(in_channels, base_channels, 3, padding=1)]
        for number, (before, after) in enumerate(zip([base_channels, *widths], widths)):
            layers += blocks_of_a_size(before, after, num_res_blocks)
            if number < len(widths) - 1:
                layers.append(Conv2d(after, after, 3, stride=2, padding=((0, 1), (0, 1))))
        self.encoder = nn.Sequential(*layers, *middle(widths[-1]), *last(widths[-1], 2 * z), Conv2d(2 * z, 2 * z, 1))
        layers = [Conv2d(z, z, 1), Conv2d(z, widths[-1], 3, padding=1), *middle(widths[-1])]
        for number, (before, after) in enumerate(zip([widths[-1], *widths[::-1]], widths[::-1])):
            layers += blocks_of_a_size(before, after, num_res_blocks + 1)
            if number < len(widths) - 1:
                layers += [_Twice(), Conv2d(after, after, 3, padding=1)]
        self.decoder = nn.Sequential(*layers, *last(widths[0], in_channels))

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log variance of the latents; the latter in [−30, 20], as released."""
        check_space(images, 2, self.in_channels)
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ValueError(f"expected sides that {self.factor} divides, got {tuple(images.shape)}")
        mu, logvar = self.encoder(images).chunk(2, dim=1)
        return mu, logvar.clamp(-30.0, 20.0)

    def decode(self, latents: Latents) -> Images:
        check_space(latents, 2, self.latent_channels)
        return self.decoder(latents)

    def forward(self, images: Images, generator: Generator | None = None) -> tuple[Images, Latents, Latents]:
        """Images decoded from a sample μ + σ ε of their latents, in evaluation from μ, and both moments."""
        mu, logvar = self.encode(images)
        if not self.training:
            return self.decode(mu), mu, logvar
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return self.decode(mu + (logvar / 2).exp() * noise), mu, logvar

    def loss(self, images: Images, kl_weight: float = 1e-6, generator: Generator | None = None) -> Float[Tensor, " n"]:
        """Of each image: the mean absolute error of its pixels, and kl_weight times D_KL(q(z|x) ‖ N(0, I)).

        Source: Rombach et al. 2021, §3.1 and appendix G, a KL weight of 10⁻⁶; without its perceptual and adversarial
        terms.
        """
        check_not_negative(kl_weight=kl_weight)
        found, mu, logvar = self(images, generator)
        error = (found - images).abs().flatten(1).mean(1)
        return error + kl_weight * gaussian_kl(mu, logvar).flatten(1).sum(1)


class _Twice(nn.Module):
    """Each pixel 2 × 2 times."""

    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
