"""`show ITEM` and `next`: what an item asks for, and which one to write now."""

import contextlib
import io
import textwrap
from pathlib import Path

from tools import contracts, plugin, results, specfile
from tools.bugs import all_bugs
from tools.report import next_step, own_path
from tools.results import NO_SPECS, ItemStatus
from tools.roadmap import KINDS, ROADMAP, load
from tools.subject import PACKAGE

# Whose code `show` speaks of where no package is named.
LEARNER = "mine"


def show(item_id: str, impl: str = LEARNER, root: Path | None = None) -> int:
    """Print an item's papers, public names, claims by kind, and the bugs that its specs reject.

    Args:
        impl: the package that the reader writes.
    """
    root = root or Path.cwd()
    item = load(root / ROADMAP).find(item_id)
    specs = collected(item.id, root)
    print(f"{item.title} ({item.id})\n{item.section} → {item.group}\n")
    for paper in item.papers:
        print(f"  paper   {paper}")
    print(f"  write   {own_path(impl, item)}: {', '.join(item.names)}")
    print(f"  check   pytest{'' if impl == PACKAGE else f' --impl={impl}'} --item {item.id}")
    for name, lines in contracts.promises(root, item.id).items():
        print(f"\ncontract of {name}")
        for line in lines:
            _print_wrapped(line, "  • ")
    laws = [s for s in specs if s.file.endswith("_laws.py")]
    for kind in KINDS:
        # The cases of a spec make the same claim.
        claims = dict.fromkeys((s.claim, s.source) for s in specs if s.kind == kind and s not in laws)
        if claims:
            print(f"\n{kind}")
        for claim, source in claims:
            _print_wrapped(claim, "  • ")
            if source:
                _print_wrapped(source, "      source: ")
    if not specs:
        print("\nno specs yet; CONTRIBUTING.md shows how an item begins")
        return 0
    bugs = [b for b in all_bugs(root) if b["item"] == item.id]
    if bugs:
        print(f"\nbugs it must resist ({len(bugs)})")
    for bug in bugs:
        _print_wrapped(f"{bug['id']}: {bug['story']}", "  • ")
    names = dict.fromkeys(s.function.removeprefix("test_").replace("_", " ") for s in laws)
    if names:
        files = ", ".join(dict.fromkeys(s.file for s in laws))
        print(f"\nand {len(names)} laws of every module, in {files}")
        _print_wrapped("; ".join(names), "  ")
    return 0


def collected(item_id: str, root: Path) -> list[results.Spec]:
    """The specs of an item, as pytest collects them from the reference.

    Raises:
        RoadmapError: they cannot be collected.
    """
    import pytest

    kept = _Keep()
    files = [str(f) for f in specfile.spec_files(root, item_id)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        quiet = ["--collect-only", "-qq", "-n0", "-p", "no:cacheprovider", f"--rootdir={root}"]
        quiet += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # this process has imported what pytest rewrites
        status = pytest.main([*quiet, "--item", item_id, *files], plugins=[kept]) if files else 0
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise plugin.RoadmapError(f"the specs of {item_id} cannot be collected:\n{said.getvalue()[-2000:]}")
    return sorted(kept.specs, key=lambda s: (KINDS.index(s.kind), s.file, s.line))


class _Keep:
    specs: list[results.Spec] = []

    def pytest_collection_finish(self, session):
        self.specs = plugin.specs_of(session.config)


def suggest(subject: str, root: Path | None = None) -> int:
    """Print what to do next for a subject, from all its runs: 0, or 1 if it was never run."""
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    known = results.progress(root, subject)
    if not known:
        print(f"no run of {subject} yet; start with: pytest{'' if subject == PACKAGE else f' --impl={subject}'}")
        return 1
    specified = set().union(*(specfile.mentioned_items(f) or () for f in specfile.spec_files(root)))
    waits = {i: ItemStatus(i, "pending", "not run yet" if i in specified else NO_SPECS) for i in roadmap.items}
    print(next_step(waits | known, subject, roadmap) or "nothing waits: every specified item is done")
    return 0


def _print_wrapped(text: str, indent: str) -> None:
    print(textwrap.fill(text, 88, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False))
