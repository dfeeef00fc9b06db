"""SimCLR: representations from agreement between two random views of each image, against all other images of the batch.

Chen, Kornblith, Norouzi & Hinton 2020, arXiv:2002.05709, algorithm 1. For N images, two views of each:

    h = f(x̃),   z = g(h) = W₂ ReLU(W₁ h + b₁) + b₂                                       §2.1
    s_ij = z_iᵀ z_j / (‖z_i‖ ‖z_j‖)
    ℓ_ij = −log exp(s_ij/τ) / Σ_{k ≠ i} exp(s_ik/τ)                                       eq. 1
    L = 1/2N Σ over both orders of each pair of ℓ                                         algorithm 1

Convention: the sum of eq. 1 leaves out k = i alone: the positive is in it. The first N rows are one view of each image,
the next N the other. What is used after training is h, not z.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.contrastive import gather_embeddings, unit_length
from ...layers.linear import Linear

__all__ = ["SimCLR", "gather_embeddings", "nt_xent_loss", "random_crop", "random_shades"]

Images = Float[Tensor, "n c h w"]


def nt_xent_loss(
    first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """The normalised, temperature-scaled cross-entropy of N pairs, averaged over the 2N views.

    Args:
        first, second: z of the two views; row i of both is of the same image.
        temperature: τ > 0.

    Returns:
        the loss, in float32 or wider.

    Raises:
        ValueError: shapes that differ, no pair, or τ <= 0.

    Source: Chen et al. 2020, arXiv:2002.05709, eq. 1 and algorithm 1.
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(f"expected pairs of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    if not temperature > 0:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    n = len(first)
    z = unit_length(torch.cat([first, second]))
    scores = z @ z.T / temperature  # (2N, 2N)
    others = scores.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    positive = torch.cat([scores.diagonal(n), scores.diagonal(-n)])  # rows i and N + i are a pair
    return (others.logsumexp(1) - positive).mean()


class SimCLR(nn.Module):
    """An encoder and the projection that is trained with it and then thrown away.

    Args:
        encoder: f, (N, …) → (N, features); its output h is the representation.
        features: width of h.
        projection_dim: width of z.

    Raises:
        ValueError: a size below 1, or an encoder whose output is not (N, features).

    Source: Chen et al. 2020, arXiv:2002.05709, §2.1: a hidden layer of the width of h, ReLU, and a linear layer.
    """

    def __init__(self, encoder: nn.Module, features: int, projection_dim: int = 128):
        super().__init__()
        check_sizes(features=features, projection_dim=projection_dim)
        self.encoder = encoder
        self.hidden = Linear(features, features)
        self.projection = Linear(features, projection_dim)

    def forward(self, x: Float[Tensor, "n ..."]) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n d"]]:
        """h and z of each image."""
        h = self.encoder(x)
        if h.shape != (len(x), self.hidden.in_features):
            raise ValueError(f"expected {(len(x), self.hidden.in_features)} from the encoder, got {tuple(h.shape)}")
        return h, self.projection(self.hidden(h).relu())

    def loss(
        self, first: Float[Tensor, "n ..."], second: Float[Tensor, "n ..."], temperature: float = 0.5
    ) -> Float[Tensor, ""]:
        """The loss of two views of each image; in data-parallel training of the images of all processes.

        Both views go through the network together, so that a batch normalization sees them as one batch.
        """
        first, second = self(torch.cat([first, second]))[1].chunk(2)
        return nt_xent_loss(gather_embeddings(first), gather_embeddings(second), temperature)


def random_crop(images: Images, generator: Generator | None = None, smallest: float = 0.4) -> Images:
    """A random rectangle of each image, stretched to the image's size.

    Args:
        smallest: least share of the area that is kept, in (0, 1]; the aspect ratio is between 3/4 and 4/3.

    Raises:
        ValueError: smallest outside of (0, 1].

    Source: Chen et al. 2020, appendix A: random crop and resize. Bilinear, pixels are squares around their centres;
    what the rectangle reaches beyond the image's pixels repeats the edge.
    """
    if not 0 < smallest <= 1:
        raise ValueError(f"expected a smallest share in (0, 1], got {smallest}")
    n, _, height, width = images.shape
    share, ratio, top, left = torch.rand(4, n, generator=generator, dtype=images.dtype).to(images.device)
    area = smallest + (1 - smallest) * share
    ratio = (3 / 4) ** (1 - 2 * ratio)
    tall, wide = ((area * r).sqrt().clamp(max=1) for r in (ratio, 1 / ratio))  # shares of the height and the width
    rows = _interpolation(height, (1 - tall) * top, tall)
    columns = _interpolation(width, (1 - wide) * left, wide)
    return rows[:, None] @ images @ columns[:, None].mT


def _interpolation(size: int, start: Float[Tensor, " n"], length: Float[Tensor, " n"]) -> Float[Tensor, "n out size"]:
    """Matrices that read `size` places, evenly spread over a part of a line of `size` pixels, from its pixels."""
    pixels = torch.arange(size, dtype=start.dtype, device=start.device)
    places = size * start[:, None] + (pixels + 1 / 2) * length[:, None] - 1 / 2
    return (1 - (places.clamp(0, size - 1)[..., None] - pixels).abs()).relu()


def random_shades(images: Images, generator: Generator | None = None, strength: float = 0.4) -> Images:
    """Random brightness and contrast of each image: a (x − mean) + mean · b, a and b uniform in 1 ± strength.

    Raises:
        ValueError: a negative strength.

    Source: Chen et al. 2020, appendix A: colour distortion, here of grey images.
    """
    if not strength >= 0:
        raise ValueError(f"expected a strength >= 0, got {strength}")
    drawn = torch.rand(2, len(images), 1, 1, 1, generator=generator, dtype=images.dtype).to(images.device)
    contrast, brightness = 1 + strength * (2 * drawn - 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    return contrast * (images - mean) + brightness * mean
