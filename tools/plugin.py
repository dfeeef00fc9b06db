"""The pytest plugin: which implementation is tested, what each spec's outcome means, and the roadmap's progress."""

import json
import random
import shutil
import tempfile
from functools import wraps
from pathlib import Path

import pytest

from tools import checklist, law_matrix, report, results, specfile, subject, trust
from tools.bugs import apply_bug, find_bug
from tools.roadmap import ROADMAP, Roadmap, RoadmapError, load

# So many tracebacks of a run are shown, and so many lines of each message.
SHOWN_TRACEBACKS, SHOWN_LINES = 3, 12
_KEY = pytest.StashKey["Run"]()
_CHANNEL = pytest.StashKey[trust.Channel | None]()
_MACHINERY = pytest.StashKey[dict]()


class Run:
    """What one pytest process knows: the subject, what was asked for, what was collected."""

    def __init__(self, config: pytest.Config):
        option = config.option
        self.root = config.rootpath
        self.roadmap: Roadmap = load(self.root / ROADMAP)
        self.wanted = [self.roadmap.find(i).id for i in option.items]
        for title in option.sections:
            self.wanted += [i.id for i in self.roadmap.items.values() if title.lower() in i.section.lower()]
            if not any(title.lower() in section.lower() for section in self.roadmap.sections):
                raise RoadmapError(f"--section {title}: expected part of one of {', '.join(self.roadmap.sections)}")
        self.temporary = None
        if option.bug:
            if option.impl != subject.PACKAGE:
                raise RoadmapError(f"--bug chooses the subject; expected no --impl with it, found {option.impl}")
            self.subject = self._with_bug(option.bug)
        else:
            self.subject = subject.resolve(option.impl, self.root, option.borrow)
        self.ticked = checklist.ticked(self.root)
        self.specs: dict[str, results.Spec] = {}
        self.seen: set[str] = set()  # spec files that were collected, whatever was chosen from them
        self.deselected: set[str] = set()
        self.broken: list[str] = []
        self.replaced: list[str] = []  # functions of pytest or of these tools that the subject has replaced
        self.is_brief = False  # show only few tracebacks, and of those the frames of specs and subject
        self.hidden = 0  # tracebacks that are not shown
        self.status: int | None = None  # the exit status that the session ended with
        self.borrowed: dict[str, list[str]] = {}  # item → its public names that are the reference's
        self.spec_digest = results.spec_digest(self.root)
        self.subject_digest = self.subject.digest()

    def _with_bug(self, bug_id: str) -> subject.Subject:
        """A temporary copy of the package that the bug is of, with one patch; the repository's files are untouched."""
        bug = find_bug(self.root, bug_id)
        package = Path(bug["file"]).parts[0]
        self.temporary = tempfile.mkdtemp(prefix="blueprint-bug-")
        folder = Path(self.temporary) / package
        shutil.copytree(self.root / package, folder, ignore=shutil.ignore_patterns("__pycache__"))
        file = folder.parent / bug["file"]
        file.write_text(apply_bug(file.read_text(encoding="utf-8"), bug), encoding="utf-8")
        reference = self.root / subject.PACKAGE
        return subject.Subject(f"bug {bug_id}", folder, reference, package == subject.TUNED, is_ours=True)

    def is_spec(self, path: Path) -> bool:
        return specfile.kind_of(path, self.root) is not None


# ------------------------------------------------------------------------------------------------ set-up


def pytest_addoption(parser):
    group = parser.getgroup("roadmap")
    group.addoption("--impl", default=subject.PACKAGE, metavar="PACKAGE", help="the implementation under test")
    group.addoption("--borrow", action="store_true", help="let it lean on the reference for what it has not written")
    group.addoption(
        "--item", action="append", default=[], dest="items", metavar="ID", help="only this item (repeatable)"
    )
    group.addoption(
        "--section", action="append", default=[], dest="sections", metavar="TITLE", help="only this section"
    )
    group.addoption("--order-seed", type=int, metavar="N", help="run the specs in a random order, the same for one N")
    group.addoption("--bug", metavar="ITEM/BUG", help="test the reference, or fast, with this bug of spec/bugs put in")


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before output is captured, and before any conftest is imported
def pytest_load_initial_conftests(early_config):
    here = early_config.invocation_params.dir
    if trust.is_command(early_config) and here != early_config.rootpath and (here / ROADMAP).is_file():
        trust.restart_with_joined_option("--impl")
    early_config.stash[_CHANNEL] = trust.split(early_config.rootpath, early_config)
    return (yield)


def pytest_configure(config):
    config.addinivalue_line("markers", "item(id): the roadmap item that a spec belongs to")
    config.addinivalue_line(
        "markers",
        "project_convention(packages): a convention of impl and fast, or of the named one; nobody else is asked",
    )
    config.addinivalue_line(
        "markers",
        "own_code: a rule for code that is written for these specs; peers, other people's code, are not asked",
    )
    config.addinivalue_line("markers", f"states(laws): a law that a spec states: {', '.join(law_matrix.OWN)}")
    if not (config.rootpath / ROADMAP).is_file():
        # The plugin is installed with the project, and other test suites run in the same environment.
        option = config.option
        if option.items or option.sections or option.bug or option.impl != subject.PACKAGE:
            hint = f"; for a folder elsewhere write --impl={option.impl}" if Path(option.impl).is_dir() else ""
            raise pytest.UsageError(f"expected {ROADMAP} under {config.rootpath}, found none{hint}")
        return
    try:
        config.stash[_KEY] = run = Run(config)
    except (RoadmapError, subject.SubjectError) as error:
        raise pytest.UsageError(str(error)) from None
    subject.install(run.subject)
    run.collector = _Collector(run)
    config.pluginmanager.register(run.collector)
    if config.option.tbstyle == "auto":
        # One item, or files that are named: their tracebacks. The whole roadmap: the closing report says what broke and
        # how to see more.
        named = config.args_source == config.ArgsSource.ARGS
        config.option.tbstyle = "short" if run.wanted or named else "no"
        run.is_brief = not named


def pytest_sessionstart(session):
    # Other plugins have replaced what they replace; nothing of the subject is imported yet.
    session.config.stash[_MACHINERY] = trust.machinery()


def pytest_unconfigure(config):
    run = config.stash.get(_KEY, None)
    if run and run.temporary:
        shutil.rmtree(run.temporary, ignore_errors=True)
    channel = config.stash.get(_CHANNEL, None)
    if channel:
        channel.hand_over(run.status if run and run.status is not None else pytest.ExitCode.OK)


@pytest.hookimpl(optionalhook=True, tryfirst=True)  # xdist's own answer comes before ours where it loads later
def pytest_xdist_auto_num_workers(config):
    """One item, or a file, runs in process: starting workers would cost more than they save."""
    run = config.stash.get(_KEY, None)
    explicit = [a for a in config.invocation_params.args if "::" in str(a) or str(a).endswith(".py")]
    option = config.option
    return 0 if (run and run.wanted) or option.items or option.sections or explicit or option.collectonly else None


def pytest_report_header(config):
    run = config.stash.get(_KEY, None)
    if run is None:
        return None
    import torch

    profile = getattr(config.option, "hypothesis_profile", None) or "dev"
    shown = results.shown_path(run.subject.folder, run.root)
    lines = [f"subject: {run.subject.name} · {shown} · {run.subject_digest}"]
    if run.subject.borrow:
        lines[0] += " · may borrow from the reference"
    lines.append(f"torch {torch.__version__} · Hypothesis profile {profile}")
    return lines


# ------------------------------------------------------------------------------------------------ collection


def pytest_ignore_collect(collection_path, config):
    """`--item` skips files that do not mention the item, so that one item costs seconds."""
    run = config.stash.get(_KEY, None)
    if run and run.wanted and collection_path.is_file() and run.is_spec(collection_path):
        ids = specfile.mentioned_items(collection_path)
        if ids is not None and not ids & set(run.wanted):
            return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """`--item` makes no spec of another item's parameters: the laws of every module would be thousands."""
    run = metafunc.config.stash.get(_KEY, None)
    if run and run.wanted and not any(metafunc.definition.iter_markers("item")):
        marks = metafunc.definition.own_markers
        marks[:] = [_only(run, m) if m.name == "parametrize" else m for m in marks]


def _only(run: Run, mark):
    """A parametrize mark without the sets of values that are marked with items, none of them wanted."""

    def is_wanted(values) -> bool:
        ids = [m.args[0] for m in getattr(values, "marks", ()) if m.name == "item" and m.args]
        return not ids or bool(set(ids) & set(run.wanted))

    names, values, *rest = mark.args
    return pytest.mark.parametrize(names, [v for v in values if is_wanted(v)], *rest, **mark.kwargs).mark


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config, items):
    run = config.stash.get(_KEY, None)
    if run is None:
        return (yield)
    collected = [t for t in items if run.is_spec(t.path)]
    for test in collected:
        run.specs[test.nodeid] = spec = results.Spec(**_describe(run, test))
        run.seen.add(spec.file)
    if run.wanted:
        chosen = set(run.wanted)
        keep = [t for t in items if not run.is_spec(t.path) or chosen & set(run.specs[t.nodeid].items)]
        kept = {t.nodeid for t in keep}
        dropped = [t for t in items if t.nodeid not in kept]
        for test in dropped:
            run.specs.pop(test.nodeid)  # another item's: not asked for, so nobody's loss
        if dropped:
            config.hook.pytest_deselected(items=dropped)  # so that pytest's count is that of the specs
        items[:] = keep
    spared = [t for t in items if run.is_spec(t.path) and not _is_asked(run.subject, t)]
    for test in spared:
        run.specs.pop(test.nodeid)
        items.remove(test)
    if spared:
        config.hook.pytest_deselected(items=spared)
    before = [t.nodeid for t in items if t.nodeid in run.specs]
    result = yield
    if config.option.order_seed is not None:  # last: what else sorts the specs has done so; workers agree on the seed
        random.Random(config.option.order_seed).shuffle(items)
    kept = {t.nodeid for t in items}
    run.deselected = {nodeid for nodeid in before if nodeid not in kept}
    return result


def _is_asked(asked: subject.Subject, test) -> bool:
    """Is the subject held to this claim? A convention of the project is not asked of other people's code."""
    mark = test.get_closest_marker("project_convention")
    if mark and asked.package not in (mark.args or subject.PACKAGES):
        return False
    return not (asked.is_peer and test.get_closest_marker("own_code"))


def _describe(run: Run, test) -> dict:
    marks = [m for m in test.own_markers if m.name == "item"] or list(test.iter_markers("item"))
    ids = [m.args[0] for m in marks if m.args]
    doc = test.function.__doc__ or ""
    claim = specfile.claim_of(doc)
    # A law is a spec of each record: claim, source and name are its own, not those of the test that asks it.
    asked = getattr(getattr(test, "callspec", None), "params", {}).get("law")
    law = asked if hasattr(asked, "claim") else None  # pytest fills an empty set of parameters in
    return {
        "nodeid": test.nodeid,
        "file": test.path.relative_to(run.root).as_posix(),
        "line": test.location[1] + 1 if test.location[1] is not None else 1,
        "function": law.name if law else test.originalname,
        "items": ids,
        "kind": specfile.kind_of(test.path, run.root),
        "claim": law.claim if law else claim,
        "source": law.source if law else specfile.source_of(doc),
        "problem": _problem(run, test, ids, claim, doc),
        "states": _states(test),
    }


def _states(test) -> list[str]:
    return [law for mark in test.iter_markers("states") for law in mark.args]


def _problem(run: Run, test, ids, claim, doc) -> str:
    """Why this is no spec at all, or an empty string. Such a spec fails: it must not look like progress."""
    if not ids:
        return "it names no roadmap item: expected pytest.mark.item(id)"
    for item_id in ids:
        try:
            run.roadmap.find(item_id)
        except RoadmapError as error:
            return str(error)
    unknown = [law for law in _states(test) if law not in law_matrix.OWN]
    if unknown:
        return f"it states {unknown[0]!r}: expected one of {', '.join(law_matrix.OWN)}"
    if not claim:
        return "it has no docstring: expected the claim in one sentence, and its source"
    if "Source:" not in doc and "Convention:" not in doc:
        return "its docstring names no Source: or Convention:"
    if not specfile.asserts_something(test.path, test.originalname):
        return "it asserts nothing: a spec that cannot fail proves nothing"
    return ""


# ------------------------------------------------------------------------------------------------ outcomes


def specs_of(config) -> list[results.Spec]:
    """The specs that a run has collected."""
    return list(config.stash[_KEY].specs.values())


def pytest_runtest_setup(item):
    run = item.config.stash.get(_KEY, None)
    spec = run.specs.get(item.nodeid) if run else None
    if spec is None:
        return
    if spec.problem:
        pytest.fail(f"not a spec: {spec.problem}", pytrace=False)
    _stop_at_unwritten(run, item.obj)
    borrowed = {i: _borrowed(run, i) for i in spec.items}
    for item_id, names in borrowed.items():
        if names:
            pytest.skip(f"borrowed: {', '.join(names)} of {item_id} come from the reference")


class _Waiting(pytest.skip.Exception):
    """Code that is not written yet, met while Hypothesis draws: at a skip it stops, an error it would shrink."""


def _stop_at_unwritten(run: Run, spec) -> None:
    handle = getattr(spec, "hypothesis", None)
    if handle is None or hasattr(handle.inner_test, "stops_at_unwritten"):
        return
    body = handle.inner_test

    @wraps(body)
    def stopping(*args, **kwargs):
        try:
            return body(*args, **kwargs)
        except NotImplementedError as error:
            if _unwritten(run, pytest.ExceptionInfo.from_exception(error)):
                raise _Waiting(str(error)) from None
            raise

    stopping.stops_at_unwritten = True
    handle.inner_test = stopping


def _borrowed(run: Run, item_id: str) -> list[str]:
    if item_id not in run.borrowed:
        item = run.roadmap.items[item_id]
        run.borrowed[item_id] = run.subject.borrowed(item.module, item.names)
    return run.borrowed[item_id]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    run = item.config.stash.get(_KEY, None)
    if run is None or item.nodeid not in run.specs:
        return outcome
    outcome.spec_outcome, outcome.evidence = outcome.outcome, ""
    expected_to_fail = outcome.__dict__.pop("wasxfail", None)
    if call.excinfo is None and expected_to_fail is None:
        return outcome
    if expected_to_fail is not None:
        # Skips and expected failures are how suites turn green without running.
        return _fail(outcome, f"the spec was marked as expected to fail ({expected_to_fail}); a spec runs and passes")
    unwritten = call.excinfo.errisinstance(NotImplementedError) and _unwritten(run, call.excinfo)
    if unwritten or call.excinfo.errisinstance(_Waiting):
        outcome.outcome, outcome.spec_outcome = "skipped", "pending"
        outcome.longrepr = (str(item.path), item.location[1] or 0, f"pending: {call.excinfo.value}")
    elif outcome.skipped and str(call.excinfo.value).startswith("borrowed: "):
        outcome.spec_outcome, outcome.evidence = "borrowed", str(call.excinfo.value)
    elif outcome.skipped:
        return _fail(outcome, f"the spec was skipped ({call.excinfo.value}); a spec runs and passes")
    elif outcome.failed:
        if run.is_brief:
            _shorten(run, outcome.longrepr, item.config.invocation_params.dir)
        outcome.evidence = results.evidence(call.excinfo.value) + _call_without_error(run, call.excinfo)
    return outcome


def _shorten(run: Run, shown, start: Path) -> None:
    """Leave the frames of specs and subject, and the last one, with the first lines of the message. In place."""
    for traceback, *_ in getattr(shown, "chain", []):
        files = [
            (start / at.path).resolve() if (at := getattr(e, "reprfileloc", None)) else None
            for e in traceback.reprentries
        ]
        ours = [f is not None and (run.is_spec(f) or run.subject.owns(f)) for f in files]
        traceback.reprentries = [e for e, own in zip(traceback.reprentries[:-1], ours) if own] + traceback.reprentries[
            -1:
        ]
        last = traceback.reprentries[-1]
        if len(last.lines) > SHOWN_LINES:
            last.lines = [*last.lines[:SHOWN_LINES], f"E   … {len(last.lines) - SHOWN_LINES} more lines"]


def _hide_tracebacks(run: Run, terminal) -> None:
    """Of the failures that are counted, show the tracebacks of the first few that differ."""
    seen: set[str] = set()
    for failed in terminal.stats.get("failed", []):
        evidence = results.without_example(getattr(failed, "evidence", "")) or failed.nodeid
        if evidence in seen or len(seen) >= SHOWN_TRACEBACKS:
            failed._pdbshown = True  # the mark by which pytest leaves out what its debugger has shown
            run.hidden += 1
        seen.add(evidence)


def _call_without_error(run: Run, excinfo) -> str:
    """Of a `pytest.raises` that saw no error: the call, with the values that it was made with."""
    if "DID NOT RAISE" not in str(excinfo.value):
        return ""
    for entry in reversed(excinfo.traceback):
        code = specfile.block_at(Path(entry.path), entry.lineno + 1) if run.is_spec(Path(entry.path)) else None
        if code:
            names, plain = specfile.names_in(code), (int, float, complex, str, tuple, list, type(None))
            known = {n: v for n, v in entry.frame.f_locals.items() if n in names and isinstance(v, plain)}
            values = ", ".join(f"{name} = {value!r}" for name, value in known.items())
            return f"\nno error from {code}" + (f"\nwith {values}" if values else "")
    return ""


def _fail(outcome, why: str):
    outcome.outcome = outcome.spec_outcome = "failed"
    outcome.longrepr = outcome.evidence = why
    return outcome


def _unwritten(run: Run, excinfo) -> bool:
    """Did the subject itself say that it is not written yet? (torch raises the same type for other reasons.)"""
    last = excinfo.traceback[-1]
    stub = Path(last.path) == Path(subject.__file__) or last.name == "_forward_unimplemented"
    return stub or (run.subject.owns(Path(last.path)) and "NotImplementedError" in str(last.statement))


def pytest_report_teststatus(report, config):
    kind = getattr(report, "spec_outcome", None)
    if kind == "pending" and report.skipped:
        return "pending", "-", "PENDING"
    if kind == "borrowed" and report.skipped:
        return "borrowed", "b", "BORROWED"
    return None


# ------------------------------------------------------------------------------------------------ closing


class _Collector:
    """Gathers outcomes in the process that reports: the only one, or the controller of the workers."""

    def __init__(self, run: Run):
        self.run = run
        self.outcomes: dict[str, dict] = {}

    def pytest_collectreport(self, report):
        if report.failed or (report.skipped and self.run.is_spec(self.run.root / report.nodeid)):
            # A module that skips itself runs no spec, however green it looks.
            last = (report.longreprtext.strip() or "skipped as a whole").splitlines()[-1]
            self.run.broken.append(f"{report.nodeid}: {last}")

    def pytest_runtest_logreport(self, report):
        kind = getattr(report, "spec_outcome", report.outcome)
        if report.when != "call" and kind == "passed":
            return
        # A spec has three phases; the worst of them is its outcome.
        rank = ["passed", "borrowed", "pending", "failed"]
        kind = kind if kind in rank else "failed"
        known = self.outcomes.get(report.nodeid)
        if known is None or rank.index(kind) > rank.index(known["outcome"]):
            evidence = getattr(report, "evidence", "") or (report.longreprtext if kind == "failed" else "")
            self.outcomes[report.nodeid] = {"outcome": kind, "evidence": evidence}


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the last word on the status is handed over to the parent
def pytest_sessionfinish(session, exitstatus):
    run = session.config.stash.get(_KEY, None)
    if run is not None:
        _finish(session, run)
    result = yield
    if run is not None:
        run.status = session.exitstatus
    return result


def _finish(session, run: Run) -> None:
    config = session.config
    run.replaced += trust.replaced(config.stash.get(_MACHINERY, {}))
    if hasattr(config, "workeroutput"):
        config.workeroutput["blueprint"] = json.dumps(
            {
                "specs": [s.as_dict() for s in run.specs.values()],
                "seen": sorted(run.seen),
                "deselected": sorted(run.deselected),
                "broken": run.broken,
                "replaced": run.replaced,
            }
        )
        return
    if config.option.collectonly or not (run.specs or run.broken or run.wanted):
        return
    run.result = results.Result.of_run(run, run.collector.outcomes, run.ticked, succeeded=session.exitstatus == 0)
    if not run.temporary:
        run.result.write(run.root)
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if run.is_brief and terminal:
        _hide_tracebacks(run, terminal)
    if run.result.verdict and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and _waits_for_specs(run):
        session.exitstatus = pytest.ExitCode.OK  # an item without specs waits; that is no error


def _waits_for_specs(run: Run) -> bool:
    return bool(run.wanted) and all(run.result.statuses[i].why == "no specs yet" for i in run.wanted)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    sent = getattr(node, "workeroutput", {}).get("blueprint")
    run = node.config.stash.get(_KEY, None)
    if sent and run:
        sent = json.loads(sent)
        run.specs.update({s["nodeid"]: results.Spec(**s) for s in sent["specs"]})
        run.seen.update(sent["seen"])
        run.deselected.update(sent["deselected"])
        run.broken = sorted({*run.broken, *sent["broken"]})
        run.replaced = sorted({*run.replaced, *sent["replaced"]})


def pytest_terminal_summary(terminalreporter, config):
    run = config.stash.get(_KEY, None)
    if run is not None and getattr(run, "result", None):
        if run.hidden and config.option.tbstyle != "no":
            terminalreporter.write_line(f"{run.hidden} more failures; --tb=short shows their tracebacks")
        report.write(terminalreporter, run)
