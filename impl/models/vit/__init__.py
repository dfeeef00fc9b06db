"""ViT: an image is a sequence of patches, and a plain transformer reads it.

Dosovitskiy et al. 2020, arXiv:2010.11929, §3.1. With N patches x_p of P × P pixels:

    z₀ = [x_class; x_p¹ E; …; x_pᴺ E] + E_pos          eq. 1
    z′ = MSA(LN(z)) + z,   z = MLP(LN(z′)) + z′        eq. 2 and 3, L times
    y = LN(z_L⁰)                                       eq. 4: the class token's last state, which the head classifies

Convention: E and the attention's projections have a bias, GELU is the exact one and LN has ε = 1e-6, as released; the
head is one linear layer, zero at first, as for fine-tuning (§3.2).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import per_dimension
from ...layers.dropout import Dropout
from ...layers.linear import Linear
from ...layers.normalization import LayerNorm
from ...layers.patches import PatchEmbedding, grid_of, resize_positions
from ...layers.transformer import pre_norm_blocks

__all__ = ["PatchEmbedding", "VisionTransformer", "resize_positions"]


class VisionTransformer(nn.Module):
    """Images to the logits of classes.

    Args:
        image_size: of the images that its positions are learned for: one side, or height and width.
        patch_size: P, which divides both.
        num_layers: L.
        num_heads: of each attention.
        hidden_dim: D, the width of the tokens.
        mlp_dim: width of the MLP's hidden layer.
        num_classes: of the head; if None there is no head, and the class token's last state y comes out.
        channels: of the images.
        dropout: probability, of the embedded tokens and of each block's three dropouts (see `TransformerEncoderBlock`).

    Raises:
        ValueError: a size below 1, patches that do not divide the image, a width that heads do not divide, dropout
            outside [0, 1); images of other channels, or of a side that P does not divide.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1 to 4; positions N(0, 0.02²) and a class token of 0 at
    first, as released.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        num_classes: int | None = 1000,
        channels: int = 3,
        dropout: float = 0.0,
    ):
        super().__init__()
        height, width = per_dimension("image_size", image_size, 2)
        self.patches = PatchEmbedding(channels, hidden_dim, patch_size)
        self.grid = grid_of(torch.empty(1, channels, height, width, device="meta"), patch_size)
        self.class_token = nn.Parameter(torch.zeros(hidden_dim))
        self.positions = nn.Parameter(torch.empty(1 + self.grid[0] * self.grid[1], hidden_dim).normal_(std=0.02))
        self.dropout = Dropout(dropout)
        self.blocks = pre_norm_blocks(num_layers, hidden_dim, num_heads, mlp_dim, "gelu", 1e-6, dropout)
        self.norm = LayerNorm(hidden_dim, 1e-6)
        self.head = None if num_classes is None else Linear(hidden_dim, num_classes)
        if self.head is not None:
            self.head.weight.data.zero_()
            self.head.bias.data.zero_()

    def encode(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t d"]:
        """All tokens' last states, LN(z_L): the class token, then the patches row by row.

        For images of another size the positions of the patches are interpolated: `resize_positions`.
        """
        grid = grid_of(images, self.patches.patch_size)
        positions = torch.cat([self.positions[:1], resize_positions(self.positions[1:], self.grid, grid)])
        tokens = self.patches(images)
        z = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)  # (n, 1 + N, D)
        z = self.dropout(z + positions)
        for block in self.blocks:
            z = block(z)
        return self.norm(z)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        y = self.encode(images)[:, 0]
        return y if self.head is None else self.head(y)
