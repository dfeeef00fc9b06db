"""Runs specs against many wrong subjects, side by side, each in a fork of a process that has imported everything."""

import gc
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from tools import specfile
from tools.roadmap import KINDS


@dataclass(frozen=True)
class Target:
    """A wrong subject: the options that choose it, and the items whose specs are run against it, or some of these."""

    name: str
    items: tuple[str, ...]
    options: tuple[str, ...]
    specs: tuple[str, ...] = ()


def run_specs(targets, jobs: int | None = None, one_is_enough: bool = False):
    """Yields (name, {failed spec: evidence}, specs that ran last) for each target, as it is decided.

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
        failed, ran = json.loads(text)
        if failed or kinds == KINDS[2:] or target.specs:
            yield target.name, failed, set(ran)
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
    import tools.plugin  # noqa: F401

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
        specfile.mentioned_items(file)
    gc.freeze()


def _child(target, kinds, options, result_file):
    """One pytest run; writes failed specs → evidence and all that ran, and never returns."""
    import pytest
    from hypothesis import Phase, settings

    class Watcher:
        failed: dict[str, str] = {}
        ran: set[str] = set()

        def pytest_collection(self):
            # Which specs fail is asked, not on how small an input: shrinking would take most of the time.
            settings.register_profile("runner", settings.default, phases=(Phase.explicit, Phase.generate))
            settings.load_profile("runner")

        def pytest_runtest_logreport(self, report):
            self.ran.add(report.nodeid)
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
            Path(result_file).write_text(json.dumps([watcher.failed, sorted(watcher.ran)]), encoding="utf-8")
    finally:
        os._exit(int(status))
