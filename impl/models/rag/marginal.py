"""Retrieval as a latent variable: the two ways to sum over passages, in log space.

p_η(z|x) ∝ exp d(z)ᵀq(x) over the k passages that were found             Lewis et al. 2020, arXiv:2005.11401, §2.2
RAG-Sequence   p(y|x) = Σ_z p_η(z|x) Π_i p_θ(y_i|x, z, y_<i)                                                 §2.1
RAG-Token      p(y|x) = Π_i Σ_z p_η(z|x) p_θ(y_i|x, z, y_<i)
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def rag_sequence_nll(
    doc_scores: Float[Tensor, "b k"],
    log_probs: Float[Tensor, "b k t v"],
    target: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, " b"]:
    """−log p(y|x) where one passage is behind the whole answer.

    Args:
        doc_scores: d(z)ᵀq(x) of the passages found; a constant added to all changes nothing.
        log_probs: log p_θ of every symbol at every place of the answer, given each passage.
        target: y; where `mask` is False any number will do.
        mask: which places belong to the answer, and are no padding; all if not given.

    Raises:
        ValueError: shapes that do not fit, a mask that is not of booleans.

    Source: Lewis et al. 2020, §2.1, RAG-Sequence.
    """
    of_target = _of_target(doc_scores, log_probs, target, mask)
    return -torch.logsumexp(doc_scores.log_softmax(dim=1) + of_target.sum(dim=2), dim=1)


def rag_token_nll(
    doc_scores: Float[Tensor, "b k"],
    log_probs: Float[Tensor, "b k t v"],
    target: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, " b"]:
    """−log p(y|x) where each symbol of the answer may have a passage of its own.

    Args and errors: see `rag_sequence_nll`.

    Source: Lewis et al. 2020, §2.1, RAG-Token.
    """
    of_target = _of_target(doc_scores, log_probs, target, mask)
    each = torch.logsumexp(doc_scores.log_softmax(dim=1)[:, :, None] + of_target, dim=1)
    # Where there is no answer every p_θ is 1, and so is their sum weighted by p_η, up to rounding.
    return -(each if mask is None else each.masked_fill(~mask, 0)).sum(dim=1)


def _of_target(doc_scores, log_probs, target, mask):
    """log p_θ(y_i|x, z, y_<i), (b, k, t); 0 where the answer has ended."""
    leading = doc_scores.shape + target.shape[1:]  # (b, k, t)
    fits = doc_scores.dim() == target.dim() == 2 and log_probs.dim() == 4 and len(doc_scores) == len(target)
    if not fits or log_probs.shape[:3] != leading:
        shapes = f"{tuple(doc_scores.shape)}, {tuple(log_probs.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected scores (b, k), log-probabilities (b, k, t, v) and a target (b, t), got {shapes}")
    if mask is not None and (mask.shape != target.shape or mask.dtype != torch.bool):
        raise ValueError(f"expected a mask {tuple(target.shape)} of booleans, got {tuple(mask.shape)} of {mask.dtype}")
    symbols = target if mask is None else target.masked_fill(~mask, 0)
    index = symbols[:, None, :, None].expand(*leading, 1)
    found = log_probs.gather(3, index).squeeze(3)
    return found if mask is None else found.masked_fill(~mask[:, None], 0)
