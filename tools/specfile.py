"""Reads spec files once for all tools: their kinds, items, tests and assertions, and the fields of a docstring."""

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tools.roadmap import KINDS


@dataclass
class SpecFile:
    """A parsed spec file.

    Attributes:
        path, shown: where it is, and the same relative to the repository.
        kind: the folder below spec/ that holds it.
        tests: its test functions.
        subject_names: names that it imports from the subject.
    """

    path: Path
    shown: str
    kind: str
    tree: ast.Module
    text: str
    tests: list[ast.FunctionDef] = field(default_factory=list)
    subject_names: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, root: Path) -> "SpecFile":
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        shown = path.relative_to(root).as_posix()
        tests = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("impl")]
        names = {a.asname or a.name for n in imports for a in n.names}
        return cls(path, shown, shown.split("/")[1], tree, text, tests, names)

    def at(self, node) -> str:
        """Where a node of the tree is: "file:line"."""
        return f"{self.shown}:{node.lineno}"


def kind_of(path: Path, root: Path) -> str | None:
    """The kind of a spec file, which is the folder that it is in; None for a file that is no spec file."""
    if re.fullmatch(r"test_.*\.py", path.name):
        for kind in KINDS:
            if path.is_relative_to(root / "spec" / kind):
                return kind
    return None


def spec_files(root: Path, item_id: str | None = None) -> list[Path]:
    """Every spec file, or those that mention an item (or build their marks at run time, so may mention it)."""
    files = [f for kind in KINDS for f in sorted((root / "spec" / kind).rglob("test_*.py"))]
    if item_id is None:
        return files
    return [f for f in files if (ids := mentioned_items(f)) is None or item_id in ids]


def mentioned_items(file: Path) -> frozenset[str] | None:
    """The ids in the `item` marks of a spec file; None where one is no plain string, so only a run can tell."""
    return _mentioned(file.read_text(encoding="utf-8"))


@cache
def _mentioned(text: str):
    ids = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.item"):
            if not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant)):
                return None
            ids.add(node.args[0].value)
    return frozenset(ids)


def asserts_something(file: Path, function: str) -> bool:
    """Does a function of a spec file assert, directly or through another function of the same file?"""
    return function in _asserting_functions(file.read_text(encoding="utf-8"))


@cache
def _asserting_functions(text: str) -> frozenset[str]:
    functions = {n.name: n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
    found = {name for name, node in functions.items() if any(_asserts(n) for n in ast.walk(node))}
    calls = {
        name: {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        for name, node in functions.items()
    }
    while more := {name for name in functions if name not in found and calls[name] & found}:
        found |= more
    return frozenset(found)


def _asserts(node: ast.AST) -> bool:
    """Is this an assertion: `assert`, `assert_…(…)`, `pytest.raises`, `gradcheck`, a law or check as a statement?"""
    if isinstance(node, ast.Assert):
        # A constant claims nothing about the subject.
        return not isinstance(node.test, ast.Constant)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        return bool(re.search(r"(^|\.)(assert_\w+|check\w*|fail)$|^(laws|optimizer_laws|scratch)\.\w+$", called))
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"


def block_at(file: Path, line: int) -> str | None:
    """The body of the innermost `with` statement around a line, in one line; None where there is none."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    around = [n for n in ast.walk(tree) if isinstance(n, ast.With) and n.lineno <= line <= n.end_lineno]
    return "; ".join(map(ast.unparse, max(around, key=lambda n: n.lineno).body)) if around else None


def names_in(code: str) -> set[str]:
    """The names that some code loads."""
    return {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}


def claim_of(doc: str) -> str:
    """The first paragraph of a docstring as one line: what a spec claims."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def source_of(doc: str) -> str:
    """Where the claim of a docstring comes from: its `Source:`, else its `Convention:`."""
    return field_of(doc, "Source") or field_of(doc, "Convention")


def field_of(doc: str, name: str) -> str:
    """The value of a `Name:` line of a docstring, its indented continuation lines included."""
    found = re.search(rf"^[ \t]*{name}:[ \t]*(.+(?:\n[ \t]+(?!\w+:)\S.*)*)", doc or "", re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""
