"""Looks for words that are not standard English, or not the field's, in what a reader reads: tools/words.toml."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.imports import PACKAGES

LIST = Path(__file__).with_name("words.toml")
PAGES = ("README.md", "CONTRIBUTING.md")
# Of a bug these are code; all else is its story.
_CODE_OF_BUGS = {"find", "replace"}


@dataclass(frozen=True)
class Word:
    """A word that is not used, and what is used for it; `inside` is "docstrings" or empty for everywhere."""

    pattern: re.Pattern
    use: str
    inside: str = ""


@dataclass(frozen=True)
class Text:
    """Some text that a reader reads: its kind is name, docstring, comment, message or page."""

    file: str
    line: int
    kind: str
    text: str


def words() -> list[Word]:
    """The list."""
    flags = re.IGNORECASE | re.MULTILINE
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["word"]
    # A space may be a line break; not at the end of a look-back assertion, which must have one length.
    spaced = [re.sub(r"(?<!\^) (?!\)|\+)", r"\\s+", e["pattern"]) for e in entries]
    return [Word(re.compile(p, flags), e["use"], e.get("in", "")) for p, e in zip(spaced, entries)]


def found(root: Path) -> Iterator[tuple[str, str]]:
    """("file:line", what is written and what to write) for each of the words in a repository."""
    listed = words()
    for text in texts(root):
        for word in listed:
            if word.inside and text.kind != "docstring":
                continue
            for match in word.pattern.finditer(text.text):
                line = text.line + text.text[: match.start()].count("\n")
                yield f"{text.file}:{line}", f"{' '.join(match.group().split())!r}; write: {word.use}"


def texts(root: Path) -> Iterator[Text]:
    """Everything that is read in a repository: Python files, bugs, README and CONTRIBUTING."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            yield from _of_python(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))
    for file in sorted((root / "spec" / "bugs").glob("*.toml")):
        yield from _of_bugs(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8"))
    for name in PAGES:
        if (root / name).is_file():
            yield Text(name, 1, "page", (root / name).read_text(encoding="utf-8"))


def _of_python(file: str, text: str) -> Iterator[Text]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield Text(file, node.lineno, "name", node.name.replace("_", " "))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            docstrings.add(id(node.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_doc = id(node) in docstrings
            if is_doc or " " in node.value:  # a string without a space is a name or a key
                yield Text(file, node.lineno, "docstring" if is_doc else "message", node.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Text(file, token.start[0], "comment", token.string)


def _of_bugs(file: str, text: str) -> Iterator[Text]:
    for bug in tomllib.loads(text).get("bug", []):
        line = text[: max(text.find(f'id = "{bug.get("id")}"'), 0)].count("\n") + 1
        for key, value in bug.items():
            if isinstance(value, str) and key not in _CODE_OF_BUGS:
                yield Text(file, line, "message", value)
