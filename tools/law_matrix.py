"""Which laws does an item's specification state, which do not apply to it and why, and which are missing?"""

import ast
import importlib
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.checklist import StaleError, complete_result
from tools.roadmap import ROADMAP, RoadmapError, load

EXCUSES = Path("spec/laws.toml")
# The laws of every module and of every optimizer run on the records of spec/cases: file → how to get the records.
GENERIC = {
    "spec/properties/test_laws.py": ("spec.laws", "OF_MODULES", "all_cases"),
    "spec/properties/test_optimizer_laws.py": ("spec.optimizer_laws", "OF_OPTIMIZERS", "all_optimizer_cases"),
}
# Laws that an item states in its own words: a spec with the mark `states(law)`, or that calls one of these functions.
OWN = {
    "symmetry": ("an invariance or equivariance", {"laws.invariant", "laws.equivariant"}),
    "dependence": ("what an output depends on: causal, local, one by one", {"laws.causal", "laws.depends_only_on"}),
    "limiting case": ("an extreme that has a known answer", set()),
    "equivalence": ("another formulation, or another library's, is the same", {"laws.gradients_match"}),
    "second derivative": ("the gradient of the gradient", {"laws.gradient_correct(second_order)"}),
    "gradient routing": ("who gets gradient, and who must not", {"laws.gradient_reaches"}),
    "cost": ("operations or bytes, counted", {"cost.flops", "cost.peak_bytes", "cost.operators"}),
}
# The law of contracts that says it of an item whose contract names a library's counterpart.
COUNTERPART = "agrees_with_library"
SPECIFIED, EXEMPT, MISSING = "x", "-", "!"


@dataclass(frozen=True)
class Entry:
    """One field of the matrix: the mark, and the specs that state the law or the reason why it does not apply."""

    mark: str
    why: str


def main(items: list[str], root: Path | None = None) -> int:
    """`python -m tools laws`: 0, or 1 where a specified item has a law that is neither stated nor excused.

    Args:
        items: these in full, law by law; the matrix of all that have specs if empty.
    """
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    try:
        result = complete_result(root)
    except StaleError as error:
        print(error)
        return 1
    chosen = [roadmap.find(i).id for i in items] or [
        i for i, state in result.statuses.items() if any(state.kinds.values())
    ]
    matrix = law_matrix(chosen, result.specs, root)
    if items:
        for item, row in matrix.items():
            print(item)
            for law, entry in row.items():
                print(f"  {entry.mark} {law:<36} {entry.why}")
    else:
        _print_matrix(matrix)
    missing = {item: [law for law, e in row.items() if e.mark == MISSING] for item, row in matrix.items()}
    for item, laws in missing.items():
        if laws:
            print(f"{item}: neither stated by a spec nor excused in {EXCUSES}: {', '.join(laws)}")
    if not any(missing.values()):
        print(f"{len(matrix)} items: every law is specified, or excused with a reason")
    return int(any(missing.values()))


def law_matrix(items: list[str], specs: list[dict], root: Path) -> dict[str, dict[str, Entry]]:
    """Item → law → entry.

    Raises:
        RoadmapError: spec/laws.toml excuses what is no law, or an item from a law that a spec of it states.
    """
    excuses = _read_excuses(root)
    generic = [_laws_and_records(root, *names) for file, names in GENERIC.items() if (root / file).is_file()]
    matrix = {}
    for item in items:
        row = matrix[item] = {}
        for laws, records in generic:
            mine = [c for c in records if c.item == item]
            if mine:
                row |= {name: _generic(law, mine) for name, law in laws.items()}
        if not row:
            row["laws of every module"] = _excused(excuses, item, "laws of every module")
        own = [s for s in specs if item in s["items"] and s["file"] not in GENERIC]
        row |= {law: _own(law, item, own, excuses, root) for law in OWN}
        contracted = {s["function"] for s in specs if item in s["items"] and s["function"] == COUNTERPART}
        if contracted and row["equivalence"].mark == MISSING:
            row["equivalence"] = Entry(SPECIFIED, COUNTERPART)
    return matrix


def _generic(law, records) -> Entry:
    asked = [c for c in records if not (law.modules_only and getattr(c, "is_function", False))]
    if not asked:
        return Entry(EXEMPT, "functions have no state")
    held = [c for c in asked if law.exempted_as not in c.exempt]
    if held:
        return Entry(SPECIFIED, f"{len(held)} of {len(asked)} records")
    return Entry(EXEMPT, next(c.exempt[law.exempted_as] for c in asked))


def _own(law: str, item: str, specs: list[dict], excuses: dict, root: Path) -> Entry:
    found = {s["function"] for s in specs if law in s["states"] or OWN[law][1] & _calls(root / s["file"], s)}
    if not found:
        return _excused(excuses, item, law)
    stated = ", ".join(sorted(found))
    if (item, law) in excuses:
        raise RoadmapError(f"{EXCUSES}: {law} of {item}: expected no excuse for what a spec states, found {stated}")
    return Entry(SPECIFIED, stated)


def _excused(excuses: dict, item: str, law: str) -> Entry:
    why = excuses.get((item, law), "")
    return Entry(EXEMPT, why) if why else Entry(MISSING, "")


def _calls(file: Path, spec: dict) -> set[str]:
    """What a spec calls, through the helpers of its file as well: {"laws.invariant", …}."""
    functions = _functions(file)
    found, waiting = set(), [spec["function"]]
    while waiting:
        name = waiting.pop()
        if name in found or name not in functions:
            continue
        found.add(name)
        waiting += functions[name]
        found |= functions[name] - set(functions)
    return found


@cache
def _functions(file: Path) -> dict[str, set[str]]:
    """Function → the dotted names that it calls, and "name(option)" for each option that is switched on."""
    found = {}
    for function in (n for n in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)):
        calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
        found[function.name] = {ast.unparse(n.func) for n in calls} | {
            f"{ast.unparse(n.func)}({k.arg})" for n in calls for k in n.keywords if ast.unparse(k.value) == "True"
        }
    return found


def _laws_and_records(root: Path, module: str, registry: str, records: str) -> tuple[dict, list]:
    sys.path.insert(0, str(root))
    importlib.import_module("spec.scratch")  # its laws register themselves as well
    return getattr(importlib.import_module(module), registry), getattr(importlib.import_module("spec.cases"), records)()


def _read_excuses(root: Path) -> dict[tuple[str, str], str]:
    """(item, law) → why the law does not apply."""
    file = root / EXCUSES
    known = (*OWN, "laws of every module")
    entries = tomllib.loads(file.read_text(encoding="utf-8")).get("law", []) if file.is_file() else []
    for entry in entries:
        if entry.keys() != {"law", "items", "why"} or entry["law"] not in known or not entry["why"]:
            raise RoadmapError(f"{EXCUSES}: expected law (one of {', '.join(known)}), items and why, found {entry}")
    return {(item, entry["law"]): entry["why"] for entry in entries for item in entry["items"]}


def _print_matrix(matrix) -> None:
    laws = list(dict.fromkeys(law for row in matrix.values() for law in row))
    letters = dict(zip(laws, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    for law, letter in letters.items():
        print(f"  {letter}  {law}" + (f": {OWN[law][0]}" if law in OWN else ""))
    print(
        f"  {SPECIFIED} specified, {EXEMPT} does not apply (reason: --item), {MISSING} missing, blank: another kind\n"
    )
    print(f"{'':<28} {''.join(letters.values())}")
    for item, row in matrix.items():
        print(f"{item:<28} {''.join(row[law].mark if law in row else ' ' for law in laws)}".rstrip())
