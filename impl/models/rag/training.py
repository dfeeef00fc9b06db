"""A dense retriever trained on bare passages, without questions: the inverse cloze task.

Lee et al. 2019, arXiv:1906.00300, "Inverse Cloze Task": a sentence is the question, its passage the answer.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Generator

from ...optim.adamw import AdamW
from .dense import BagOfWords, DenseRetriever, dpr_loss
from .text import Vocabulary, check_passages, words

KEPT = 0.3  # the share of passages that keep the sentence, so that plain overlap of words is learned as well


def train_retriever(
    passages: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    dim: int = 64,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 0.03,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> DenseRetriever:
    """Two bags of words, equal at first, are trained with in-batch negatives; the passages are indexed at the end.

    Args:
        passages: lists of sentences.
        vocabulary: of their words.
        dim: size of the vectors.
        steps, batch_size, lr: of the training.
        seed: of the encoders' initialisation and of all random choices.
        report: called ten times, with the number of steps done and the loss.

    Raises:
        ValueError: fewer passages than a batch needs, or one that is a string or has no sentence.

    Source: Lee et al. 2019, "Inverse Cloze Task"; the loss: Karpukhin et al. 2020, arXiv:2004.04906, §3.2.
    """
    if not 1 < batch_size <= len(passages):
        raise ValueError(f"expected at least {max(batch_size, 2)} passages, as many as a batch, got {len(passages)}")
    check_passages(passages)
    generator = Generator().manual_seed(seed)
    encoder = BagOfWords(len(vocabulary), dim)
    encoder.table.data.normal_(std=0.5, generator=generator)
    retriever = DenseRetriever(encoder, copy.deepcopy(encoder), dim)
    optimizer = AdamW(retriever.parameters(), lr=lr, weight_decay=0.0)
    split = [[words(sentence) for sentence in passage] for passage in passages]
    for step in range(1, steps + 1):
        # Without replacement: a passage among its own negatives would be pushed away from its question.
        drawn = torch.randperm(len(split), generator=generator)[:batch_size].tolist()
        pairs = [_cloze(split[n], *torch.rand(2, generator=generator).tolist()) for n in drawn]
        loss = dpr_loss(retriever(*(vocabulary.encode(texts) for texts in zip(*pairs))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report is not None and step % max(steps // 10, 1) == 0:
            report(step, loss.item())
    return retriever.index_passages(vocabulary.encode([sum(passage, []) for passage in split]))


def _cloze(passage: list[list[str]], place: float, kept: float) -> tuple[list[str], list[str]]:
    """A sentence of a passage, and the words of the rest, or of all where it is kept or alone."""
    n = int(place * len(passage))
    rest = passage if kept < KEPT or len(passage) == 1 else passage[:n] + passage[n + 1 :]
    return passage[n], sum(rest, [])
