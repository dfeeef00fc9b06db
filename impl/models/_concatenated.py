"""A network of two tensors made of a network of one: how a condition reaches an encoder or a decoder.

Sohn, Lee & Yan 2015 (NeurIPS 28), §4: q(z|x, y) and p(y|x, z) are networks of two tensors each.

    f(a, x) = network([a; x])
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Concatenated(nn.Module):
    """Makes a network of one tensor one of two: it reads them side by side in dimension 1.

    Args:
        network: (B, features + K, *space) → anything.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(
        self, first: Float[Tensor, "batch features *space"], condition: Shaped[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch ..."]:
        """The network's output for data or latents, and a condition (B, K, *space), or (B, K) for all of the space.

        Raises:
            ValueError: a condition of another batch size or space; class labels that are not one-hot.
        """
        batch, space = len(first), tuple(first.shape[2:])
        if condition.dim() == 2:
            condition = condition[(..., *[None] * len(space))].expand(-1, -1, *space)
        if condition.dim() != first.dim() or (len(condition), *condition.shape[2:]) != (batch, *space):
            either = " or ".join(dict.fromkeys((f"({batch}, K)", f"({', '.join(map(str, (batch, 'K', *space)))})")))
            raise ValueError(f"expected a condition of shape {either}, got {tuple(condition.shape)}")
        return self.network(torch.cat([first, condition], dim=1))
