"""What a run found, item by item, and the file that keeps it, with hashes of the specs and the subject."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.roadmap import KINDS
from tools.specfile import mentioned_items, spec_files
from tools.subject import digest

FOLDER = Path(".results")
_EXAMPLE = "smallest counterexample:"
# Why an item is pending that has no spec.
NO_SPECS = "no specs yet"
# Failures of another kind than a wrong value: a name, an argument or a module that is not there.
_STRUCTURAL = re.compile(
    r"(Key|Attribute|Import|ModuleNotFound|Name|UnboundLocal|Syntax|NotImplemented)Error"
    r"|TypeError: .*(unexpected keyword|required (positional|keyword)|positional arguments? but)"
    r"|.*loading state_dict for"
)


@dataclass(frozen=True)
class Spec:
    """One collected test: which claim about which items it checks."""

    nodeid: str
    file: str
    line: int
    function: str
    items: list[str]
    kind: str
    claim: str
    source: str
    problem: str = ""
    states: list[str] = field(default_factory=list)  # laws, by the mark of that name

    def as_dict(self):
        return asdict(self)


@dataclass
class ItemStatus:
    """What a run found about one item.

    `status` is one of: done · failed · pending (not written, or not specified yet) · borrowed (the reference's code) ·
    incomplete (a kind of spec is missing) · partial (not all of its specs ran).
    """

    item: str
    status: str
    why: str = ""
    kinds: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)


@dataclass
class Result:
    subject: str
    subject_digest: str
    spec_digest: str
    complete: bool
    verdict: str
    statuses: dict[str, ItemStatus]
    specs: list[dict]
    broken: list[str]
    is_reference: bool = False

    @classmethod
    def of_run(cls, run, outcomes: dict[str, dict], ticked: set[str], succeeded: bool = True) -> "Result":
        """What a run found.

        Args:
            outcomes: node id → outcome and evidence.
            ticked: items that the committed checklist counts as done.
            succeeded: whether pytest is about to report success.
        """
        statuses = {i: _status_of(run, i, outcomes) for i in run.roadmap.items}
        specs = [s.as_dict() | outcomes.get(n, {"outcome": "not run", "evidence": ""}) for n, s in run.specs.items()]
        whole = run.seen >= {f.relative_to(run.root).as_posix() for f in spec_files(run.root)}
        unchanged = run.spec_digest == spec_digest(run.root) and run.subject_digest == run.subject.digest()
        complete = whole and unchanged and not (run.wanted or run.broken or run.deselected or run.replaced)
        complete = complete and all(s["outcome"] != "not run" for s in specs)
        result = cls(
            run.subject.name,
            run.subject_digest,
            run.spec_digest,
            complete,
            "",
            statuses,
            sorted(specs, key=lambda s: (s["file"], s["line"], s["nodeid"])),
            run.broken,
            run.subject.is_reference,
        )
        result.verdict = result._verdict(run, ticked, succeeded)
        return result

    def _verdict(self, run, ticked, succeeded) -> str:
        """Why the run must not exit 0 although no test failed, or an empty string."""
        if self.broken:
            return f"{len(self.broken)} spec file(s) could not be collected"
        if run.replaced:
            return f"{', '.join(run.replaced[:3])} replaced while the specs ran, so their outcomes prove nothing"
        unsound = [s for s in self.specs if s["outcome"] in ("not run", "failed") and s["nodeid"] not in run.deselected]
        if succeeded and unsound:
            return f"the run ended early: {len(unsound)} specs did not run or failed"
        orphans = [s for s in self.specs if s["problem"]]
        if orphans:
            return f"{orphans[0]['nodeid']} is not a spec: {orphans[0]['problem']}"
        if not run.subject.is_reference:
            return ""
        asked = run.wanted or list(run.roadmap.items)
        lost = [s for i, s in self.statuses.items() if i in asked and i in ticked and s.status != "done"]
        # Running a part on purpose loses nothing; what did run and is not written, or is not there to run, does.
        lost = [s for s in lost if s.status != "partial"]
        return "; ".join(f"{s.item} is done by spec/done.toml but {s.status}: {s.why}" for s in lost)

    def count(self, status: str) -> int:
        return sum(s.status == status for s in self.statuses.values())

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def write(self, root: Path) -> Path:
        """Keep the result; a partial run never overwrites a complete one."""
        file = path_of(root, self.subject, self.complete)
        file.parent.mkdir(exist_ok=True)
        file.write_text(self.as_json(), encoding="utf-8")
        known = progress(root, self.subject)
        for item, state in self.statuses.items():
            if self.complete or (state.outcomes and state.status != "partial"):
                known[item] = state
        text = json.dumps({i: asdict(s) for i, s in known.items()}, indent=1, sort_keys=True, ensure_ascii=False)
        _progress_file(root, self.subject).write_text(text + "\n", encoding="utf-8")
        return file


def path_of(root: Path, subject: str, complete: bool = True) -> Path:
    name = re.sub(r"\W+", "-", subject).strip("-")
    return root / FOLDER / (f"{name}.json" if complete else f"{name}-partial.json")


def progress(root: Path, subject: str) -> dict[str, ItemStatus]:
    """What all runs of a subject have found: for each item that has run, the last word on it."""
    file = _progress_file(root, subject)
    if not file.is_file():
        return {}
    return {item: ItemStatus(**state) for item, state in json.loads(file.read_text(encoding="utf-8")).items()}


def _progress_file(root: Path, subject: str) -> Path:
    return path_of(root, f"{subject}-progress")


def read(file: Path) -> Result:
    data = json.loads(file.read_text(encoding="utf-8"))
    data["statuses"] = {k: ItemStatus(**v) for k, v in data["statuses"].items()}
    return Result(**data)


def spec_digest(root: Path) -> str:
    """A hash of all that states what must be true; bugs and peers prove it, laws.toml and done.toml are about it."""
    files = [p for p in (root / "spec").rglob("*") if p.is_file() and p.suffix in {".py", ".toml", ".npz"}]
    proofs = [root / "spec" / name for name in ("bugs", "peers", "laws.toml", "done.toml")]
    return digest(
        root, [f for f in files if "__pycache__" not in f.parts and not any(f.is_relative_to(p) for p in proofs)]
    )


def shown_path(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def is_structural(evidence: str) -> bool:
    """Did a spec fail because something is not there, and not because a value is wrong?"""
    return bool(_STRUCTURAL.match(evidence))


def without_example(evidence: str) -> str:
    """Evidence without its counterexample: the same fault shows itself on different ones."""
    return evidence.partition(f"\n{_EXAMPLE}")[0]


def evidence(error: BaseException) -> str:
    """What was found: Hypothesis' smallest counterexample where there is one, then the failure's first lines."""
    notes = [n for n in getattr(error, "__notes__", []) if n.startswith(("Falsifying example", "Failing test case"))]
    text = str(error).strip().splitlines() or [""]
    lines = [f"{type(error).__name__}: {text[0]}", *[t for t in text[1:] if t.strip()][:7]]
    for note in notes:
        example = [n.rstrip() for n in note.splitlines() if n.strip(" )") and "# or any other" not in n]
        lines += [_EXAMPLE, *example[1:15]]
    return "\n".join(lines)


def _status_of(run, item_id: str, outcomes) -> ItemStatus:
    mine = [s for s in run.specs.values() if item_id in s.items]
    kinds = {k: sum(s.kind == k for s in mine) for k in KINDS}
    found = Counter(outcomes.get(s.nodeid, {"outcome": "not run"})["outcome"] for s in mine)
    status, why = _status(run, item_id, mine, kinds, found)
    return ItemStatus(item_id, status, why, kinds, dict(sorted(found.items())))


def _status(run, item_id, mine, kinds, found):
    total = len(mine)
    if run.replaced and mine:
        return "failed", f"{run.replaced[0]} was replaced: its outcomes prove nothing"
    if found["failed"]:
        return "failed", f"{found['failed']} of {total} specs failed"
    if found["borrowed"]:
        return "borrowed", "its code is the reference's"
    if not mine and not any(item_id in (mentioned_items(f) or ()) for f in spec_files(run.root)):
        return "pending", NO_SPECS
    if found["pending"]:
        return "pending", f"not written yet: {found['pending']} of {total} specs wait"
    if found["not run"] or not _saw_all_files(run, item_id):
        return "partial", f"{total - found['not run']} of its specs ran, others did not"
    missing = [k for k in KINDS if not kinds[k]]
    if missing:
        return "incomplete", f"no spec under {', '.join('spec/' + k for k in missing)}"
    return "done", f"{total} specs passed"


def _saw_all_files(run, item_id) -> bool:
    """Were all files that mention the item collected? (Files whose marks are made at run time count for every item.)"""
    return all(f.relative_to(run.root).as_posix() in run.seen for f in spec_files(run.root, item_id))
