"""How often is the right mistake named? Asked of the known bugs, in code that looks different."""

import ast
import shutil
import tempfile
from pathlib import Path

from tools.bugs import all_bugs, apply_bug, bug_name
from tools.runner import Target, run_specs
from tools.subject import TUNED
from tools.suspects import suspects


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
        for n, (name, failed, ran) in enumerate(run_specs(targets), 1):
            ranked = suspects(name.partition("/")[0], set(failed), ran, root)
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
