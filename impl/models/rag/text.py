"""Text as words, sentences and overlapping passages, and words as numbers."""

import re
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def words(text: str) -> list[str]:
    """The words and numbers of a text in order, in lower case; an underscore is a letter."""
    return re.findall(r"\w+", text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space made single; an empty line ends a sentence as well as . ! or ?

    Lines without a letter or digit, such as those that underline a title, are empty.
    """
    lines = [line if words(line) else "" for line in text.splitlines()]
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        found += re.split(r"(?<=[.!?])\s+(?=[A-Z\"'`*(])", " ".join(paragraph.split()))
    return [sentence for sentence in found if words(sentence)]


def chunk(items: Sequence, size: int, overlap: int = 0) -> list:
    """Runs of `size` neighbours, each beginning with the last `overlap` of the one before it; the last may be shorter.

    Every item is in a run, and overlap + 1 neighbours always stand together in one.

    Raises:
        ValueError: a size below 1, or an overlap that is negative or not below the size.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"expected 0 <= overlap < size, got size {size} and overlap {overlap}")
    if not items:
        return []
    return [items[start : start + size] for start in range(0, max(len(items) - overlap, 1), size - overlap)]


def check_passages(passages: Sequence[Sequence[str]]) -> None:
    """Each is a list of sentences: those of a string would be its letters."""
    for passage in passages:
        if isinstance(passage, str) or not passage:
            raise ValueError(f"expected passages that are lists of sentences, got {str(passage)[:60]}")


class Vocabulary:
    """Words ↔ numbers from 1; 0 is padding, and words that were never seen are left out.

    Args:
        texts: lists of words; a word's number is the place of its first appearance.
    """

    def __init__(self, texts: Iterable[Sequence[str]]):
        self.numbers = {word: n for n, word in enumerate(dict.fromkeys(w for text in texts for w in text), 1)}

    def __len__(self) -> int:
        return len(self.numbers) + 1

    def encode(self, texts: Sequence[Sequence[str]]) -> Int[Tensor, "texts longest"]:
        """One row a text, padded with 0 at the end."""
        rows = [[self.numbers[word] for word in text if word in self.numbers] for text in texts]
        longest = max(map(len, rows), default=0)
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows]).long().view(len(rows), longest)
