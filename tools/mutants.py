"""Automatic mutants: cosmic-ray's operators on the code of an item, a sample of them run against the item's specs."""

import ast
import difflib
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.roadmap import ROADMAP, Roadmap, load
from tools.runner import Target, run_specs
from tools.scaffold import FOUNDATIONS, modules_of
from tools.subject import PACKAGE

HINT = "pip install -c constraints.txt -e '.[mutants]'"


@dataclass(frozen=True)
class Mutant:
    """One change at one place.

    Attributes:
        file: relative to the reference's folder.
        line: 1-based.
        operator: cosmic-ray's name of the change.
        text: the whole mutated file.
    """

    file: Path
    line: int
    operator: str
    text: str


def main(item_id: str, sample: int, seed: int, jobs: int | None = None, root: Path | None = None) -> int:
    """`python -m tools strength --mutants ITEM`: 0 at least nine of ten are killed, 1 fewer; survivors as diffs.

    Args:
        sample: at most so many, drawn by `seed`; all where there are fewer.
    """
    try:
        import cosmic_ray  # noqa: F401
    except ImportError:
        print(f"mutants need cosmic-ray: {HINT}")
        return 2
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    item = roadmap.find(item_id)
    reference = root / PACKAGE
    mutants = all_mutants(reference, roadmap, item)
    random.Random(seed).shuffle(mutants)
    chosen = mutants[:sample]
    print(f"{item_id}: {len(chosen)} of {len(mutants)} mutants")
    with tempfile.TemporaryDirectory(prefix="blueprint-mutants-") as folder:
        targets, named = [], {}
        for n, mutant in enumerate(chosen):
            copy = Path(folder) / f"subject{n}"
            shutil.copytree(reference, copy, ignore=shutil.ignore_patterns("__pycache__"))
            (copy / mutant.file).write_text(mutant.text, encoding="utf-8")
            name = f"{mutant.file}:{mutant.line} {mutant.operator} #{n}"
            named[name] = mutant
            targets.append(Target(name, (item_id,), (f"--impl={copy}",)))
        alive = []
        for n, (name, failed, _) in enumerate(run_specs(targets, jobs, one_is_enough=True), 1):
            if not failed:
                alive.append(name)
                print(f"[{n}/{len(targets)}] SURVIVES {name}", flush=True)
            elif n % 20 == 0:
                print(f"[{n}/{len(targets)}] {len(alive)} survive so far", flush=True)
        # What other items rest on as well is theirs to pin, too: the learned slope in the code that PReLU shares.
        sharers = _sharers(roadmap, reference, item, {named[name].file for name in alive})
        shared = [
            Target(target.name, others, target.options)
            for target in targets
            if target.name in alive and (others := sharers(named[target.name]))
        ]
        for name, failed, _ in run_specs(shared, jobs, one_is_enough=True):
            if failed:
                alive.remove(name)
                print(f"killed by the specs of an item that shares the code: {name}", flush=True)
    survivors = [named[name] for name in alive]
    for mutant in survivors:
        print(_difference((reference / mutant.file).read_text(encoding="utf-8"), mutant))
    killed = len(chosen) - len(survivors)
    print(f"{item_id}: {killed} of {len(chosen)} mutants killed ({killed / max(len(chosen), 1):.0%}), seed {seed}")
    return int(killed < 0.9 * len(chosen))


def all_mutants(reference: Path, roadmap: Roadmap, item) -> list[Mutant]:
    """Every mutant of the code that an item's public names rest on."""
    found = []
    for path, lines in _reached(reference, roadmap, item).items():
        text = (reference / path).read_text(encoding="utf-8")
        found += [m for m in _mutants_of(path, text) if m.line in lines]
    return found


def _sharers(roadmap, reference: Path, item, files: set[Path]):
    """A function: mutant → the other items whose public names rest on the mutated line."""
    reached = {
        other.id: _reached(reference, roadmap, other)
        for other in roadmap.items.values()
        if files and other.id != item.id
    }
    return lambda mutant: tuple(i for i, lines in reached.items() if mutant.line in lines.get(mutant.file, ()))


def _mutants_of(path: Path, text: str):
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    class Places(Visitor):
        def __init__(self, operator):
            self.operator, self.lines = operator, []

        def visit(self, node):
            self.lines += [start[0] for start, _ in self.operator.mutation_positions(node)]
            return node

    # Some need parameters; some change no value: another exception, identity in place of equality of small numbers.
    skipped = ("VariableReplacer", "VariableInserter", "ExceptionReplacer", "_Eq_Is", "_NotEq_IsNot", "_Is_Eq")
    skipped += ("_IsNot_NotEq",)
    for name in operator_names():
        if name.endswith(skipped):
            continue
        operator = get_operator(name)()
        places = Places(operator)
        places.walk(get_ast(text))
        for occurrence, line in enumerate(places.lines):
            mutated = mutate_code(text, operator, occurrence)
            if mutated is not None and _is_another_program(text, mutated):
                yield Mutant(path, line, name.rpartition("/")[2], mutated)


def _is_another_program(text: str, mutated: str) -> bool:
    """Does the mutant parse, and differ in more than annotations and `@staticmethod`s?

    Those change no value: a static method that is called through its class, as autograd does, works without.
    """
    try:
        return _bare(mutated) != _bare(text)
    except SyntaxError:
        return False


def _bare(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
            node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) != "staticmethod"]
    return ast.dump(tree)


def _reached(reference: Path, roadmap: Roadmap, item) -> dict[Path, set[int]]:
    """File → lines of the definitions that an item's public names use, directly or not.

    Foundations and the pages of other items are not followed: what they define is pinned by others.
    """
    page = item.page(reference)
    elsewhere = {other.page(reference) for other in roadmap.items.values()} | {reference / f for f in FOUNDATIONS}
    lines: dict[Path, set[int]] = {}
    waiting, seen = [(page, name) for name in item.names], set()
    while waiting:
        file, name = waiting.pop()
        if (file, name) in seen or not file.is_file() or file in elsewhere - {page}:
            continue
        seen.add((file, name))
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                originals = [a.name for a in node.names if (a.asname or a.name) == name]
                waiting += [(source, original) for original in originals for source in modules_of(file, node)]
            elif name in _defines(node):
                own = lines.setdefault(file.relative_to(reference), set())
                own.update(range(node.lineno, node.end_lineno + 1))
                waiting += [(file, n.id) for n in ast.walk(node) if isinstance(n, ast.Name) and n.id != name]
    return lines


def _defines(node) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _difference(text: str, mutant: Mutant) -> str:
    head = f"{mutant.file}:{mutant.line} {mutant.operator}"
    return (
        head
        + "\n"
        + "\n".join(
            line
            for line in difflib.unified_diff(text.splitlines(), mutant.text.splitlines(), lineterm="", n=0)
            if not line.startswith(("---", "+++", "@@"))
        )
    )
