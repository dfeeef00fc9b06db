"""Choosing the next token from a language model's logits.

    p_i ∝ exp(u_i/T)                                                        temperature T
    top-k      keep the k largest p_i                                       Fan et al. 2018, arXiv:1805.04833, §5.4
    nucleus    keep the smallest set of the largest with Σ p_i >= p         Holtzman et al. 2019, arXiv:1904.09751, §3.1
    then p' ∝ p over what is kept

Convention: temperature first, then top-k, then the nucleus of what top-k left, as in transformers. All tokens
as probable as the k-th stay; of equal tokens at the edge of the nucleus the first stay. T = 0 is the limit: the first
of the most probable tokens. Probabilities are computed in float32 or wider and returned in the dtype of the logits.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ...layers.numerics import at_least_float32


def sampling_distribution(
    logits: Float[Tensor, "*batch vocabulary"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "*batch vocabulary"]:
    """The probability of each token to be chosen.

    Args:
        temperature: T; below 1 sharpens the distribution, 0 takes the first of the most probable tokens.
        top_k: number of tokens that may be chosen; None for all.
        top_p: probability mass of the nucleus; None for all tokens, 0 for the most probable alone.

    Raises:
        ValueError: a negative temperature, top_k below 1, top_p outside [0, 1].
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    dtype, wide = logits.dtype, at_least_float32(logits)
    logits = (wide - wide.amax(-1, keepdim=True)) / temperature  # differences, because u/T itself may overflow
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if top_p in (None, 1):  # rounded sums reach a mass of 1 too early
        return probabilities.to(dtype)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1).roll(1, -1)  # mass of the more probable: a token stays while that is below p
    before[..., 0] = -1
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered * (before < top_p))
    return (kept / kept.sum(-1, keepdim=True)).to(dtype)


def check_sampling(temperature, top_k, top_p):
    """temperature >= 0, top_k >= 1 and top_p in [0, 1], where given."""
    if not temperature >= 0:
        raise ValueError(f"expected temperature >= 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k >= 1, got {top_k}")
    if top_p is not None and not 0 <= top_p <= 1:
        raise ValueError(f"expected 0 <= top_p <= 1, got {top_p}")
