"""The closing report: the roadmap's progress, what broke and how to see it again, and what to do next."""

import shlex
import shutil
import textwrap
from pathlib import Path

from tools.results import Result
from tools.roadmap import KINDS, Roadmap
from tools.suspects import suspects

WIDTH = 80
SHOWN_FAILURES = 5


def write(terminal, run) -> None:
    """Print the report of a run through pytest's terminal reporter."""
    wide = shutil.get_terminal_size((WIDTH, 24)).columns
    unicode = (getattr(terminal._tw._file, "encoding", "") or "").lower().replace("-", "").startswith("utf")
    terminal.section("roadmap", sep="=")
    width = min(max(wide, WIDTH), 100)
    for text, markup in lines(run.result, run.roadmap, run.wanted, width=width, unicode=unicode, root=run.root):
        terminal.write_line(text, **markup)


def lines(
    result: Result, roadmap: Roadmap, wanted=(), width: int = WIDTH, unicode: bool = True, root: Path | None = None
):
    """The report as (text, markup) pairs, no line longer than `width` but for paths and commands.

    Args:
        root: of the repository with the catalogue of bugs; without it no likely mistake is named.
    """
    yield from _sections(result, roadmap, wanted, width, unicode)
    yield from _failures(result, roadmap, width, root)
    yield from _others(result, wanted, width)
    yield from _summary(result, roadmap, wanted, width)


def _sections(result, roadmap, wanted, width, unicode):
    full, empty = ("█", "░") if unicode else ("#", ".")
    if wanted:
        for item_id in wanted:
            state = result.statuses[item_id]
            color = {"done": {"green": True}, "failed": {"red": True, "bold": True}}.get(state.status, {"yellow": True})
            kinds = ", ".join(f"{n} {k}" for k, n in state.kinds.items())
            yield f"{_box(state)} {item_id:<28} {state.status} · {state.why}", color
            yield f"      {kinds}", {}
        return
    title_width = max(len(s) for s in roadmap.sections)
    bar_width = max(width - title_width - 12, 6)
    for section, groups in roadmap.sections.items():
        items = [i for group in groups.values() for i in group]
        done = sum(result.statuses[i.id].status == "done" for i in items)
        failed = any(result.statuses[i.id].status == "failed" for i in items)
        filled = round(bar_width * done / len(items))
        if 0 < done < len(items):
            filled = min(max(filled, 1), bar_width - 1)
        color = {"red": True} if failed else {"green": True} if done == len(items) else {}
        yield f"{section:<{title_width}}  {full * filled}{empty * (bar_width - filled)} {done:>3}/{len(items)}", color


def _box(state) -> str:
    return {"done": "[x]", "failed": "[!]"}.get(state.status, "[ ]")


def _failures(result, roadmap, width, root):
    """Failing items first: what claim broke, where it comes from, the evidence, and the command that shows it again."""
    failing = [s for s in result.statuses.values() if s.status == "failed"]
    for state in failing[:SHOWN_FAILURES]:
        broken = [s for s in result.specs if state.item in s["items"] and s["outcome"] == "failed"]
        # The most telling first: the item's own claims before the laws of every module, properties before behaviours.
        first = min(broken, key=lambda s: (s["file"].endswith("test_laws.py"), KINDS.index(s["kind"]), s["line"]))
        item = roadmap.items[state.item]
        yield "", {}
        yield f"FAILED {item.id} · {item.title} · {state.why}", {"red": True, "bold": True}
        for label, text in (("claim", first["claim"]), ("source", first["source"])):
            yield from _labelled(label, text, width)
        evidence = [part for line in first["evidence"].splitlines() for part in _kept_indent(line, width - 10)]
        for n, line in enumerate(evidence):
            yield f"  {'found' if n == 0 else '':<7} {line}", {}
        yield f"  {'spec':<7} {first['file']}:{first['line']}", {}
        yield f"  {'again':<7} {command(result, item.id, first['function'])}", {"bold": True}
        # Of a bug that was asked for by name the name is no news.
        ranked = (
            suspects(item.id, {s["nodeid"] for s in broken}, root)
            if root and not result.subject.startswith("bug ")
            else []
        )
        for suspect in [s for s in ranked if s.likeness == ranked[0].likeness][:3]:
            yield from _labelled("like", str(suspect), width)
        if len(broken) > 1:
            others = sorted({s["function"] for s in broken} - {first["function"]})
            yield from _labelled("also", ", ".join(others) or f"{len(broken) - 1} other cases of it", width)
    if len(failing) > SHOWN_FAILURES:
        yield "", {}
        yield from _labelled("FAILED", ", ".join(s.item for s in failing[SHOWN_FAILURES:]), width)
    homeless = [s for s in result.specs if s["outcome"] == "failed" and not set(s["items"]) & set(result.statuses)]
    for spec in homeless[:SHOWN_FAILURES]:
        yield "", {}
        yield f"FAILED {spec['nodeid']}", {"red": True, "bold": True}
        yield from _labelled("found", spec["evidence"], width)
    for line in result.broken:
        yield "", {}
        yield f"NOT COLLECTED {line}", {"red": True, "bold": True}


def command(result: Result, item_id: str, function: str | None = None) -> str:
    """The one command that runs these specs again."""
    parts = ["pytest"]
    if result.subject.startswith("bug "):
        parts += ["--bug", result.subject.removeprefix("bug ")]
    elif not result.is_reference:
        # With '=' pytest does not take the folder for one to collect from.
        parts += [f"--impl={result.subject}"]
    parts += ["--item", item_id]
    if function:
        parts += ["-k", function]
    return shlex.join(parts)


def _others(result, wanted, width):
    """Items between done and failed, by what they wait for."""
    heads = {
        "borrowed": "borrowed from the reference, so not done",
        "incomplete": "specified in part",
        "partial": "not all specs ran",
        "pending": "pending, not written yet",
    }
    for status, head in heads.items():
        statuses = [s for s in result.statuses.values() if s.status == status and not wanted]
        if status == "partial" and not any(s.outcomes for s in statuses):
            continue
        unspecified = [s for s in statuses if s.why == "no specs yet"]
        named = [s.item for s in statuses if s not in unspecified]
        if named:
            yield "", {}
            yield f"{head} ({len(named)})", {"yellow": True}
            yield from ((line, {}) for line in _wrapped(", ".join(named), width, "  "))
        if unspecified:
            yield "", {}
            yield f"waiting for their specs: {len(unspecified)} items", {}


def _summary(result, roadmap, wanted, width):
    total = len(result.statuses)
    counts = {s: result.count(s) for s in ("done", "failed", "pending", "borrowed", "incomplete", "partial")}
    if not wanted:
        shown = [f"{counts['done']} of {total} done"]
        shown += [f"{n} {s}" for s, n in counts.items() if n and s != "done"]
        color = {"red": True} if counts["failed"] or result.verdict else {"green": True}
        yield "", {}
        yield f"{' · '.join(shown)}", color | {"bold": True}
        if not result.complete:
            yield "not a complete run: the checklist is made from `pytest` without filters", {}
    if result.verdict:
        yield from _wrapped_markup(f"exit 1: {result.verdict}", width, {"red": True, "bold": True})
    advice = next_step(result, roadmap, wanted)
    if advice:
        yield from _labelled("next", advice, width)


def next_step(result: Result, roadmap: Roadmap, wanted=()) -> str:
    """One suggestion: fix what fails, else the first item in the roadmap's order that waits for its code."""
    for status in ("failed", "pending", "borrowed"):
        for item in roadmap.items.values():
            state = result.statuses[item.id]
            if wanted and item.id not in wanted:
                continue
            if state.status == status and state.why != "no specs yet":
                if status == "failed":
                    return f"fix {item.id}: {command(result, item.id)}"
                return f"python -m tools show {item.id}; write {item.path}; {command(result, item.id)}"
    if result.is_reference and not wanted:
        for item in roadmap.items.values():
            if result.statuses[item.id].why == "no specs yet":
                return f"specify {item.id} ({item.title}); CONTRIBUTING.md shows how"
    return ""


def _labelled(label, text, width):
    for n, line in enumerate(_wrapped(text, width - 10, "")):
        yield f"  {label if n == 0 else '':<7} {line}", {}


def _kept_indent(line, width):
    return _wrapped(line.strip(), width, " " * (len(line) - len(line.lstrip())))


def _wrapped(text, width, indent):
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _wrapped_markup(text, width, markup):
    return ((line, markup) for line in _wrapped(text, width, ""))
