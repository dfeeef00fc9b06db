"""Runs every bug of spec/bugs against its item's specs: a suite is worth what it rejects."""

import ast
import json
from collections import Counter
from pathlib import Path

from tools.bugs import KILLS, all_bugs, apply_bug, bug_name
from tools.roadmap import KINDS, RoadmapError
from tools.runner import Target, run_specs


def main(items: list[str], jobs: int | None = None, recorded: bool = False, new: bool = False) -> int:
    """`python -m tools strength`: 0 every bug is caught, 1 one survives or is no proper bug.

    Args:
        items: only their bugs, and their rows of the kill matrix; all if empty.
        recorded: run only killing specs that the matrix names, a few for each bug.
        new: only the bugs that no row of the matrix says to be caught.
    """
    root = Path.cwd()
    bugs = [b for b in all_bugs(root) if not items or b["item"] in items]
    if not bugs:
        print(f"no bugs in the catalogue for {', '.join(items) or 'any item'}")
        return 1
    known = _read(root / KILLS)
    if new:
        bugs = [b for b in bugs if not known.get(bug_name(b))]
    problems = _improper(root, bugs) + (_unrecorded(bugs, known) if recorded else [])
    if problems:
        print("\n".join(problems))
        return 1
    named = {bug_name(b): b for b in bugs}
    targets = [Target(n, (b["item"],), ("--bug", n), _few(known[n]) if recorded else ()) for n, b in named.items()]
    kills = {}
    for n, (name, failed, _) in enumerate(run_specs(targets, jobs, one_is_enough=recorded), 1):
        verdict = "caught" if failed and recorded else f"caught by {len(failed)} specs" if failed else "SURVIVES"
        print(f"[{n}/{len(bugs)}] {name:<60} {verdict}", flush=True)
        kills[name] = sorted(failed)
        if not failed and recorded:
            problems.append(
                f"{name} is no longer killed by what {KILLS} names: run `strength --item {named[name]['item']}`"
            )
        elif not failed:
            problems.append(f"{name} survives: {named[name]['story']}")
        elif not recorded and not named[name].get("crashes") and not any(map(_is_wrong_value, failed.values())):
            problems.append(f"{name} is killed by crashes alone, its story promises a wrong value")
    guilty = _failing_without_a_bug({n: named[n]["item"] for n in kills}, kills, jobs)
    problems += guilty
    if not recorded and not guilty:
        catalogue = {bug_name(b) for b in all_bugs(root)}
        matrix = {name: specs for name, specs in (known | kills).items() if name in catalogue}
        (root / KILLS).write_text(json.dumps(matrix, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for file, functions in _redundant(root, kills).items() if not (items or new) else ():
            print(f"hint: {len(functions)} specs of {file} catch nothing that others do not: {', '.join(functions)}")
    print("\n".join(problems) or f"all {len(bugs)} bugs caught")
    return int(bool(problems))


def _read(file: Path) -> dict[str, list[str]]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _improper(root: Path, bugs) -> list[str]:
    """Bugs whose patch does not apply exactly once, or whose name is used twice."""
    problems = []
    for bug in bugs:
        try:
            apply_bug((root / bug["file"]).read_text(encoding="utf-8"), bug)
        except (RoadmapError, OSError) as error:
            problems.append(str(error))
    return problems + [f"bug {n}: the name is used {c} times" for n, c in Counter(map(bug_name, bugs)).items() if c > 1]


def _unrecorded(bugs, known) -> list[str]:
    return [
        f"{bug_name(b)} has no row in {KILLS}: run `python -m tools strength --item {b['item']}`"
        for b in bugs
        if not known.get(bug_name(b))
    ]


def _few(killing: list[str]) -> tuple[str, ...]:
    """Three killing specs, of one kind and one file where possible: each file that is collected costs time."""
    return tuple(sorted(killing, key=lambda k: (KINDS.index(k.split("/")[1]) != 1, k))[:3])


def _failing_without_a_bug(item_of: dict[str, str], kills: dict[str, list[str]], jobs: int | None) -> list[str]:
    """Specs that catch whatever bug there is, because they reject the reference itself: then nothing is proven."""
    always: dict[str, set[str]] = {}
    for bug, item in item_of.items():
        always[item] = always.get(item, set(kills[bug])) & set(kills[bug])
    targets = [Target(item, (item,), (), tuple(sorted(specs))) for item, specs in always.items() if specs]
    return [f"{spec} fails without any bug" for _, failed, _ in run_specs(targets, jobs) for spec in sorted(failed)]


def _is_wrong_value(evidence: str) -> bool:
    return evidence.startswith(("AssertionError", "GoldenError", "GradcheckError", "Failed"))


def _redundant(root: Path, kills: dict[str, list[str]]) -> dict[str, list[str]]:
    """File → its specs that catch no bug alone, with whatever parameters; behaviours are not asked, they run last."""
    catchers = [{spec.partition("[")[0] for spec in killing} for killing in kills.values()]
    alone = {spec for specs in catchers if len(specs) == 1 for spec in specs}
    found = {}
    for file in (f for kind in KINDS[:2] for f in sorted((root / "spec" / kind).rglob("test_*.py"))):
        path = file.relative_to(root).as_posix()
        functions = [n.name for n in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]
        found[path] = [f for f in functions if f.startswith("test_") and f"{path}::{f}" not in alone]
    return {path: functions for path, functions in found.items() if functions}
