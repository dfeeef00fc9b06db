"""`show ITEM` and `next`: what an item asks for, and which one to write now."""

import ast
import textwrap
from pathlib import Path

from tools import results, specfile
from tools.bugs import all_bugs
from tools.report import next_step
from tools.roadmap import KINDS, ROADMAP, Roadmap, load

LAWS = "test_laws.py"


def show(item_id: str, root: Path | None = None) -> int:
    """Print an item's papers, public names, claims by kind, and the bugs that its specs reject."""
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    item = roadmap.find(item_id)
    print(f"{item.title} ({item.id})\n{item.section} → {item.group}\n")
    for paper in item.papers:
        print(f"  paper   {paper}")
    print(f"  write   {item.path}: {', '.join(item.names)}")
    print(f"  check   pytest --impl mine --item {item.id}")
    for kind in KINDS:
        found = list(_claims(root / "spec" / kind, item.id))
        if found:
            print(f"\n{kind}")
        for claim, source in found:
            _print_wrapped(claim, "  • ")
            if source:
                _print_wrapped(source, "      source: ")
    if not any(list(_claims(root / "spec" / kind, item.id)) for kind in KINDS):
        print("\nno specs yet; CONTRIBUTING.md shows how an item begins")
        return 0
    bugs = [b for b in all_bugs(root) if b["item"] == item.id]
    if bugs:
        print(f"\nbugs it must resist ({len(bugs)})")
    for bug in bugs:
        _print_wrapped(f"{bug['id']}: {bug['story']}", "  • ")
    print(f"\nand the laws of every module: spec/properties/{LAWS}")
    return 0


def suggest(subject: str, root: Path | None = None) -> int:
    """Print what to do next for a subject, from its last run: 0, or 1 if it was never run."""
    root = root or Path.cwd()
    files = [results.path_of(root, subject, complete) for complete in (True, False)]
    files = [f for f in files if f.is_file()]
    if not files:
        flag = "" if subject == "impl" else f" --impl {subject}"
        print(f"no run of {subject} yet; start with: pytest{flag}")
        return 1
    roadmap: Roadmap = load(root / ROADMAP)
    # The newest word on the subject, complete or not.
    result = results.read(max(files, key=lambda f: f.stat().st_mtime))
    print(next_step(result, roadmap) or "nothing waits: every specified item is done")
    return 0


def _claims(folder: Path, item_id: str):
    """(claim, source) of each spec function of an item in a folder, the laws of every module left out."""
    for file in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        of_module = [i for s in tree.body if isinstance(s, ast.Assign) for i in _marks(s)]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                own = [i for d in node.decorator_list for i in _marks(d)] or of_module
                if item_id in own:
                    doc = ast.get_docstring(node) or node.name
                    source = specfile.source_of(doc)
                    yield specfile.claim_of(doc), source


def _marks(node):
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("mark.item"):
            yield from (a.value for a in call.args if isinstance(a, ast.Constant))


def _print_wrapped(text: str, indent: str) -> None:
    print(textwrap.fill(text, 88, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False))
