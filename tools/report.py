"""The closing report: the roadmap's progress, what broke and how to see it again, and what to do next."""

import shlex
import shutil
import textwrap
from pathlib import Path

from tools.results import NO_SPECS, ItemStatus, Result, without_example
from tools.roadmap import KINDS, Roadmap
from tools.subject import PACKAGE, TUNED
from tools.suspects import likely_mistakes

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
    shown: dict[tuple[str, str], str] = {}  # a failure → the item that it was shown for
    listed = []
    for state in failing:
        broken = _broken(result, state.item)
        failure = (broken[0]["function"], without_example(broken[0]["evidence"])) if broken else ("", "")
        known = shown.get(failure)
        if known:
            yield "", {}
            yield f"FAILED {state.item} · {roadmap.items[state.item].title} · {state.why}", {"red": True, "bold": True}
            yield from _labelled("found", f"the same as {known}: {broken[0]['function']}", width)
        elif len(set(shown.values())) < SHOWN_FAILURES:
            yield from _failure(result, roadmap.items[state.item], state, broken, width, root)
            if broken:
                shown[failure] = state.item
        else:
            listed.append(state.item)
    if listed:
        yield "", {}
        yield from _labelled("FAILED", ", ".join(listed), width)
    homeless = [s for s in result.specs if s["outcome"] == "failed" and not set(s["items"]) & set(result.statuses)]
    for spec in homeless[:SHOWN_FAILURES]:
        yield "", {}
        yield f"FAILED {spec['nodeid']}", {"red": True, "bold": True}
        yield from _labelled("found", spec["evidence"], width)
    for line in result.broken:
        yield "", {}
        yield f"NOT COLLECTED {line}", {"red": True, "bold": True}


def _broken(result, item_id: str) -> list[dict]:
    """The failed specs of an item, the most telling first.

    That are its own claims before the laws of every module, and properties before behaviours.
    """
    broken = [s for s in result.specs if item_id in s["items"] and s["outcome"] == "failed"]
    return sorted(broken, key=lambda s: (s["file"].endswith("test_laws.py"), KINDS.index(s["kind"]), s["line"]))


def _failure(result, item, state, broken, width, root):
    yield "", {}
    yield f"FAILED {item.id} · {item.title} · {state.why}", {"red": True, "bold": True}
    if not broken:
        return
    first = broken[0]
    case = first["nodeid"].partition("[")[2].removesuffix("]")
    for label, text in (("claim", first["claim"]), ("source", first["source"]), ("case", case)):
        if text:
            yield from _labelled(label, text, width)
    evidence = [part for line in first["evidence"].splitlines() for part in _kept_indent(line, width - 10)]
    for n, line in enumerate(evidence):
        yield f"  {'found' if n == 0 else '':<7} {line}", {}
    yield f"  {'spec':<7} {first['file']}:{first['line']}", {}
    yield f"  {'again':<7} {command(result, item.id, first['function'])}", {"bold": True}
    # Of a bug that was asked for by name the name is no news.
    if root and not result.subject.startswith("bug "):
        where = None if result.subject in (PACKAGE, TUNED) else own_path(result.subject, item)
        specs = [s for s in result.specs if item.id in s["items"]]
        for line in likely_mistakes(item.id, specs, root, where):
            yield from _labelled("like", line, width)
    if len(broken) > 1:
        others = sorted({s["function"] for s in broken} - {first["function"]})
        yield from _labelled("also", ", ".join(others) or f"{len(broken) - 1} other cases of it", width)


def own_path(subject: str, item) -> str:
    """The file of an item in a subject that is given by the name of a package or by a path."""
    folder = subject.rstrip("/") if "/" in subject or subject.startswith(".") else subject.replace(".", "/")
    return f"{folder}/{item.path.partition('/')[2]}"


def command(result: Result, item_id: str, function: str | None = None) -> str:
    """The one command that runs these specs again."""
    return command_for(result.subject, item_id, function)


def command_for(subject: str, item_id: str, function: str | None = None) -> str:
    parts = ["pytest"]
    if subject.startswith("bug "):
        parts += ["--bug", subject.removeprefix("bug ")]
    elif subject != PACKAGE:
        parts += [f"--impl={subject}"]
    parts += ["--item", item_id]
    if function:
        parts += ["-k", function]
    return shlex.join(parts)


def _others(result, wanted, width):
    """Items between done and failed, by what they wait for."""
    is_tuned = result.subject == TUNED
    heads = {
        "borrowed": "borrowed from the reference" + ("" if is_tuned else ", so not done"),
        "incomplete": "specified in part",
        "partial": "not all specs ran",
        "pending": "pending, not written yet",
    }
    for status, head in heads.items():
        statuses = [s for s in result.statuses.values() if s.status == status and not wanted]
        if status == "partial" and not any(s.outcomes for s in statuses):
            continue
        unspecified = [s for s in statuses if s.why == NO_SPECS]
        named = [s.item for s in statuses if s not in unspecified]
        if named:
            yield "", {}
            yield f"{head} ({len(named)})", {} if is_tuned and status == "borrowed" else {"yellow": True}
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
    advice = "" if result.subject.startswith("bug ") else next_step(result.statuses, result.subject, roadmap, wanted)
    if advice:
        yield from _labelled("next", advice, width)


def next_step(statuses: dict[str, ItemStatus], subject: str, roadmap: Roadmap, wanted=()) -> str:
    """One suggestion: fix what fails, else the first item in the roadmap's order that waits for its code.

    Args:
        statuses: of every item.
        subject: its name as it was given; what the tuned forms borrow is no work that waits.
        wanted: only among these; all if empty.
    """
    works = ("failed", "pending") if subject == TUNED else ("failed", "pending", "borrowed")
    asked = [i for i in roadmap.items.values() if not wanted or i.id in wanted]
    for work in works:
        for item in asked:
            state = statuses[item.id]
            if state.status == work and state.why != NO_SPECS:
                if work == "failed":
                    return f"fix {item.id}: {command_for(subject, item.id)}"
                show = f"python -m tools show {item.id}"
                return f"{show}; write {own_path(subject, item)}; {command_for(subject, item.id)}"
    if wanted and subject not in (PACKAGE, TUNED) and all(statuses[i].status == "done" for i in wanted):
        return f"python -m tools next --impl={subject}"
    if subject == PACKAGE and not wanted:
        for item in asked:
            if statuses[item.id].why == NO_SPECS:
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
