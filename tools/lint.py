"""`python -m tools lint`: the ways in which suites of specs turn green without proof, found by reading them.

Each rule looks at one proven failure mode, or keeps one promise of how the repository is built and written. What only a
run can tell (an unknown item, a body without assertion reached through helpers) the pytest plugin refuses.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools import contracts, imports, promised, reads, words
from tools.bugs import all_bugs
from tools.roadmap import KINDS, ROADMAP, load
from tools.specfile import SpecFile, asserts_something, mentioned_items, spec_files

FEWEST_BUGS = 5
DEFAULT_TOLERANCE = 1e-5
_CLOCK = re.compile(r"\b(time\.(time|sleep|perf_counter|monotonic|process_time)(_ns)?|timeit|datetime\.now|Timer)\b")
_CONSTANT = re.compile(r"^torch\.(zeros|ones|full|empty)(_like)?$")
_VARIED = re.compile(
    r"rand|arange|linspace|logspace|tensor\(|load\(|data\.|eye|cases?\b|inputs\b|_like\(|varied|normal_|uniform_"
    r"|(?<![.\w])double\("  # spec.laws.double draws; x.double() does not
)
_RAW_COMPARISON = re.compile(
    r"^(torch\.(testing\.assert_close|allclose|isclose)|np\.(allclose|testing\..*)|pytest\.approx)$"
)


@dataclass(frozen=True)
class Finding:
    where: str
    rule: str
    what: str

    def __str__(self):
        return f"{self.where}: {self.rule}: {self.what}"


def main(root: Path | None = None) -> int:
    """`python -m tools lint`: 0 nothing found, 1 something is; each finding is a line."""
    root = root or Path.cwd()
    found = sorted(map(str, findings(root)))
    print("\n".join(found) or "lint: no spec rests on a vacuous oracle, a wide tolerance or a clock")
    return int(bool(found))


def findings(root: Path) -> Iterator[Finding]:
    """Everything that the rules find in a repository."""
    files = [SpecFile.read(f, root) for f in spec_files(root)]
    for file in files:
        for rule in PER_FILE:
            yield from rule(file)
    for rule in PER_REPOSITORY:
        yield from rule(root, files)


# ------------------------------------------------------------------------------------------------ rules of a file


def compares_with_itself(file: SpecFile):
    """Both sides of a comparison are the same expression."""
    for test in file.tests:
        for node in ast.walk(test):
            if isinstance(node, ast.Call) and _is_comparison(node) and len(node.args) >= 2:
                pair = node.args[:2]
            elif (
                isinstance(node, ast.Compare)
                and len(node.ops) == 1
                and isinstance(node.ops[0], (ast.Eq, ast.LtE, ast.GtE))
            ):
                pair = [node.left, node.comparators[0]]
            else:
                continue
            # `x == x` is how one asks for NaN; two calls with the same words may differ, but then a name is due.
            if ast.dump(pair[0]) == ast.dump(pair[1]):
                yield Finding(file.at(node), "compares-with-itself", f"both sides are {ast.unparse(pair[0])}")


def oracle_from_the_subject(file: SpecFile):
    """A golden value is computed by the code under test."""
    for test in file.tests:
        for node in ast.walk(test):
            if not (isinstance(node, ast.Call) and _is_comparison(node) and len(node.args) >= 2):
                continue
            expected = node.args[1]
            names = {n.id for n in ast.walk(expected) if isinstance(n, ast.Name)} & file.subject_names
            if file.kind == "golden" and names:
                yield Finding(
                    file.at(node), "oracle-from-the-subject", f"{', '.join(sorted(names))} on the expected side"
                )


def constant_inputs(file: SpecFile):
    """Every tensor of a spec is constant: most wrong formulas agree with the right one there."""
    for test in file.tests:
        comparisons = [n for n in ast.walk(test) if isinstance(n, ast.Call) and _is_comparison(n) and len(n.args) > 1]
        expected = {id(n) for c in comparisons for n in ast.walk(c.args[1])}  # what is compared with is no input
        calls = [ast.unparse(n.func) for n in ast.walk(test) if isinstance(n, ast.Call) and id(n) not in expected]
        drawn = any("given" in ast.unparse(d) or "parametrize" in ast.unparse(d) for d in test.decorator_list)
        body = "\n".join(ast.unparse(s) for s in test.body)
        helpers = {n.name for n in file.tree.body if isinstance(n, ast.FunctionDef)}
        if any(map(_CONSTANT.match, calls)) and not drawn and not _VARIED.search(body) and not helpers & set(calls):
            yield Finding(file.at(test), "constant-inputs", f"{test.name} builds only constant tensors")


def wide_tolerance(file: SpecFile):
    """A tolerance above the default has no written reason."""
    for test in ast.walk(file.tree):
        if not (isinstance(test, ast.Call) and _is_comparison(test)):
            continue
        keywords = {k.arg: k.value for k in test.keywords}
        wide = [n for n in ("rtol", "atol") if (v := _number(keywords.get(n))) is not None and v > DEFAULT_TOLERANCE]
        if wide and "because" not in keywords:
            yield Finding(
                file.at(test), "wide-tolerance", f"{', '.join(wide)} above {DEFAULT_TOLERANCE:g} without because="
            )


def raw_comparison(file: SpecFile):
    """A comparison that does not look at shape, dtype and finiteness first."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and _RAW_COMPARISON.match(ast.unparse(node.func)):
            yield Finding(file.at(node), "raw-comparison", f"{ast.unparse(node.func)}; laws.assert_close checks more")


def says_nothing(file: SpecFile):
    """A spec without docstring, source or assertion."""
    for test in file.tests:
        doc = ast.get_docstring(test) or ""
        if not doc:
            yield Finding(file.at(test), "no-claim", f"{test.name} has no docstring")
        elif not re.search(r"\b(Source|Convention):", doc):
            yield Finding(file.at(test), "no-source", f"{test.name} names no Source: or Convention:")
        if not asserts_something(file.path, test.name):
            yield Finding(file.at(test), "no-assertion", f"{test.name} asserts nothing")


def wall_clock(file: SpecFile):
    """A spec looks at the clock."""
    for n, line in enumerate(file.text.splitlines(), 1):
        if found := _CLOCK.search(line):
            yield Finding(f"{file.shown}:{n}", "wall-clock", f"{found.group()}; count FLOPs or bytes with spec/cost.py")


def threshold_without_measurement(file: SpecFile):
    """A behaviour is judged by a threshold whose right and wrong measured values are not written down."""
    if file.kind != "behaviours":
        return
    for test in file.tests:
        doc = ast.get_docstring(test) or ""
        measured = re.search(r"[Mm]easured\b(.|\n)*\d(.|\n)*\d", doc)
        if not measured:
            yield Finding(file.at(test), "threshold-without-measurement", f"{test.name}: `Measured: … right, … wrong`")


PER_FILE = (
    compares_with_itself,
    oracle_from_the_subject,
    constant_inputs,
    wide_tolerance,
    raw_comparison,
    says_nothing,
    wall_clock,
    threshold_without_measurement,
)

# ------------------------------------------------------------------------------------- rules of the repository


def recipe_imports_the_subject(root: Path, files):
    """The generator of a golden value, or the library of specs, imports the implementation."""
    for path in [*(root / "spec" / "golden" / "recipes").rglob("*.py"), *(root / "spec").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if any(n.split(".")[0] == "impl" for n in names):
                where = f"{path.relative_to(root).as_posix()}:{node.lineno}"
                yield Finding(where, "oracle-from-the-subject", "imports impl")


def identical_golden_arrays(root: Path, files):
    """Two expected arrays of an item are equal under different names: one of them checks nothing of its own."""
    record = root / "spec" / "golden" / "provenance.toml"
    entries = tomllib.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for item, entry in entries.items():
        path = root / "spec" / "golden" / f"{item}.npz"
        with np.load(path, allow_pickle=False) as data:
            arrays = [(name, data[name]) for name in entry["values"]]
        for n, (name, a) in enumerate(arrays):
            for other, b in arrays[:n]:
                if a.size > 1 and a.dtype == b.dtype and a.tobytes() == b.tobytes():
                    what = f"{other} and {name} hold the same values"
                    yield Finding(path.relative_to(root).as_posix(), "identical-golden-arrays", what)


def unused_golden_file(root: Path, files):
    """A frozen file that no spec loads."""
    text = "\n".join(f.text for f in files)
    for path in sorted((root / "spec" / "golden").glob("*.npz")):
        if not re.search(rf"""load\(\s*["']{re.escape(path.stem)}["']\s*\)""", text):
            where = path.relative_to(root).as_posix()
            yield Finding(where, "unused-golden-file", f'no spec calls load("{path.stem}")')


def incomplete_item(root: Path, files):
    """An item that is specified in part: a kind of spec is missing, or too few bugs test its specs."""
    bugs = [b["item"] for b in all_bugs(root)]
    mentioned = {kind: set().union(*(mentioned_items(f.path) or () for f in files if f.kind == kind)) for kind in KINDS}
    for item in load(root / ROADMAP).items:
        kinds = [kind for kind in KINDS if item in mentioned[kind]]
        if kinds and len(kinds) < len(KINDS):
            missing = ", ".join(f"spec/{k}" for k in KINDS if k not in kinds)
            yield Finding(f"item {item}", "incomplete-item", f"no spec of its own under {missing}")
        if kinds and bugs.count(item) < FEWEST_BUGS:
            yield Finding(
                f"item {item}", "too-few-bugs", f"{bugs.count(item)} in spec/bugs, expected at least {FEWEST_BUGS}"
            )


def inexact_given(root: Path, files):
    """A given array has no room, but comes from a routine whose last digits depend on the processor."""
    for path in sorted((root / "spec" / "golden" / "recipes").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helpers = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        scopes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        seen = set()
        for scope in scopes:  # an inner function comes again, by itself; its outer names count there too
            for call in (n for n in ast.walk(scope) if isinstance(n, ast.Call)):
                if not (isinstance(call.func, ast.Attribute) and call.func.attr == "given" and len(call.args) == 2):
                    continue
                found = sorted(_inexact(call.args[1], [tree, scope], helpers, set()))
                if found and "ulps" not in {k.arg for k in call.keywords} and call.lineno not in seen:
                    seen.add(call.lineno)
                    what = f"{', '.join(found)}; derive it exactly (mpmath, fractions) or say given(…, ulps=N)"
                    yield Finding(f"{path.relative_to(root).as_posix()}:{call.lineno}", "inexact-given", what)


def forbidden_import(root: Path, files):
    """A package imports one that it must not know: impl and fast each other, specs the tools, layers the models."""
    for i, why in imports.forbidden_imports(imports.all_imports(root)):
        yield Finding(i.where, "forbidden-import", f"{i.module}; {why}")


def import_circle(root: Path, files):
    """Modules import one another in a circle, inside of functions or not: none of them can be read first."""
    for circle in imports.circles(imports.all_imports(root)):
        names = [i.importer for i in circle]
        yield Finding(circle[0].where, "import-circle", " → ".join([*names, names[0]]))


def private_import(root: Path, files):
    """An underscored module is imported from outside of the package that it is a part of."""
    for where, module in sorted({(i.where, i.module) for i in imports.private_imports(imports.all_imports(root))}):
        yield Finding(where, "private-import", f"{module} is a part of another package; what others need is public")


def unusual_word(root: Path, files):
    """A word of this project's own where the field has one: tools/words.toml."""
    for where, what in words.found(root):
        yield Finding(where, "unusual-word", what)


def beyond_contract(root: Path, files):
    """A spec that everybody is asked reads of the subject's objects what no contract names."""
    for found in reads.unpromised(root, promised.promises_of(root, contracts.all_contracts(root))):
        what = f"{found.what}, which no contract names; promise it there, or mark a convention of the project as one"
        yield Finding(found.where, "beyond-contract", what)


PER_REPOSITORY = (
    recipe_imports_the_subject,
    identical_golden_arrays,
    unused_golden_file,
    incomplete_item,
    inexact_given,
    forbidden_import,
    import_circle,
    private_import,
    unusual_word,
    beyond_contract,
)

# Sums, products of matrices and elementary functions: NumPy, SciPy, torch and jax each have several kernels for them.
_INEXACT = re.compile(
    r"^(exp|exp2|expm1|log|log2|log10|log1p|logaddexp|power|cbrt|sin|cos|tan|arcsin|arccos|arctan|arctan2|sinh|cosh"
    r"|tanh|sigmoid|expit|erf|erfc|gamma|gammaln|softmax|log_softmax|softplus|logsumexp|pdf|cdf|logpdf|ppf|sum|nansum"
    r"|mean|nanmean|average|var|std|cumsum|prod|cumprod|dot|vdot|inner|matmul|mm|bmm|einsum|tensordot|convolve|norm"
    r"|eig|eigh|eigvals|eigvalsh|svd|qr|solve|inv|pinv|lstsq|cholesky|det|slogdet|matrix_power|leggauss|hermgauss"
    r"|roots_legendre|quad|trapezoid|interp|polyfit|fft|ifft|rfft|randn|randn_like|normal_|minimize|minimize_scalar)$"
)
_EXACT_HOMES = ("mpmath", "Fraction", "fractions", "math.prod", "math.fsum")


def _inexact(node, scopes, helpers, seen) -> set[str]:
    """Inexact routines that an expression calls, through names that its scopes assign and helpers of its file."""
    if isinstance(node, ast.Attribute) and node.attr in ("shape", "size", "ndim", "dtype"):
        return set()  # how large an array is does not depend on its digits
    found = set()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        found.add("@")
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called.startswith(_EXACT_HOMES) or called == "len":
            return set()
        if isinstance(node.func, ast.Attribute) and node.func.attr == "given":
            return set()  # a finding of its own
        if isinstance(node.func, ast.Attribute) and _INEXACT.match(node.func.attr):
            found.add(called)
        if called in helpers and called not in seen:
            seen.add(called)
            for result in (n for n in ast.walk(helpers[called]) if isinstance(n, ast.Return) and n.value):
                found |= _inexact(result.value, [helpers[called]], helpers, seen)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in seen:
        seen.add(node.id)
        for value in (v for scope in scopes for v in _assigned(scope, node.id)):
            found |= _inexact(value, scopes, helpers, seen)
    for child in ast.iter_child_nodes(node):
        found |= _inexact(child, scopes, helpers, seen)
    return found


def _assigned(scope, name: str) -> Iterator[ast.expr]:
    """What a scope's statements give a name; of a module only its own statements, not its functions'."""
    for node in scope.body if isinstance(scope, ast.Module) else ast.walk(scope):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and node.value:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                pairs = list(zip(target.elts, value.elts))
            else:
                pairs = [(t, value) for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
            yield from (v for t, v in pairs if isinstance(t, ast.Name) and t.id == name)


def _is_comparison(call: ast.Call) -> bool:
    return bool(
        re.search(
            r"(^|\.)assert_(close|all_close|same)$|^laws\.(gradients_match|invariant|equivariant)$",
            ast.unparse(call.func),
        )
    )


def _number(node) -> float | None:
    try:
        value = ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None
    return float(value) if isinstance(value, (int, float)) else None
