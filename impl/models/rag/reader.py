"""A generator whose tokens are sentences: it answers with a sentence of a retrieved passage.

    p_θ(y|x, z) ∝ exp(s(x, y)/τ) over the sentences y of passage z, and 0 elsewhere;    s(x, y): BM25 of y for x

Convention: an extractive stand-in for the sequence-to-sequence generator of Lewis et al. 2020, §2.3, with answers of
one token; it has nothing to train.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .bm25 import BM25
from .text import check_passages, words


class SentenceReader(nn.Module):
    """Scores the sentences of passages by a question.

    Args:
        passages: lists of sentences; the token id of a sentence is its index in `sentences`, in whatever passage.
        temperature: τ.

    Raises:
        ValueError: no passages, one that is a string or has no sentence, or a temperature that is not above 0.
    """

    def __init__(self, passages: Sequence[Sequence[str]], temperature: float = 2.0):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"expected temperature > 0, got {temperature}")
        check_passages(passages)
        self.temperature = temperature
        self.sentences = list(dict.fromkeys(sentence for passage in passages for sentence in passage))
        self.ranking = BM25([words(sentence) for sentence in self.sentences])
        ids = {sentence: n for n, sentence in enumerate(self.sentences)}
        self.ids = [torch.tensor([ids[sentence] for sentence in passage]) for passage in passages]

    def forward(
        self, questions: Sequence[Sequence[str]], passages: Int[Tensor, "b k"], target: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b k t v"]:
        """log p_θ of every sentence, given each passage; questions are lists of words, and t is 1 or 0."""
        scores = self.ranking.scores_of(questions) / self.temperature
        allowed = torch.zeros(*passages.shape, len(self.sentences), dtype=torch.bool)
        for row, passage in zip(allowed.flatten(0, 1), passages.flatten().tolist()):
            row[self.ids[passage]] = True
        log_probs = scores[:, None].masked_fill(~allowed, float("-inf")).log_softmax(dim=2)
        return log_probs[:, :, None].expand(-1, -1, target.shape[1], -1)
