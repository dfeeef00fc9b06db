"""Dropout, the shared foundation of the layers that drop activations at random.

Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, JMLR 15, §4.

    y = r ⊙ x / (1 − p),    r_i ~ Bernoulli(1 − p), sampled anew at each call

Convention: p is the probability to drop, as in torch; what is kept is divided by 1 − p in training, so evaluation is
the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability p in training, and scales the others by 1 / (1 − p).

    Args:
        p: probability of an element to be dropped.

    Raises:
        ValueError: p outside of [0, 1].

    Source: Srivastava et al. 2014, §4 and §10 (scaling at training time).
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"expected 0 <= p <= 1, got {p}")
        self.p = p

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.p == 0:
            return input
        keep = 1 - self.p
        mask = torch.empty_like(input).bernoulli_(keep)
        return input * (mask.div_(keep) if keep else mask)

    def extra_repr(self) -> str:
        return f"p={self.p}"
