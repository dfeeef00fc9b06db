"""Re-derives the golden values and compares them with the frozen ones."""

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

EPSILON = {"float64": 1e-12, "float32": 1e-6}
# Beyond this two derivations are of two things, and no tolerance makes a golden value of them.
MOST = 1e-4
ULPS = "units in the last place"
HINT = "pip install -c constraints.txt -e '.[oracles]'"


def main(update: bool, installed: bool, items: list[str]) -> int:
    """`python -m tools golden`: 0 all as frozen, 1 a value drifted or is unaccounted for, 2 an oracle is missing.

    Args:
        update: write the frozen arrays and their provenance.
        installed: pass over recipes whose oracles are not installed here; their frozen files are still checked.
        items: only these; all if empty.
    """
    golden = _load_recipes()
    sources = {i: s for i, s in golden.RECIPES.items() if not items or i in items}
    for unknown in sorted(set(items) - set(sources)):
        print(f"no recipe for {unknown}; recipes: {', '.join(golden.RECIPES)}")
        return 1
    record = _read_provenance(golden.FOLDER)
    drifted, missing, fresh = [], [], {}
    for n, (item, source) in enumerate(sources.items(), 1):
        print(f"[{n}/{len(sources)}] {item:<28} {source.oracle}", flush=True)
        absent = [d for d in source.needs if not _installed(d)]
        if absent:
            missing += absent
            drifted += _frozen_problem(golden, item)
            print(f"    not derived: {', '.join(absent)} not installed")
            continue
        recipe = golden.Recipe()
        source.generate(recipe)
        if update:
            fresh[item] = _freeze(golden, item, source, recipe, golden.FOLDER)
        else:
            drifted += _compare(golden, item, recipe, record)
    if update:
        record = _read_provenance(golden.FOLDER) | fresh  # another update may have written meanwhile
    if not items:
        drifted += _unaccounted(golden, record)
        if update:
            record = {i: record[i] for i in sorted(record) if i in golden.RECIPES}
    if update:
        (golden.FOLDER / "provenance.toml").write_text(_as_toml(record), encoding="utf-8")
        print(f"wrote {golden.FOLDER.name}/provenance.toml and {len(sources)} files")
    for line in drifted:
        print(f"DRIFT {line}")
    if drifted:
        return 1
    if missing and not installed:
        print(f"missing oracles: {', '.join(sorted(set(missing)))}; {HINT}")
        return 2
    print(f"{len(sources)} recipes: " + ("written" if update else "every frozen value stands"))
    return 0


def _load_recipes():
    sys.path.insert(0, str(Path.cwd()))
    import spec.golden as golden
    from spec.golden import recipes

    for module in sorted(m.name for m in pkgutil.iter_modules(recipes.__path__)):
        importlib.import_module(f"{recipes.__name__}.{module}")
    if "impl" in sys.modules:
        raise SystemExit("a recipe imports impl: golden values never come from the implementation")
    return golden


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _derive(recipe):
    """Frozen arrays and, for each expected value, the disagreement of its two derivations and the tolerance."""
    values = {}
    for name, value in recipe.values.items():
        disagreement = None
        if name in recipe.seconds:
            second = recipe.seconds[name]
            if second.shape != value.shape:
                raise SystemExit(f"{name}: second derivation has shape {second.shape}, the oracle's {value.shape}")
            # Against 1 + |value|, as the comparison with rtol = atol = tolerance weighs it.
            gap = np.abs(value.astype("float64") - second.astype("float64")) / (1 + np.abs(value.astype("float64")))
            disagreement = float(gap.max(initial=0.0))
            if not disagreement <= MOST:
                raise SystemExit(f"{name}: expected two derivations within {MOST:g}, found {disagreement:g}")
        floor = EPSILON.get(str(value.dtype), 0.0)
        # Four times the disagreement: a third correct computation may err on the other side of both.
        values[name] = {"disagreement": disagreement, "tolerance": _round_up(max(floor, 4 * (disagreement or 0.0)))}
    return values


def _round_up(x: float) -> float:
    """To one significant digit, so that a last-bit change of a library does not rewrite the provenance."""
    if x == 0:
        return 0.0
    digit = 10.0 ** np.floor(np.log10(x))
    return float(f"{np.ceil(x / digit - 1e-9) * digit:.0e}")


def _freeze(golden, item, source, recipe, folder):
    arrays, values = recipe.inputs | recipe.values, _derive(recipe)
    np.savez_compressed(folder / f"{item}.npz", **arrays)
    return {
        "oracle": source.oracle,
        "second": source.second or "none",
        "versions": {d: metadata.version(d).partition("+")[0] for d in source.needs},
        "digest": golden.digest(arrays),
        "given": {name: {"ulps": ulps} for name, ulps in _ulps(recipe).items()},
        "values": values,
    }


@dataclass(frozen=True)
class Drift:
    """How far a fresh array is from the frozen one, and how far it may be."""

    size: float
    tolerance: float
    unit: str = ""  # ULPS for given arrays; expected values are weighed against 1 + |value|

    @property
    def allowed(self) -> bool:
        return self.size <= self.tolerance

    def __str__(self) -> str:
        return f"{self.size:g} > {self.tolerance:g} {self.unit}".rstrip()


def drifts(golden, item, recipe, record) -> dict[str, Drift]:
    """The drift of each array of an item whose frozen file is sound; infinite where shape or dtype changed."""
    frozen, entry = golden.read(item, golden.FOLDER), record[item]
    found = {}
    for name, array in (recipe.inputs | recipe.values).items():
        kept = frozen[name].numpy()
        given = name in recipe.inputs and name not in recipe.values
        tolerance = entry.get("given", {}).get(name, {}).get("ulps", 0) if given else entry["values"][name]["tolerance"]
        found[name] = Drift(_distance(array, kept, given), float(tolerance), ULPS if given else "")
    return found


def _distance(array, kept, given: bool) -> float:
    """The largest distance of two elements: in units of the frozen one's last place, or against 1 + |value|."""
    if kept.shape != array.shape or kept.dtype != array.dtype:
        return float("inf")
    if kept.dtype.kind != "f":
        return 0.0 if np.array_equal(array, kept) else float("inf")
    same = (array == kept) | (np.isnan(array) & np.isnan(kept))
    array, kept = array[~same], kept[~same]
    with np.errstate(invalid="ignore"):
        # A unit is the frozen element's own: next to 1e-18 an error of 1e-18 is no matter of a few units.
        gap = np.abs(array - kept) / (np.spacing(np.abs(kept)) if given else 1 + np.abs(kept))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def _compare(golden, item, recipe, record):
    """How a fresh derivation differs from the frozen one, beyond the tolerance that the frozen one earned."""
    problems = _frozen_problem(golden, item)
    if problems:
        return problems
    frozen = golden.read(item, golden.FOLDER)
    fresh = recipe.inputs | recipe.values
    names = set(fresh) ^ set(frozen._arrays)
    if names:
        return [f"{item}: recipe and file differ in {', '.join(sorted(names))}"]
    found = []
    recorded = {name: entry["ulps"] for name, entry in record[item].get("given", {}).items()}
    if recorded != _ulps(recipe):
        found.append(f"{item}: the recipe allows {_ulps(recipe)} {ULPS}, provenance.toml {recorded}")
    for name, drift in drifts(golden, item, recipe, record).items():
        kept, array = frozen[name].numpy(), fresh[name]
        if kept.shape != array.shape or kept.dtype != array.dtype:
            found.append(f"{item}.{name}: frozen {kept.dtype}{kept.shape}, derived {array.dtype}{array.shape}")
        elif not drift.allowed:
            found.append(f"{item}.{name}: derived value differs by {drift}")
    for name, value in _derive(recipe).items():
        allowed = record[item]["values"][name]["tolerance"]
        if (value["disagreement"] or 0.0) > allowed:
            found.append(f"{item}.{name}: its two derivations now disagree by {value['disagreement']:g} > {allowed:g}")
    return found


def _ulps(recipe) -> dict[str, int]:
    return {name: ulps for name, ulps in recipe.ulps.items() if ulps}


def _frozen_problem(golden, item):
    try:
        golden.read(item, golden.FOLDER)
    except golden.GoldenError as error:
        return [f"{item}: {error}"]
    return []


def _unaccounted(golden, record):
    files = {f.stem for f in golden.FOLDER.glob("*.npz")}
    stray = sorted((files | set(record)) - set(golden.RECIPES))
    return [f"{name}: a file or a provenance entry without a recipe" for name in stray]


def _read_provenance(folder):
    import tomllib

    file = folder / "provenance.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _as_toml(record) -> str:
    lines = ["# Where the golden values come from. Written by `python -m tools golden --update`, never by hand."]
    for item, entry in record.items():
        lines += ["", f"[{item}]"]
        lines += [f'{key} = "{_escape(entry[key])}"' for key in ("oracle", "second", "digest")]
        versions = ", ".join(f'"{d}" = "{v}"' for d, v in entry["versions"].items())
        lines.append(f"versions = {{ {versions} }}")
        if given := entry.get("given"):
            lines.append(f"[{item}.given]")
            lines += [f'"{name}" = {{ ulps = {value["ulps"]} }}' for name, value in given.items()]
        lines.append(f"[{item}.values]")
        for name, value in entry["values"].items():
            gap = value.get("disagreement")
            gap = "" if gap is None else f"disagreement = {gap:.1e}, "
            lines.append(f'"{name}" = {{ {gap}tolerance = {value["tolerance"]:.0e} }}')
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
