"""Which predictor, a cell or a prior, an object belongs to: objects' rows laid out over all predictors."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def at_predictors(
    rows: Float[Tensor, "n m d"], predictor: Int[Tensor, "n m"], real: Bool[Tensor, "n m"], count: int
) -> Float[Tensor, "n p d"]:
    """Each object's row at its predictor and zeros elsewhere; the first of several objects keeps the predictor.

    Args:
        rows: one for each object, and for the padding where `real` is False.
        predictor: the index of the object's predictor.
        count: P, of all predictors.
    """
    same = (predictor[:, :, None] == predictor[:, None]) & real[:, None]
    first = real & ~same.tril(-1).any(-1)  # no object before it has the same predictor
    rows = torch.where(first[..., None], rows, 0)
    at = predictor[..., None].expand_as(rows)
    return rows.new_zeros(len(rows), count, rows.shape[-1]).scatter_add(1, at, rows)
