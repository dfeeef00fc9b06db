"""Runs every bug of spec/bugs against its item's specs: a suite is worth what it rejects."""

import ast
import gc
import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tools.bugs import KILLS, all_bugs, apply_bug, bug_name
from tools.roadmap import KINDS, RoadmapError


def main(items: list[str], jobs: int | None = None, recorded: bool = False, new: bool = False) -> int:
    """`python -m tools strength`: 0 every bug is caught, 1 one survives or is no proper bug.

    Args:
        items: only their bugs, and their rows of the kill matrix; all if empty.
        recorded: run only specs that the matrix names as killers, a few for each bug: are they still what it says?
        new: only the bugs that have no row in the matrix yet.
    """
    root = Path.cwd()
    bugs = [b for b in all_bugs(root) if not items or b["item"] in items]
    if not bugs:
        print(f"no bugs in the catalogue for {', '.join(items) or 'any item'}")
        return 1
    known = _read(root / KILLS)
    if new:
        bugs = [b for b in bugs if bug_name(b) not in known]
    problems = _improper(root, bugs) + (_unrecorded(bugs, known) if recorded else [])
    if problems:
        print("\n".join(problems))
        return 1
    named = {bug_name(b): b for b in bugs}
    targets = [Target(n, (b["item"],), ("--bug", n), _few(known[n]) if recorded else ()) for n, b in named.items()]
    kills = {}
    for n, (name, failed) in enumerate(hunt(targets, jobs, one_is_enough=recorded), 1):
        verdict = "caught" if failed and recorded else f"caught by {len(failed)} specs" if failed else "SURVIVES"
        print(f"[{n}/{len(bugs)}] {name:<60} {verdict}", flush=True)
        kills[name] = sorted(failed)
        if not failed and recorded:
            problems.append(f"{name} no longer dies of what {KILLS} names: run `strength --item {named[name]['item']}`")
        elif not failed:
            problems.append(f"{name} survives: {named[name]['story']}")
        elif not recorded and not named[name].get("crashes") and not any(map(_is_wrong_value, failed.values())):
            problems.append(f"{name} dies only by crashing, its story promises a wrong value")
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
    """Bugs whose patch does not apply exactly once, or whose name stands twice."""
    problems = []
    for bug in bugs:
        try:
            apply_bug((root / bug["file"]).read_text(encoding="utf-8"), bug)
        except (RoadmapError, OSError) as error:
            problems.append(str(error))
    return problems + [f"bug {n}: the name stands {c} times" for n, c in Counter(map(bug_name, bugs)).items() if c > 1]


def _unrecorded(bugs, known) -> list[str]:
    return [
        f"{bug_name(b)} has no row in {KILLS}: run `python -m tools strength --item {b['item']}`"
        for b in bugs
        if not known.get(bug_name(b))
    ]


def _few(killers: list[str]) -> tuple[str, ...]:
    """Three killers, of one kind and one file where possible: each file that is collected costs time."""
    return tuple(sorted(killers, key=lambda k: (KINDS.index(k.split("/")[1]) != 1, k))[:3])


def _failing_without_a_bug(item_of: dict[str, str], kills: dict[str, list[str]], jobs: int | None) -> list[str]:
    """Specs that catch whatever bug there is, because they reject the reference itself: then nothing is proven."""
    always: dict[str, set[str]] = {}
    for bug, item in item_of.items():
        always[item] = always.get(item, set(kills[bug])) & set(kills[bug])
    targets = [Target(item, (item,), (), tuple(sorted(specs))) for item, specs in always.items() if specs]
    return [f"{spec} fails without any bug" for _, failed in hunt(targets, jobs) for spec in sorted(failed)]


@dataclass(frozen=True)
class Target:
    """A wrong subject: pytest's options that choose it, and the items whose specs hunt it, or some of those."""

    name: str
    items: tuple[str, ...]
    options: tuple[str, ...]
    specs: tuple[str, ...] = ()


def hunt(targets, jobs: int | None = None, one_is_enough: bool = False):
    """Yields (name, {failed spec: evidence}) for each target, as it is decided.

    Golden values and properties first; behaviours only for what those let live. A run is a fork of this process, which
    has imported everything already.

    Args:
        one_is_enough: stop at the first spec that fails; otherwise all that do are found.
    """
    _warm_up(long=len(targets) >= 8)
    options = ("-x",) if one_is_enough else ()
    waiting = [(target, KINDS[1::-1]) for target in reversed(targets)]
    running = {}
    while waiting or running:
        while waiting and len(running) < (jobs or os.cpu_count() or 1):
            target, kinds = waiting.pop()
            file = tempfile.NamedTemporaryFile("r", suffix=".json")  # noqa: SIM115  closed when the run has ended
            child = os.fork()
            if child == 0:
                _child(target, kinds, options, file.name)
            running[child] = target, kinds, file
        child, status = os.wait()
        target, kinds, file = running.pop(child)
        with file:
            text = file.read()
        if not text:
            # A spec that is gone, or has other parameters, stops pytest before it starts.
            asked = (
                f"; is one of these gone, and its row to be made anew? {', '.join(target.specs)}"
                if target.specs
                else ""
            )
            how = f"see pytest {' '.join(target.options)}{asked}"
            raise SystemExit(f"{target.name}: the run itself broke ({status}); {how}")
        failed = json.loads(text)
        if failed or kinds == KINDS[2:] or target.specs:
            yield target.name, failed
        else:
            waiting.append((target, KINDS[2:]))


@cache
def _warm_up(long: bool):
    """Load what every run needs, and use it once; each run is then a fork that starts in a moment."""
    sys.path.insert(0, str(Path.cwd()))
    import beartype  # noqa: F401
    import hypothesis.extra.numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch

    import spec.cases  # noqa: F401
    import tools.plugin

    torch.set_num_threads(1)
    gc.freeze()  # a run's collections need not look at what all runs share
    if not long:
        return
    from spec import laws

    # torch's compiler and its meta device load most of their parts at the first use.
    layer, inputs = partial(torch.nn.Linear, 2, 3), (torch.ones(2, 2),)
    for law in (laws.compiles, laws.works_on_meta, laws.inputs_not_mutated):
        law(layer, inputs)
    laws.gradient_correct(layer(), *inputs)
    for file in Path("spec").rglob("test_*.py"):
        tools.plugin.results.mentioned_items(file)
    gc.freeze()


def _is_wrong_value(evidence: str) -> bool:
    return evidence.startswith(("AssertionError", "GoldenError", "GradcheckError", "Failed"))


def _child(target, kinds, options, result_file):
    """One pytest run; writes failed specs → evidence, and never returns."""
    import pytest
    from hypothesis import Phase, settings

    class Watcher:
        failed: dict[str, str] = {}

        def pytest_collection(self):
            # Which specs fail is asked, not on how small an input: shrinking would take most of the time.
            settings.register_profile("hunt", settings.default, phases=(Phase.explicit, Phase.generate))
            settings.load_profile("hunt")

        def pytest_runtest_logreport(self, report):
            if getattr(report, "spec_outcome", report.outcome) == "failed":
                self.failed[report.nodeid] = getattr(report, "evidence", "") or report.longreprtext[-300:]

    status = 2
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        watcher = Watcher()
        # What the parent imported is not rewritten again; the specs themselves are.
        quiet = ["-n0", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
        folders = [f"spec/{kind}" for kind in kinds if Path("spec", kind).is_dir()]
        items = [option for item in target.items for option in ("--item", item)]
        chosen = [*target.options, *items, "--hypothesis-profile", "ci", *(target.specs or folders)]
        status = pytest.main([*quiet, *options, *chosen], plugins=[watcher])
        if status in (0, 1, 5):
            Path(result_file).write_text(json.dumps(watcher.failed), encoding="utf-8")
    finally:
        os._exit(int(status))


def _redundant(root: Path, kills: dict[str, list[str]]) -> dict[str, list[str]]:
    """File → its specs that catch no bug alone, with whatever parameters; behaviours are not asked, they run last."""
    catchers = [{spec.partition("[")[0] for spec in killers} for killers in kills.values()]
    alone = {spec for specs in catchers if len(specs) == 1 for spec in specs}
    found = {}
    for file in (f for kind in KINDS[:2] for f in sorted((root / "spec" / kind).rglob("test_*.py"))):
        path = file.relative_to(root).as_posix()
        functions = [n.name for n in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]
        found[path] = [f for f in functions if f.startswith("test_") and f"{path}::{f}" not in alone]
    return {path: functions for path, functions in found.items() if functions}
