"""RMSNorm, the shared foundation of the language models that normalize without a mean.

Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.

    y = x/√(mean x² + eps) · weight,   the mean over the last dimension
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square; float32 or wider inside.

    Args:
        size: of the last dimension.
        eps: added to the mean square.

    Raises:
        ValueError: a negative eps.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        if not eps >= 0:
            raise ValueError(f"expected eps >= 0, got {eps}")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * x.to(input.dtype)
