"""BM25: documents are ranked by the words of the query in them; repetition and length have diminishing effect.

Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", §3.4 and §3.5.

    score(D, Q) = Σ_{t∈Q} idf(t) · f (k₁ + 1) / (f + k₁ (1 − b + b |D|/avgdl)),    f = how often t occurs in D
    idf(t) = ln(1 + (N − n + ½)/(n + ½)),                                          n = how many documents hold t

Convention: idf with "1 +", as in Lucene, so that no word counts against a document (the book's has none); a word that
the query repeats counts each time; equal scores keep the documents' order.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class BM25:
    """An inverted index of documents that are lists of words.

    Args:
        corpus: the documents; words are any hashable values.
        k1: how slowly repetition saturates; 0 counts presence alone.
        b: how much length counts, from 0 to 1.

    Raises:
        ValueError: no documents, a document that is a string, k1 below 0, or b outside of [0, 1].

    Source: Robertson & Zaragoza 2009, eq. 3.15.
    """

    def __init__(self, corpus: Sequence[Sequence], k1: float = 1.5, b: float = 0.75):
        if not corpus or any(isinstance(document, str) for document in corpus):
            raise ValueError(f"expected documents that are lists of words, got {str(corpus)[:60]}")
        if not 0 <= k1 < math.inf:
            raise ValueError(f"expected a finite k1 >= 0, got {k1}")
        if not 0 <= b <= 1:
            raise ValueError(f"expected 0 <= b <= 1, got {b}")
        self.size = len(corpus)
        average = sum(map(len, corpus)) / self.size
        found: dict = {}  # word → the indices of its documents, and its part of their scores without its idf
        for n, document in enumerate(corpus):
            for word, f in Counter(document).items():
                documents, parts = found.setdefault(word, ([], []))
                documents.append(n)
                parts.append(f * (k1 + 1) / (f + k1 * (1 - b + b * len(document) / average)))
        self.postings = {
            word: (torch.tensor(documents), self._idf(len(documents)) * torch.tensor(parts, dtype=torch.float64))
            for word, (documents, parts) in found.items()
        }

    def _idf(self, n: int) -> float:
        return math.log(1 + (self.size - n + 0.5) / (n + 0.5))

    def scores(self, query: Sequence) -> Float[Tensor, " documents"]:
        """The score of every document, in float64.

        Raises:
            ValueError: a query that is a string.
        """
        if isinstance(query, str):
            raise ValueError(f"expected a query that is a list of words, got {query[:60]!r}")
        total = torch.zeros(self.size, dtype=torch.float64)
        for word in query:
            if word in self.postings:
                documents, parts = self.postings[word]
                total[documents] += parts
        return total

    def scores_of(self, queries: Sequence[Sequence]) -> Float[Tensor, "queries documents"]:
        """The scores of every document, one row a query."""
        return torch.cat([torch.zeros(0, self.size, dtype=torch.float64), *(self.scores(q)[None] for q in queries)])

    def search(self, queries: Sequence[Sequence], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Scores and indices of the k best documents, or of all if there are fewer, for each query; best first.

        Documents of equal score keep their order.

        Raises:
            ValueError: k below 1, or a query that is a string.
        """
        if k < 1:
            raise ValueError(f"expected k >= 1, got {k}")
        every = self.scores_of(queries)
        order = every.argsort(dim=1, descending=True, stable=True)[:, :k]
        return every.gather(1, order), order
