"""Which claims does each item make, and which were lost since a revision?"""

import difflib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Runs in a tree, also an older one, with the plugin that stands there: collect, and say what each spec claims.
_COLLECT = """
import json, sys
import pytest

class Keep:
    def pytest_collection_finish(self, session):
        from tools import plugin

        specs = session.config.stash[plugin._KEY].specs.values()
        found = sorted({(i, s.function, s.claim) for s in specs for i in s.items})
        open(sys.argv[1], "w", encoding="utf-8").write(json.dumps(found))

sys.exit(pytest.main(["--collect-only", "-qq", "-n0", "-p", "no:cacheprovider"], [Keep()]))
"""
# As alike as a sentence and its rewording are.
ALIKE = 0.5


@dataclass(frozen=True, order=True)
class Claim:
    item: str
    spec: str
    text: str


def main(before: str | None, items: list[str], root: Path | None = None) -> int:
    """`python -m tools claims`: 0, or 1 where a claim of an earlier revision is not found any more.

    Args:
        before: a revision; its claims are matched with today's by text, by the spec's name, or as a rewording.
        items: only these; all if empty.
    """
    root = root or Path.cwd()
    now = [c for c in collected(root) if not items or c.item in items]
    if before is None:
        for claim in now:
            print(f"{claim.item:<28} {claim.text}")
        print(f"{len(now)} claims of {len({c.item for c in now})} items")
        return 0
    with tempfile.TemporaryDirectory(prefix="blueprint-claims-") as folder:
        _check_out(root, before, Path(folder))
        then = [c for c in collected(Path(folder)) if not items or c.item in items]
    lost, reworded = compare(then, now)
    for old, new in reworded:
        print(f"reworded  {old.item}: {old.text}\n      now {new.text}")
    for claim in lost:
        print(f"LOST      {claim.item}: {claim.spec}: {claim.text}")
    print(f"{before}: {len(then)} claims, now {len(now)}; {len(reworded)} reworded, {len(lost)} lost")
    return int(bool(lost))


def collected(tree: Path) -> list[Claim]:
    """The claims of the specs in a tree, one a spec and item."""
    with tempfile.NamedTemporaryFile("r", suffix=".json", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-c", _COLLECT, file.name], cwd=tree, capture_output=True, text=True)
        text = file.read()
    if not text:
        raise SystemExit(f"the specs of {tree} could not be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [Claim(*entry) for entry in json.loads(text)]


def compare(then: list[Claim], now: list[Claim]) -> tuple[list[Claim], list[tuple[Claim, Claim]]]:
    """The claims of `then` that `now` does not make, and those that it makes in other words."""
    lost, reworded = [], []
    for item in sorted({c.item for c in then}):
        new = [c for c in now if c.item == item]
        texts, names = {c.text for c in new}, {c.spec: c for c in new}
        for claim in (c for c in then if c.item == item and c.text not in texts):
            same = names.get(claim.spec) or _most_alike(claim, new)
            if same:
                reworded.append((claim, same))
            else:
                lost.append(claim)
    return lost, reworded


def _most_alike(claim: Claim, among: list[Claim]) -> Claim | None:
    found = difflib.get_close_matches(claim.text, [c.text for c in among], n=1, cutoff=ALIKE)
    return next(c for c in among if c.text == found[0]) if found else None


def _check_out(root: Path, revision: str, folder: Path) -> None:
    done = subprocess.run(["git", "archive", "--format=tar", revision], cwd=root, capture_output=True)
    if done.returncode:
        raise SystemExit(f"--before {revision}: {done.stderr.decode().strip()}")
    archive = folder / "tree.tar"
    archive.write_bytes(done.stdout)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
