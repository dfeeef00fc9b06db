"""Text as words, sentences and overlapping passages, and words as ids.

Words are those of Unicode Standard Annex #29 without its finer rules: letters, digits, underscores and the marks that
combine with them; text is compared in its composed form (Annex #15, NFC).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def words(text: str) -> list[str]:
    """The words and numbers of a text in order, in lower case and composed form; an underscore is a letter.

    Marks belong to the letter before them, and invisible format characters (joiners, soft hyphens) are dropped.
    """
    return "".join(map(_letter_or_gap, unicodedata.normalize("NFC", text.lower()))).split()


def _letter_or_gap(character):
    kind = unicodedata.category(character)
    if character == "_" or kind[0] in "LMN":  # letters, marks, numbers
        return character
    return "" if kind == "Cf" and character != "\u200b" else " "  # U+200B is a space of no width


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space collapsed.

    A sentence ends at an empty line, and at . ! ? before white space and one of A … Z, " ' ` * or (. Lines without a
    letter or digit, such as those that underline a title, count as empty.
    """
    lines = [line if words(line) else "" for line in text.splitlines()]
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        found += re.split(r"(?<=[.!?])\s+(?=[A-Z\"'`*(])", " ".join(paragraph.split()))
    return [sentence for sentence in found if words(sentence)]


def chunk(items: Sequence, size: int, overlap: int = 0) -> list:
    """Runs of `size` neighbours, each beginning with the last `overlap` of the one before it; the last may be shorter.

    Every item is in a run, and any overlap + 1 neighbours share one.

    Raises:
        ValueError: a size below 1, or an overlap that is negative or not below the size.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"expected 0 <= overlap < size, got size {size} and overlap {overlap}")
    if not items:
        return []
    return [items[start : start + size] for start in range(0, max(len(items) - overlap, 1), size - overlap)]


def check_passages(passages: Sequence[Sequence[str]]) -> None:
    """Each is a list of sentences; iterating over a string would yield its letters."""
    for passage in passages:
        if isinstance(passage, str) or not passage:
            raise ValueError(f"expected passages that are lists of sentences, got {str(passage)[:60]}")


class Vocabulary:
    """Word ids from 1; 0 is padding, which its length counts, and unknown words are left out.

    Args:
        texts: lists of words, which are numbered in the order of their first appearance.
    """

    def __init__(self, texts: Iterable[Sequence[str]]):
        self.ids = {word: n for n, word in enumerate(dict.fromkeys(w for text in texts for w in text), 1)}

    def __len__(self) -> int:
        return len(self.ids) + 1

    def encode(self, texts: Sequence[Sequence[str]]) -> Int[Tensor, "texts longest"]:
        """One row a text, padded with 0 at the end."""
        rows = [[self.ids[word] for word in text if word in self.ids] for text in texts]
        longest = max(map(len, rows), default=0)
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows]).long().view(len(rows), longest)
