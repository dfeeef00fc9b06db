"""Latent diffusion: DDPM on the latents of an autoencoder, with a condition that pixels attend to.

Rombach et al. 2021, arXiv:2112.10752, §3. With an encoder E, a decoder D and τ of a condition y (a text, a class):

    z = s E(x),  x = D(z/s)                 s brings the latents' standard deviation to 1              appendix G
    L = E ‖ε − ε_θ(z_t, t, τ(y))‖²          E and D stay as they are                                    eq. 3
    Attention(Q, K, V) = softmax(Q Kᵀ/√d) V,  Q of the pixels of ε_θ's features, K and V of τ(y)        §3.3
    ε̂ = ε_u + g(ε_c − ε_u)                  y is left out now and then in training      arXiv:2207.12598, eq. 6

A factor f of the autoencoder has f² fewer pixels, and f⁴ fewer pairs that attend to one another.

Convention, as in Stable Diffusion: queries, keys and values have no bias; s is one number for all channels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from ...layers.attention import CrossAttention, MultiHeadAttention
from ...layers.checks import check_channels, check_fractions, check_sizes
from ...layers.gated import GEGLU
from ...layers.linear import Linear
from ...layers.normalization import GroupNorm, LayerNorm
from ..ddpm import GaussianDiffusion, guide
from .autoencoder import AutoencoderKL

__all__ = ["AutoencoderKL", "LatentDiffusion", "SpatialTransformer"]


Images = Float[Tensor, "n c h w"]
Data = Float[Tensor, "n ..."]  # images or latents, as the autoencoder has them


class SpatialTransformer(nn.Module):
    """Pixels attend to one another and to the tokens of a context.

    Args:
        channels: of the image.
        num_heads: of both attentions.
        context_width: of the tokens.
        depth: transformer blocks.
        groups: of the norm before them.

    Raises:
        ValueError: a size below 1, heads or groups that do not divide; an image or a context of other width.

    Source: Rombach et al. 2021, arXiv:2112.10752, §3.3 and appendix E.2.1, table 15: layer norm, self-attention, layer
    norm, cross-attention, layer norm, MLP; the last map is 0 at first, as released.
    """

    def __init__(self, channels: int, num_heads: int, context_width: int, depth: int = 1, groups: int = 32):
        super().__init__()
        check_sizes(depth=depth)
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.input, self.output = Linear(channels, channels), Linear(channels, channels)
        self.blocks = nn.ModuleList(_Block(channels, num_heads, context_width) for _ in range(depth))
        for parameter in self.output.parameters():
            parameter.data.zero_()

    def forward(
        self, x: Images, context: Float[Tensor, "n s d"], key_mask: Bool[Tensor, "n s"] | None = None
    ) -> Images:
        """x and what its pixels found.

        Args:
            context: tokens of the condition.
            key_mask: True at real tokens, False at padding, to which no pixel attends.
        """
        check_channels(x, self.norm.num_channels)
        pixels = self.input(self.norm(x).flatten(2).mT)  # (n, h · w, c)
        for block in self.blocks:
            pixels = block(pixels, context, key_mask)
        return x + self.output(pixels).mT.unflatten(2, x.shape[2:])


class _Block(nn.Module):
    def __init__(self, width, num_heads, context_width):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.self_attn = MultiHeadAttention(width, num_heads, bias=False)
        self.cross_attn = CrossAttention(width, num_heads, context_width, context_width, bias=False)
        self.self_attn.out_proj, self.cross_attn.out_proj = Linear(width, width), Linear(width, width)  # with a bias
        self.feed_forward = GEGLU(width, 4 * width, bias=True)

    def forward(self, x, context, key_mask):
        x = x + self.self_attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), context, key_mask=key_mask)
        return x + self.feed_forward(self.norm3(x))


class LatentDiffusion(nn.Module):
    """Diffusion of an autoencoder's latents under a condition.

    Args:
        autoencoder: has `encode`, images → (mean, log variance), and `decode`; it is frozen.
        denoiser: ε_θ, called with z_t, t and `context`, e.g. a `DDPMUNet` whose attention is a `SpatialTransformer`.
        process: a `GaussianDiffusion`.
        encode_condition: τ, conditions (n, …) → context; trained with the denoiser.
        null: the condition that stands for none, of the shape of one sample's.
        drop: probability with which a sample's condition is left out in training.

    `scale`, s, is a buffer: 1 at first, 0.18215 for Stable Diffusion's latents; see `fit_scale`.

    Raises:
        ValueError: drop outside [0, 1).

    Source: Rombach et al. 2021, arXiv:2112.10752, §3; Ho & Salimans 2022, arXiv:2207.12598, algorithms 1 and 2.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        denoiser: nn.Module,
        process: GaussianDiffusion,
        encode_condition: nn.Module,
        null: Tensor,
        drop: float = 0.1,
    ):
        super().__init__()
        check_fractions(drop=drop)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.denoiser, self.process, self.encode_condition = denoiser, process, encode_condition
        self.drop = drop
        self.register_buffer("null", null)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit_scale(self, images: Data) -> None:
        """s = 1/the standard deviation of the latents' means over all their numbers: appendix G, the first batch."""
        mu, _ = self.autoencoder.encode(images)
        self.scale.copy_(1 / mu.std(correction=0))

    @torch.no_grad()
    def encode(self, images: Data, generator: Generator | None = None) -> Data:
        """s times a sample of the latents, with a generator, else s times their mean."""
        mu, logvar = self.autoencoder.encode(images)
        if generator is not None:
            noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
            mu = mu + (logvar / 2).exp() * noise
        return self.scale * mu

    def decode(self, latents: Data) -> Data:
        return self.autoencoder.decode(latents / self.scale)

    def loss(self, latents: Data, conditions: Tensor, **given) -> Float[Tensor, " n"]:
        """L of each sample, for latents of `encode`; `given` goes to `GaussianDiffusion.loss`: t and noise."""
        dropped = torch.rand(len(latents), device=latents.device) < self.drop
        dropped = dropped.reshape(-1, *[1] * (conditions.dim() - 1))
        context = self.encode_condition(torch.where(dropped, self.null, conditions))
        return self.process.loss(self.denoiser, latents, context=context, **given)

    @torch.no_grad()
    def sample(
        self,
        start: Data,
        conditions: Tensor,
        guidance: float = 1.0,
        steps: int | Sequence[int] = 50,
        eta: float = 0.0,
    ) -> Data:
        """Images from noise by DDIM: `start` is z_T; guidance is g.

        Source: Ho & Salimans 2022, algorithm 2, in the form of eq. 6 with g = 1 + w.
        """
        context = self.encode_condition(conditions)
        nothing = self.encode_condition(self.null.expand_as(conditions))

        def guided(z, t):
            return guide(self.denoiser(z, t, context=context), self.denoiser(z, t, context=nothing), guidance)

        return self.decode(self.process.ddim_sample(guided, start, steps, eta))
