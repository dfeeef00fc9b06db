"""Runs the specs on other people's correct code: a spec that rejects a peer of spec/peers is wrong."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tools import results
from tools.roadmap import ROADMAP, Roadmap, RoadmapError, load
from tools.subject import PACKAGE

PEERS = Path("spec/peers")


def main(names: list[str], items: list[str], root: Path | None = None) -> int:
    """`python -m tools peers`: 0 every item of every peer is accepted, 1 a spec rejects one.

    A peer whose library is not installed is named and left out, unless it was asked for.

    Args:
        names: only these peers; all if empty.
        items: only these items; all that a peer has if empty.

    Raises:
        RoadmapError: no such peer, or one that was asked for lacks its library.
    """
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    present = _present(root)
    for name in names:
        if name not in present:
            raise RoadmapError(f"--peer {name}: expected one of {', '.join(present)}")
    accepted, rejected = set(), []
    for name in names or present:
        absent = _absent_libraries(root / PEERS / name)
        if absent and name in names:
            raise RoadmapError(f"--peer {name}: expected {', '.join(absent)} to be installed, found none")
        if absent:
            print(f"{name}: left out, {', '.join(absent)} not installed", flush=True)
            continue
        carried = [i for i in carried_items(root / PEERS / name, roadmap) if not items or i in items]
        if carried:
            wrong = _rejected(name, carried, root)
            print(f"{name}: {len(carried) - len(wrong)} of {len(carried)} items accepted", flush=True)
            accepted |= {i for i in carried if i not in wrong}
            rejected += [f"{name}: {why}" for why in wrong.values()]
    print("\n".join(rejected) or f"{len(accepted)} items accepted from other people's code, none rejected")
    return int(bool(rejected) or not accepted)


def _present(root: Path) -> list[str]:
    """The names of the peers."""
    folder = root / PEERS
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.py"))) if folder.is_dir() else []


def accepted_by_item(root: Path, roadmap: Roadmap) -> dict[str, list[str]]:
    """Item → the peers that carry it; all are accepted, or `python -m tools peers` fails."""
    found = {}
    for name in _present(root):
        for item in carried_items(root / PEERS / name, roadmap):
            found.setdefault(item, []).append(name)
    return found


def carried_items(peer: Path, roadmap: Roadmap) -> list[str]:
    """The items of which a peer's module defines a public name."""
    found = []
    for item in roadmap.items.values():
        file = item.page(peer)
        if file.is_file() and set(item.names) & _defined(file):
            found.append(item.id)
    return found


def _defined(file: Path) -> set[str]:
    """Names that a module binds at its top level."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {a.asname or a.name for a in node.names}
        elif isinstance(node, ast.Assign):
            names |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def _absent_libraries(peer: Path) -> list[str]:
    """What a peer imports and this environment lacks."""
    wanted = set()
    for file in peer.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {a.name.partition(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                wanted.add(node.module.partition(".")[0])
    return sorted(name for name in wanted - {PACKAGE, "spec"} if importlib.util.find_spec(name) is None)


def _rejected(name: str, carried: list[str], root: Path) -> dict[str, str]:
    """Item → why it is not accepted: a spec fails, or none passes. What a library lacks may wait."""
    subject = f"spec.peers.{name}"
    chosen = [argument for item in carried for argument in ("--item", item)]
    workers = (os.cpu_count() or 1) if len(carried) > 4 else 0  # starting workers costs more than a few items
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--hypothesis-profile", "ci"]
    file = results.path_of(root, subject, complete=False)
    file.unlink(missing_ok=True)
    environment = {"TRITON_INTERPRET": "1"} | os.environ  # no peer needs a GPU
    arguments = [*command, "--impl", subject, *chosen]
    done = subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True)
    if not file.is_file():
        raise RoadmapError(f"the run of {subject} broke:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    statuses = results.read(file).statuses
    good = {i for i in carried if statuses[i].status in ("done", "pending") and statuses[i].outcomes.get("passed")}
    wrong = {i: f"{i}: {statuses[i].why}" for i in carried if i not in good}
    if wrong:
        print(done.stdout)
    return wrong
