"""RAG: an answer is generated from passages that are retrieved for the question, and the passages are summed over.

Lewis et al. 2020, arXiv:2005.11401; the retriever: Karpukhin et al. 2020, arXiv:2004.04906; BM25: Robertson & Zaragoza
2009.

    p_η(z|x) ∝ exp d(z)ᵀq(x) over the k passages z that are retrieved for the question x                       §2.2
    RAG-Sequence   p(y|x) = Σ_z p_η(z|x) Π_i p_θ(y_i|x, z, y_<i)                                               §2.1
    RAG-Token      p(y|x) = Π_i Σ_z p_η(z|x) p_θ(y_i|x, z, y_<i)

The whole system on the Python manual, from the root of the repository:

    python -m impl.models.rag "What is raised when a name is not found at all?"

It prints the passages with their scores and p_η, and the answer, one of their sentences, with its p(y|x). With
`--retriever dense` two encoders are trained first, for some seconds: see `train_retriever`.

Convention: documents and their index stay fixed, the question encoder and the generator learn (§2.4).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .bm25 import BM25
from .dense import BagOfWords, DenseIndex, DenseRetriever, dpr_loss
from .reader import SentenceReader
from .text import Vocabulary, chunk, sentences, words
from .training import train_retriever

__all__ = [
    "BM25",
    "RAG",
    "BagOfWords",
    "DenseIndex",
    "DenseRetriever",
    "SentenceReader",
    "Vocabulary",
    "chunk",
    "dpr_loss",
    "rag_sequence_nll",
    "rag_token_nll",
    "sentences",
    "train_retriever",
    "words",
]


def rag_sequence_nll(
    doc_scores: Float[Tensor, "b k"],
    log_probs: Float[Tensor, "b k t v"],
    target: Int[Tensor, "b t"],
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, " b"]:
    """−log p(y|x) where a single passage explains the whole answer.

    Args:
        doc_scores: d(z)ᵀq(x) of the retrieved passages; a constant added to all of them changes nothing.
        log_probs: log p_θ of every token at every position of the answer, given each passage.
        target: y, token ids; where `mask` is False any value will do.
        mask: True at positions that belong to the answer, False at padding; default True everywhere.

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
    """−log p(y|x) where each token of the answer may have a passage of its own.

    Args and errors: see `rag_sequence_nll`.

    Source: Lewis et al. 2020, §2.1, RAG-Token.
    """
    of_target = _of_target(doc_scores, log_probs, target, mask)
    each = torch.logsumexp(doc_scores.log_softmax(dim=1)[:, :, None] + of_target, dim=1)
    # After the end of an answer every p_θ is 1, and so is their sum weighted by p_η, up to rounding.
    return -(each if mask is None else each.masked_fill(~mask, 0)).sum(dim=1)


def _of_target(doc_scores, log_probs, target, mask):
    """log p_θ(y_i|x, z, y_<i), (b, k, t); 0 after the end of an answer."""
    leading = doc_scores.shape + target.shape[1:]  # (b, k, t)
    fits = doc_scores.dim() == target.dim() == 2 and log_probs.dim() == 4 and len(doc_scores) == len(target)
    if not fits or log_probs.shape[:3] != leading:
        shapes = f"{tuple(doc_scores.shape)}, {tuple(log_probs.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected scores (b, k), log-probabilities (b, k, t, v) and a target (b, t), got {shapes}")
    if mask is not None and (mask.shape != target.shape or mask.dtype != torch.bool):
        raise ValueError(f"expected a mask {tuple(target.shape)} of booleans, got {tuple(mask.shape)} of {mask.dtype}")
    tokens = target if mask is None else target.masked_fill(~mask, 0)
    found = log_probs.gather(3, tokens[:, None, :, None].expand(*leading, 1)).squeeze(3)
    return found if mask is None else found.masked_fill(~mask[:, None], 0)


class RAG(nn.Module):
    """A retriever, a generator, and the sum over the passages that the one retrieves for the other.

    Args:
        retriever: `search(questions, k)` returns scores and indices (b, k) of passages.
        generator: called with questions, indices of passages (b, k) and a target (b, t), it returns log p_θ of every
            token at every position (b, k, t, v); position i may depend on the target before i alone.
        k: how many passages are retrieved.
        marginal: "sequence": one passage explains the whole answer; "token": each token may have its own.

    Raises:
        ValueError: k below 1, or another `marginal`.

    Source: Lewis et al. 2020, §2.1.
    """

    def __init__(self, retriever, generator: nn.Module, k: int = 5, marginal: str = "sequence"):
        super().__init__()
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        if marginal not in ("sequence", "token"):
            raise ValueError(f"expected marginal 'sequence' or 'token', got {marginal!r}")
        self.retriever, self.generator, self.k, self.marginal = retriever, generator, k, marginal

    def forward(self, questions, target: Int[Tensor, "b t"]) -> Float[Tensor, " b"]:
        """−log p(y|x) of each answer: the loss that trains retriever and generator together (§2.4)."""
        scores, passages = self.retriever.search(questions, self.k)
        nll = rag_sequence_nll if self.marginal == "sequence" else rag_token_nll
        return nll(scores, self.generator(questions, passages, target), target)

    @torch.no_grad()
    def generate(self, questions, length: int = 1) -> Int[Tensor, "b t"]:
        """The most probable token by p(y_i|x, y_<i), one position after another.

        It is Σ_z w_z p_θ(y_i|x, z, y_<i) (§2.5), where w is p_η(z|x) for "token", and p(z|x, y_<i) for "sequence",
        whose single passage the tokens so far say something about.

        Raises:
            ValueError: a length below 0.
        """
        if length < 0:
            raise ValueError(f"expected length >= 0, got {length}")
        scores, passages = self.retriever.search(questions, self.k)
        weight = scores.log_softmax(dim=1)
        answer = passages.new_zeros(len(passages), 0)
        for _ in range(length):
            with_blank = torch.cat([answer, answer.new_zeros(len(answer), 1)], dim=1)
            log_probs = self.generator(questions, passages, with_blank)[:, :, -1]  # (b, k, v)
            chosen = torch.logsumexp(weight[:, :, None] + log_probs, dim=1).argmax(dim=1, keepdim=True)
            answer = torch.cat([answer, chosen], dim=1)
            if self.marginal == "sequence":
                weight = weight + log_probs.gather(2, chosen[:, None].expand(-1, weight.shape[1], 1)).squeeze(2)
        return answer
