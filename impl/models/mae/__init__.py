"""MAE: most patches of an image are hidden, and a small decoder paints them from what the encoder saw of the others.

He et al. 2021, arXiv:2111.06377, §3. Of N patches a random ⌊N(1 − r)⌋ are kept for each image:

    latent     = encoder([class; (x_i E + p_i) for each kept i])               the encoder sees nothing else
    prediction = decoder([class; latent_i or the mask token, + p′_i, for all i])
    L = mean over the hidden patches of ‖prediction_i − target_i‖² / (P² c)
    target_i = (x_i − mean(x_i)) / √(var(x_i) + 10⁻⁶)                          with normalize_targets, else x_i

Convention: positions are fixed sines and cosines in two dimensions, the column's in the first half; the class token has
none. A patch's numbers are row, column, channel; its variance is divided by P² c − 1. All as released.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...layers.checks import check_fractions, check_sizes, per_dimension
from ...layers.linear import Linear
from ...layers.normalization import LayerNorm
from ...layers.patches import PatchEmbedding, grid_of, patchify, unpatchify
from ...layers.positional import rotary_frequencies
from ...layers.transformer import pre_norm_blocks

__all__ = ["MaskedAutoencoder", "grid_positions", "patchify", "random_masking", "unpatchify"]


def random_masking(noise: Float[Tensor, "n t"], ratio: float) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n t"]]:
    """Which patches of each image are kept: the ⌊t (1 − ratio)⌋ of the least noise, in its order.

    Args:
        noise: a number for each of t patches; uniform noise makes each choice equally likely.
        ratio: r, the share of patches to hide.

    Returns:
        The indices of the kept patches, and a mask that is True where a patch is hidden.

    Raises:
        ValueError: a ratio outside [0, 1).

    Source: He et al. 2021, arXiv:2111.06377, §3, "Simple implementation".
    """
    check_fractions(ratio=ratio)
    kept = noise.argsort(dim=1)[:, : _kept(noise.shape[1], ratio)]
    return kept, torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)


def _kept(patches: int, ratio: float) -> int:
    return math.floor(patches * (1 - ratio) + 1e-9)  # of 10 patches 0.9 keeps 1, though 1 − 0.9 < 0.1 in floating point


def grid_positions(rows: int, columns: int, width: int) -> Float[Tensor, "t d"]:
    """Fixed embeddings of a grid's places, row by row: [sin xω, cos xω, sin yω, cos yω], x the column, y the row.

    Args:
        width: d, of which each of the four has a quarter; ω_i = 10000^(−4i/d).

    Raises:
        ValueError: a size below 1, a width that 4 does not divide.

    Source: He et al. 2021, arXiv:2111.06377, appendix A.1: the sine-cosine version, as released.
    """
    check_sizes(rows=rows, columns=columns, width=width)
    if width % 4:
        raise ValueError(f"expected a width that 4 divides, got {width}")
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)  # (t, 2): x, y
    angles = places[:, :, None] * rotary_frequencies(width // 2)  # (t, 2, d/4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()


class MaskedAutoencoder(nn.Module):
    """A vision transformer that learns by painting hidden patches.

    Args:
        image_size: one side, or height and width.
        patch_size: P, which divides both.
        width, num_layers, num_heads: of the encoder.
        decoder_width, decoder_layers, decoder_heads: of the decoder. Both have MLPs four times as wide.
        normalize_targets: if True, each patch is to be painted with mean 0 and variance 1.
        channels: c, of the images.

    Raises:
        ValueError: a size below 1, patches that do not divide the image, a width that 4 or its heads do not divide;
            images of another shape.

    Source: He et al. 2021, arXiv:2111.06377, §3; class and mask token N(0, 0.02²) at first, as released.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        decoder_width: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        normalize_targets: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.shape = channels, *per_dimension("image_size", image_size, 2)
        self.patches, self.normalize_targets = PatchEmbedding(channels, width, patch_size), normalize_targets
        self.grid = grid_of(torch.empty(1, *self.shape, device="meta"), patch_size)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        self.class_token = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.blocks = pre_norm_blocks(num_layers, width, num_heads, 4 * width, "gelu", 1e-6)
        self.norm = LayerNorm(width, 1e-6)

        self.decoder_input, self.mask_token = Linear(width, decoder_width), nn.Parameter(torch.empty(decoder_width))
        self.mask_token.data.normal_(std=0.02)
        self.register_buffer("decoder_positions", grid_positions(*self.grid, decoder_width), persistent=False)
        self.decoder_blocks = pre_norm_blocks(
            decoder_layers, decoder_width, decoder_heads, 4 * decoder_width, "gelu", 1e-6
        )
        self.decoder_norm = LayerNorm(decoder_width, 1e-6)
        self.head = Linear(decoder_width, patch_size**2 * channels)

    def encode(
        self, images: Float[Tensor, "n c h w"], kept: Int[Tensor, "n k"] | None = None
    ) -> Float[Tensor, "n tokens d"]:
        """States of the class token and of the patches `kept`, in their order; of all patches by default."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"expected images (n, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}")
        x = self.patches(images) + self.positions  # (n, t, d)
        if kept is not None:
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))  # (n, k, d)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, latent: Float[Tensor, "n tokens d"], kept: Int[Tensor, "n k"]) -> Float[Tensor, "n t p"]:
        """All patches, painted from the states that `encode` gives of those `kept`."""
        x = self.decoder_input(latent)
        seen = x[:, 1:]
        everywhere = self.mask_token.to(x.dtype).expand(len(x), len(self.decoder_positions), -1)  # (n, t, d′)
        patches = everywhere.scatter(1, kept[:, :, None].expand_as(seen), seen) + self.decoder_positions
        x = torch.cat([x[:, :1], patches], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.head(self.decoder_norm(x)[:, 1:])

    def forward(
        self, images: Float[Tensor, "n c h w"], ratio: float = 0.75, noise: Float[Tensor, "n t"] | None = None
    ) -> tuple[Float[Tensor, "n t p"], Bool[Tensor, "n t"]]:
        """Predictions of all patches, and which of them were hidden.

        Args:
            ratio: the share of patches to hide.
            noise: decides which, as in `random_masking`; uniform by default.
        """
        if noise is None:
            noise = torch.rand(len(images), len(self.positions), device=images.device)
        kept, hidden = random_masking(noise, ratio)
        return self.decode(self.encode(images, kept), kept), hidden

    def targets(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t p"]:
        """What the predictions are compared with: the patches, normalized each by itself if the model does so."""
        patches = patchify(images, self.patches.patch_size)
        if not self.normalize_targets:
            return patches
        variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def loss(
        self, images: Float[Tensor, "n c h w"], ratio: float = 0.75, noise: Float[Tensor, "n t"] | None = None
    ) -> Float[Tensor, ""]:
        """The mean squared error of the hidden patches.

        Raises:
            ValueError: a ratio that hides no patch.
        """
        if _kept(len(self.positions), ratio) == len(self.positions):
            raise ValueError(f"expected a ratio that hides one of {len(self.positions)} patches or more, got {ratio}")
        prediction, hidden = self(images, ratio, noise)
        errors = (prediction - self.targets(images)).square().mean(2)  # (n, t)
        return (errors * hidden).sum() / hidden.sum()
