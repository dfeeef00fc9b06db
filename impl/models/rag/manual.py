"""The command line of `impl.models.rag`: questions to the Python manual."""

import argparse
from collections.abc import Sequence
from pydoc_data.topics import topics

import torch
from torch import Tensor

from . import BM25, RAG, SentenceReader, Vocabulary, chunk, sentences, train_retriever, words

# Words that make a question and name nothing in it; being rare in a manual, they would count for much.
ASKING = """
    a an and can could do does did how i it me mean my of should that the this to was were what when where which who
    whom whose why will would you
"""
SHORTEST = 6  # words of a sentence; a shorter one is a title or a piece of code


class _OfWords:
    """A dense retriever for questions that are lists of words."""

    def __init__(self, retriever, vocabulary: Vocabulary):
        self.retriever, self.vocabulary = retriever, vocabulary

    def search(self, questions: Sequence[Sequence[str]], k: int) -> tuple[Tensor, Tensor]:
        return self.retriever.search(self.vocabulary.encode(questions), k)


def manual() -> tuple[list[str], list[list[str]]]:
    """Topic and sentences of each passage: six sentences of a topic, of which the first two end the passage before."""
    found = []
    for name in sorted(topics):
        long_ones = [s for s in sentences(topics[name]) if len(words(s)) >= SHORTEST]
        found += [(name, part) for part in chunk(long_ones, 6, 2)]
    return [name for name, _ in found], [part for _, part in found]


def question_words(question: str) -> list[str]:
    """The words of a question that name its subject; all of them if none would be left."""
    return [word for word in words(question) if word not in ASKING.split()] or words(question)


def ask(question: str, kind: str = "bm25", k: int = 5) -> tuple[str, float, list[tuple[str, float, float, str]]]:
    """The answer, its p(y|x), and (topic, score, p_η, text) of each passage that was found; prints what it does."""
    titles, passages = manual()
    print(f"indexing {len(passages)} passages of {len(set(titles))} topics", flush=True)
    texts = [words(f"{title} {' '.join(passage)}") for title, passage in zip(titles, passages)]
    if kind == "bm25":
        retriever = BM25(texts)
    else:
        vocabulary = Vocabulary(texts)
        titled = [[title, *passage] for title, passage in zip(titles, passages)]
        trained = train_retriever(titled, vocabulary, report=lambda step, loss: print(f"step {step}: {loss:.2f}"))
        retriever = _OfWords(trained, vocabulary)
    reader = SentenceReader(passages)
    rag, words_of = RAG(retriever, reader, k), [question_words(question)]
    answer = rag.generate(words_of)
    with torch.no_grad():
        scores, found = retriever.search(words_of, k)
        probability = (-rag(words_of, answer)).exp().item()
    rows = zip(found[0].tolist(), scores[0].tolist(), scores[0].softmax(0).tolist())
    shown = [(titles[n], score, p, " ".join(passages[n])) for n, score, p in rows]
    return reader.sentences[answer.item()], probability, shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the passages with their scores, then the answer."""
    parser = argparse.ArgumentParser(prog="python -m impl.models.rag", description="Ask the Python manual.")
    parser.add_argument("question")
    parser.add_argument("--retriever", choices=["bm25", "dense"], default="bm25")
    parser.add_argument("-k", type=int, default=5, help="how many passages")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # these matrices are small: threads would wait for one another
    answer, probability, passages = ask(options.question, options.retriever, options.k)
    for title, score, p, text in passages:
        print(f"{score:6.2f}  p = {p:.2f}  {title}: {text[:88]} …")
    print(f"\n{answer}\n(p = {probability:.2f})")
