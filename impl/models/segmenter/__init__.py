"""Segmenter: a vision transformer names every patch, and the patches' scores are enlarged to pixels.

Strudel, Garcia, Laptev & Schmid 2021, arXiv:2105.05633, §3. Of the encoder's states z of N patches, D wide:

    linear decoder      s = z W + b                                   (N, K), scores of K classes      §3.2, "Linear"
    mask transformer    [z′; c] = transformer([z W₀ + b₀; cls₁ … cls_K])                               §3.2, eq. 5
                        s = z′ cᵀ, both projected and brought to length 1: cosines, normalized over the classes
    pixels              s as an image of H/P × W/P patches, enlarged bilinearly to H × W

Convention: the encoder's class token is left out. As released, the mask transformer's blocks and norms are those of ViT
with ε = 1e-5, and a last norm goes over the scores of the classes. An image whose sides P does not divide has zeros
added at its right and bottom, and the scores there are cut off.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_sizes, check_space, check_tokens
from ...layers.contrastive import unit_length
from ...layers.initialisers import trunc_normal_
from ...layers.linear import Linear
from ...layers.normalization import LayerNorm
from ...layers.transformer import pre_norm_blocks
from ...layers.upsampling import bilinear
from ...layers.windows import pad

__all__ = ["LinearDecoder", "MaskTransformer", "Segmenter"]


class LinearDecoder(nn.Module):
    """One linear layer on each patch's state.

    Args:
        width: D, of the states.
        num_classes: K.

    Raises:
        ValueError: a size below 1; states of another width.

    Source: Strudel et al. 2021, arXiv:2105.05633, §3.2, "Linear".
    """

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        check_sizes(width=width, num_classes=num_classes)
        self.head = Linear(width, num_classes)

    def forward(self, states: Float[Tensor, "n t d"]) -> Float[Tensor, "n t k"]:
        """Scores of each patch."""
        return self.head(states)


class MaskTransformer(nn.Module):
    """Patches and learned class embeddings attend to one another; a patch's score is its cosine with the class.

    Args:
        width: D, of the states that come.
        num_classes: K.
        decoder_width: of the decoder's tokens.
        num_layers, num_heads: of the decoder; MLPs are four times as wide as its tokens.

    Raises:
        ValueError: a size below 1, a width that heads do not divide; states of another width.

    Source: Strudel et al. 2021, arXiv:2105.05633, §3.2, eq. 5; class embeddings N(0, 0.02²) and projections
    N(0, 1/decoder_width) at first, as released.
    """

    def __init__(self, width: int, num_classes: int, decoder_width: int, num_layers: int = 2, num_heads: int = 1):
        super().__init__()
        check_sizes(width=width, num_classes=num_classes, decoder_width=decoder_width)
        self.input = Linear(width, decoder_width)
        self.classes = nn.Parameter(torch.empty(num_classes, decoder_width))
        trunc_normal_(self.classes.data, std=0.02)
        self.blocks = pre_norm_blocks(num_layers, decoder_width, num_heads, 4 * decoder_width, "gelu")
        self.norm = LayerNorm(decoder_width)
        scale = decoder_width**-0.5
        self.patch_projection = nn.Parameter(torch.randn(decoder_width, decoder_width) * scale)
        self.class_projection = nn.Parameter(torch.randn(decoder_width, decoder_width) * scale)
        self.score_norm = LayerNorm(num_classes)

    def cosines(self, states: Float[Tensor, "n t d"]) -> Float[Tensor, "n t k"]:
        """The cosine of each patch with each class, before it is normalized over the classes; in float32 or wider."""
        check_tokens("states", states, self.input.in_features)
        patches, count = self.input(states), len(self.classes)
        x = torch.cat([patches, self.classes.to(patches.dtype).expand(len(patches), -1, -1)], dim=1)  # (n, t + K, d′)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        patches = unit_length(x[:, :-count] @ self.patch_projection)
        return patches @ unit_length(x[:, -count:] @ self.class_projection).mT

    def forward(self, states: Float[Tensor, "n t d"]) -> Float[Tensor, "n t k"]:
        """Scores of each patch."""
        return self.score_norm(self.cosines(states)).to(states.dtype)


class Segmenter(nn.Module):
    """Images to a score of every class at every pixel.

    Args:
        encoder: a `VisionTransformer` without a head, or whatever has its `encode` and `patches.patch_size`.
        decoder: states of patches (n, t, d) → scores (n, t, K): `LinearDecoder` or `MaskTransformer`.

    Raises:
        ValueError: images of other channels than the encoder's, or without a pixel.

    Source: Strudel et al. 2021, arXiv:2105.05633, §3.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        check_space(images, 2)
        height, width = images.shape[2:]
        size = self.encoder.patches.patch_size
        rows, columns = -(-height // size), -(-width // size)
        padded = pad(images, [(0, rows * size - height), (0, columns * size - width)])
        scores = self.decoder(self.encoder.encode(padded)[:, 1:])  # (n, rows · columns, K)
        scores = bilinear(scores.mT.unflatten(2, (rows, columns)), (rows * size, columns * size))
        return scores[:, :, :height, :width]
