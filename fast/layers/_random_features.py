"""Random features of the softmax kernel: positive numbers whose products are exp(xᵀy) on average.

Choromanski et al. 2021, arXiv:2009.14794, Lemma 1 and §2.4.

    exp(xᵀy) = E_ω[φ(x)ᵀ φ(y)],   φ(x) = exp(−‖x‖²/2)/√m · (exp(ω_1ᵀx), …, exp(ω_mᵀx)),   ω_i ~ N(0, I_d)

Convention: the ω_i of a block of d are orthogonal, with lengths of independent normal vectors, χ_d, so that each alone
is still N(0, I). Features come without their common factor, which would leave the range of a float.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ._multi_head import check_sizes


def orthogonal_projection(
    num_features: int, width: int, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "m d"]:
    """ω_1, …, ω_m as rows, each block of `width` of them orthogonal and independent of the others.

    Raises:
        ValueError: sizes below 1.

    Source: Choromanski et al. 2021, arXiv:2009.14794, §2.4 and Algorithm 1.
    """
    check_sizes(num_features=num_features, width=width)
    blocks = math.ceil(num_features / width)
    normal = torch.randn(2, blocks, width, width, generator=generator, dtype=dtype)
    # QR leaves the signs of R's diagonal to the library; only the Q of a positive one has no preferred direction.
    basis, upper = torch.linalg.qr(normal[0])
    basis = basis * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    lengths = normal[1].square().sum(-1, keepdim=True).sqrt()
    return (basis.mT * lengths).flatten(0, 1)[:num_features]


def positive_features(
    x: Float[Tensor, "*b t d"], projection: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, "*b t m"], Float[Tensor, "*b t"]]:
    """φ(x) of every vector over the largest of its own features, and the logarithm of that one, a constant.

    Args:
        x: for attention, a query or key over d^¼, so that xᵀy = qᵀk/√d.
        projection: ω_1, …, ω_m as rows. With −ω_i next to every ω_i these are the paper's hyperbolic features.

    Raises:
        ValueError: vectors and projection of other widths.

    Source: Choromanski et al. 2021, arXiv:2009.14794, Lemma 1.
    """
    if x.dim() < 2 or projection.dim() != 2 or x.shape[-1] != projection.shape[-1]:
        found = f"{tuple(x.shape)} and {tuple(projection.shape)}"
        raise ValueError(f"expected x (…, t, d) and a projection (m, d) of one width, got {found}")
    exponents, half = x @ projection.mT, x.square().sum(-1, keepdim=True) / 2
    # The level is a constant to autograd, taken out here and put back by whoever needs it. Of ‖x‖²/2 only the slope
    # is left next to it: the difference of large numbers would round.
    top = exponents.detach().amax(-1, keepdim=True)
    features = (exponents - (top + (half - half.detach()))).exp()
    level = (top - half.detach()).squeeze(-1)
    return features, level - math.log(len(projection)) / 2
