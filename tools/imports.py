"""Who imports whom: the modules of a repository's packages, and the rules that their imports keep."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("impl", "fast", "spec", "tools")
# What each package may import of the others.
MAY_IMPORT = {
    "impl": (),
    "fast": (),
    # Specs import the subject, which the plugin puts in the place of impl.
    "spec": ("impl",),
    "tools": (),
}
# Parts of tools that may import more, each with the reason.
EXCEPTIONS = {
    "tools.golden": ("spec.golden",),  # the recipes are there
    "tools.runner": ("spec.cases", "spec.laws"),  # loaded once, before the runs fork
    "tools.contracts": ("spec.cases", "spec.contract"),  # shown to those who write against them
    "tools.law_matrix": ("spec",),  # reads the records and the laws themselves
    "tools.bench": ("spec.cost",),  # counts bytes
    "tools.benchmarks": ("impl",),  # what is timed
    "tools.tests": ("impl", "fast", "spec"),
}
# Lower floors know nothing of the upper ones.
LAYERS, MODELS = "layers", "models"


@dataclass(frozen=True)
class Import:
    """One import of a module of the repository, wherever it is in the file.

    Attributes:
        importer, module: dotted names.
        where: "file:line".
    """

    importer: str
    module: str
    where: str
    is_page: bool

    @property
    def package(self) -> str:
        """The package that the importing module is in, or is the page of."""
        return self.importer if self.is_page else self.importer.rpartition(".")[0]


def all_imports(root: Path) -> list[Import]:
    """Every import among the modules of the repository's packages, those inside of functions included."""
    modules = _modules(root)
    return [i for name, file in modules.items() for i in _imports(root, name, file, frozenset(modules))]


def circles(imports: list[Import]) -> Iterator[list[Import]]:
    """A shortest circle through each group of modules that reach one another."""
    graph: dict[str, dict[str, Import]] = {}
    for i in imports:
        graph.setdefault(i.importer, {}).setdefault(i.module, i)
    reported: set[str] = set()
    for start in sorted(graph):
        if start not in reported and (circle := _way_back(graph, start)):
            reported |= {i.importer for i in circle}
            yield circle


def private_imports(imports: list[Import]) -> Iterator[Import]:
    """Imports of an underscored module, or of what is inside one, from outside the package that it is in."""
    for i in imports:
        parts = i.module.split(".")
        for n, part in enumerate(parts):
            owner = ".".join(parts[:n])
            if part.startswith("_") and not f"{i.package}.".startswith(f"{owner}."):
                yield i
                break


def forbidden_imports(imports: list[Import]) -> Iterator[tuple[Import, str]]:
    """(import, reason) where a package imports one that it must not know."""
    for i in imports:
        ours, theirs = i.importer.split("."), i.module.split(".")
        allowed = (*MAY_IMPORT[ours[0]], *_exceptions(i.importer))
        if ours[0] != theirs[0] and not any(f"{i.module}.".startswith(f"{a}.") for a in allowed):
            yield i, f"{ours[0]} may import {', '.join(allowed) or 'none'} of the other packages"
        elif ours[0] == theirs[0] and ours[1:2] == [LAYERS] and theirs[1:2] == [MODELS]:
            yield i, f"{LAYERS} know nothing of {MODELS}"


def _exceptions(importer: str) -> tuple[str, ...]:
    return next((e for name, e in EXCEPTIONS.items() if f"{importer}.".startswith(f"{name}.")), ())


def _way_back(graph: dict[str, dict[str, Import]], start: str) -> list[Import] | None:
    """A shortest circle through a module: breadth first, so that the report is short."""
    came_by: dict[str, Import] = {}
    waiting = [start]
    for name in waiting:
        for module, i in graph.get(name, {}).items():
            if module == start:
                circle = [i]
                while circle[0].importer != start:
                    circle.insert(0, came_by[circle[0].importer])
                return circle
            if module not in came_by:
                came_by[module] = i
                waiting.append(module)
    return None


def _modules(root: Path) -> dict[str, Path]:
    """Dotted name → file. A package's page has the package's name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def _imports(root: Path, name: str, file: Path, modules: frozenset[str]) -> Iterator[Import]:
    is_page = file.name == "__init__.py"
    for line, module, names in _named(file.read_text(encoding="utf-8"), name if is_page else name.rpartition(".")[0]):
        where = f"{file.relative_to(root).as_posix()}:{line}"
        for imported in names or [None]:
            target = f"{module}.{imported}" if f"{module}.{imported}" in modules else module
            if target.partition(".")[0] in PACKAGES:
                yield Import(name, target, where, is_page)


@cache
def _named(text: str, package: str) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """(line, module, names) of each import statement, and of `import_module("…")`, in a module of a package."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name, ()) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.append((node.lineno, module, tuple(a.name for a in node.names)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [(node.lineno, a.value, ()) for a in node.args[:1] if isinstance(a, ast.Constant)]
    return tuple(found)
