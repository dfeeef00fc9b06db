"""Names the likely mistake: whose failed specs look most like those of a known bug."""

import ast
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.bugs import KILLS, all_bugs, apply_bug, bug_name
from tools.strength import Target, hunt
from tools.subject import TUNED

# Below this likeness a name would be a guess.
ENOUGH = 0.5


@dataclass(frozen=True)
class Suspect:
    """A known bug and how alike the failures are: 1.0 where exactly the same specs fail."""

    bug: str
    likeness: float
    story: str
    where: str

    def __str__(self):
        how = "exactly" if self.likeness == 1 else "much"
        return f"fails {how} like '{self.bug.partition('/')[2]}': {self.story} (look at {self.where})"


def suspects(item: str, failed: set[str], root: Path) -> list[Suspect]:
    """The known bugs of an item that fail most alike, the likeliest first; those that tie share the first likeness.

    Args:
        failed: node ids of the item's failed specs.
    """
    file = root / KILLS
    if not file.is_file():
        return []
    kills = json.loads(file.read_text(encoding="utf-8"))
    found = []
    for bug in all_bugs(root):
        name = bug_name(bug)
        if bug["item"] == item and kills.get(name):
            likeness = _likeness(failed, set(kills[name]))
            if likeness >= ENOUGH:
                found.append(Suspect(name, likeness, bug["story"], _where(bug, root)))
    return sorted(found, key=lambda s: -s.likeness)


def _likeness(failed: set[str], killers: set[str]) -> float:
    """Jaccard's index of two sets of specs, of the kinds that hunted the bug."""
    if not any(k.startswith("spec/behaviours/") for k in killers):
        failed = {f for f in failed if not f.startswith("spec/behaviours/")}
    return len(failed & killers) / len(failed | killers)


def _where(bug: dict, root: Path) -> str:
    """The file of the reference, and the line that the bug changes: the right one for comparison."""
    text = (root / bug["file"]).read_text(encoding="utf-8")
    line = text[: max(text.find(bug["find"]), 0)].count("\n") + 1
    return f"{bug['file']}:{line}"


def main(items: list[str], root: Path | None = None) -> int:
    """`python -m tools diagnosis`: how often the right bug is named first, or tied, in code that looks different.

    Each bug goes into a copy of the reference whose local names are changed and whose layout and comments are gone.
    0 if at least nine of ten are named, else 1.
    """
    root = root or Path.cwd()
    bugs = [b for b in all_bugs(root) if not items or b["item"] in items]
    with tempfile.TemporaryDirectory(prefix="blueprint-diagnosis-") as folder:
        targets = []
        for n, bug in enumerate(bugs):
            copy = Path(folder) / f"subject{n}"
            package = Path(bug["file"]).parts[0]
            shutil.copytree(root / package, copy, ignore=shutil.ignore_patterns("__pycache__"))
            file = copy / Path(bug["file"]).relative_to(package)
            file.write_text(apply_bug(file.read_text(encoding="utf-8"), bug), encoding="utf-8")
            for source in copy.rglob("*.py"):
                source.write_text(disguised(source.read_text(encoding="utf-8")), encoding="utf-8")
            lent = ("--borrow",) if package == TUNED else ()
            targets.append(Target(bug_name(bug), (bug["item"],), (f"--impl={copy}", *lent)))
        right = 0
        for n, (name, failed) in enumerate(hunt(targets), 1):
            ranked = suspects(name.partition("/")[0], set(failed), root)
            first = [s.bug for s in ranked if s.likeness == ranked[0].likeness]
            right += name in first
            verdict = (
                ("named" if len(first) == 1 else f"tied with {len(first) - 1}")
                if name in first
                else f"taken for {first}"
            )
            print(f"[{n}/{len(targets)}] {name:<60} {verdict}", flush=True)
    print(f"the right bug is named first or tied in {right} of {len(targets)} ({right / len(targets):.0%})")
    return int(right < 0.9 * len(targets))


def disguised(text: str) -> str:
    """The same program with other local names, another layout and no comments."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            _rename_locals(node)
    return ast.unparse(tree)


def _rename_locals(function: ast.FunctionDef) -> None:
    nested = [
        n
        for n in ast.walk(function)
        if isinstance(n, (ast.FunctionDef, ast.Lambda, ast.ClassDef)) and n is not function
    ]
    if nested or any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(function)):
        return  # a closure shares names; renaming half of it would be another program
    arguments = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - arguments
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in stored:
            node.id = f"my_{node.id}"
