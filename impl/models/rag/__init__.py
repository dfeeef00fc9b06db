"""RAG: an answer is generated from passages that are found for the question, and what was found is summed over.

Lewis et al. 2020, arXiv:2005.11401; the retriever: Karpukhin et al. 2020, arXiv:2004.04906; BM25: Robertson & Zaragoza
2009.

    p(y|x) ≈ Σ_{z ∈ top-k} p_η(z|x) p_θ(y|x, z),    p_η(z|x) ∝ exp d(z)ᵀq(x)                   (§2.1, §2.2)

The whole system on the Python manual, from the root of the repository:

    python -m impl.models.rag "What is raised when a name is not found at all?"

It prints the passages with their scores and p_η, and the answer, one of their sentences, with its p(y|x). With
`--retriever dense` two encoders are trained before, for some seconds: see `train_retriever`.

Convention: documents and their index stay as they are, the question encoder and the generator learn (§2.4).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ._bm25 import BM25
from ._dense import BagOfWords, DenseIndex, DenseRetriever, dpr_loss
from ._marginal import rag_sequence_nll, rag_token_nll
from ._reader import SentenceReader
from ._text import Vocabulary, chunk, sentences, words
from ._train import train_retriever

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


class RAG(nn.Module):
    """A retriever, a generator, and the sum over what the one finds for the other.

    Args:
        retriever: `search(questions, k)` gives scores and numbers (b, k) of passages.
        generator: called with questions, numbers of passages (b, k) and a target (b, t), it gives log p_θ of every
            symbol at every place (b, k, t, v); place i may look at the target before i alone.
        k: how many passages are found.
        marginal: "sequence": one passage is behind the whole answer; "token": each symbol may have its own.

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
        """The likeliest symbol, one place after another, by p(y_i|x, y_<i).

        It is Σ_z w_z p_θ(y_i|x, z, y_<i) (§2.5), where w is p_η(z|x) for "token", and p(z|x, y_<i) for "sequence",
        whose single passage what was said so far tells something of.

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


if __name__ == "__main__":
    from ._manual import main

    main()
