"""Numerically careful pieces, each once: no overflow, no digits lost, half precision computed in float32."""

from math import sqrt

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in its own dtype where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x), without overflow where x is large."""
    return torch.logaddexp(x, x.new_zeros(()))


def normal_cdf(x: Tensor) -> Tensor:
    """Φ(x) = ½ erfc(−x/√2); ½ (1 + erf(x/√2)) has no digits far to the left."""
    return torch.erfc(x * -sqrt(1 / 2)) / 2


def masked_softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, where −∞ excludes an entry; a row that excludes all is 0, not NaN."""
    largest = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    exponentials = (scores - largest).exp()
    total = exponentials.sum(-1, keepdim=True)
    return exponentials / total.masked_fill(total == 0, 1)
