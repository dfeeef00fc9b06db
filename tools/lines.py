"""Counts the lines of logic that a reader of an item must get through.

Counted: each physical line that holds code of a definition (a function, a class as a whole, a constant) that the item's
public names use, directly or not, in whichever module of the subject that is.

Left out: docstrings, comments, blank lines, imports, `__all__`, `extra_repr` and `__repr__`, and argument checks. A
check is an `if` that does nothing but raise, a statement that calls a function named `check_…` (or `_check_…`), a
function of that name, and the module `layers/checks.py`.
"""

import ast
import io
import subprocess
import tarfile
import tempfile
import tokenize
from functools import cache
from pathlib import Path

from tools.roadmap import ROADMAP, Item, Roadmap, RoadmapError, load
from tools.subject import PACKAGE, resolve

CHECKS = Path("layers/checks.py")
_REPRESENTATIONS = ("extra_repr", "__repr__")
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)

# File and line number: a line of logic.
Line = tuple[Path, int]


def main(items: list[str], impl: str = PACKAGE, before: str | None = None, root: Path | None = None) -> int:
    """`python -m tools lines`: prints the table; 0, or 1 if the subject holds none of the items.

    Args:
        items: ids; "a,b" is one row, the union of both. All, and their union, if empty.
        impl: the subject that is counted.
        before: a git revision that is counted next to the present files.
    """
    root = root or Path.cwd()
    roadmap = load(root / ROADMAP)
    groups = [tuple(roadmap.find(i.strip()).id for i in text.split(",")) for text in items]
    groups = groups or [(i,) for i in roadmap.items]
    now = _counts(groups, roadmap, resolve(impl, root).folder)
    columns = [now]
    if before:
        with tempfile.TemporaryDirectory(prefix="blueprint-lines-") as folder:
            _unpack(root, before, impl, Path(folder))
            old = load(Path(folder) / ROADMAP)
            known = [tuple(i for i in group if i in old.items) for group in groups]
            columns.insert(0, _counts(known, old, resolve(impl, Path(folder)).folder))
    rows = [row for row in zip([",".join(g) for g in groups], *columns) if any(c is not None for c in row[1:])]
    if not rows:
        print(f"{impl} holds none of {', '.join(items) or 'the items'}")
        return 1
    print(f"{__doc__.strip()}\n\n{_row('item', before or 'lines', *['now', 'change'][: 2 * bool(before)])}")
    for name, *counts in rows:
        print(_row(name, *map(_shown, counts), *_change(counts)))
    if len(rows) > 1:
        unions = [len(set().union(*(c for c in column if c))) for column in columns]
        print(_row(f"all {len(rows)} together", *unions, *_change(unions)))
    return 0


def logic(folder: Path, module: str, names) -> set[Line] | None:
    """The lines of logic that public names of a module rest on; None where the subject defines none of them.

    Args:
        folder: of the subject.
        module: dotted, as in the roadmap ("impl.layers.attention").
    """
    package = _Package(folder)
    file = package.file_of(module.split(".")[1:])
    found = [d for name in names if file for d in package.definitions(file, name)]
    return package.reached(found) if found else None


class _Package:
    """A subject's modules, as far as they are asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file_of(self, parts) -> Path | None:
        """The file of a module of the package, or None."""
        path = self.folder.joinpath(*parts)
        for file in (path.with_name(path.name + ".py"), path / "__init__.py"):
            if parts and file.is_file():
                return file
        return None

    def reached(self, waiting: list) -> set[Line]:
        """The lines of definitions, and of all that they use."""
        lines, seen = set(), set()
        while waiting:
            file, node = waiting.pop()
            if (file, node.lineno, node.col_offset) in seen or _is_left_out(node):
                continue
            seen.add((file, node.lineno, node.col_offset))
            if file == self.folder / CHECKS:
                continue
            counted = _counted_lines(node)
            text = file.read_text(encoding="utf-8")
            lines |= {(file.relative_to(self.folder), n) for n in counted & _lines_of_code(text)}
            for name in _used_names(node):
                waiting += self.definitions(file, name)
            waiting += [(file, statement) for statement in _always_run(_parsed(file))]
        return lines

    def definitions(self, file: Path, dotted: str) -> list:
        """(file, statement) of each statement that binds a name of a module, in the module that it was imported from.

        Args:
            dotted: "name", or "module.name" where a module was imported.
        """
        name, _, rest = dotted.partition(".")
        tree = _parsed(file)
        found = [(file, node) for node in tree.body if name in _bound_names(node)]
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            for alias in node.names:
                if name != (alias.asname or alias.name):
                    continue
                parts = self._parts(file, node)
                if parts is None:
                    continue
                inner = self.file_of([*parts, alias.name])
                if inner and rest:
                    found += self.definitions(inner, rest)
                elif not inner and (source := self.file_of(parts)):
                    found += self.definitions(source, alias.name)
        return found

    def _parts(self, file: Path, node) -> list[str] | None:
        """The module that an import names, as parts below the package; None where it is of another package."""
        if isinstance(node, ast.Import):
            return None
        named = node.module.split(".") if node.module else []
        if node.level == 0:
            return named[1:] if named[0] in (PACKAGE, self.folder.name) else None
        inside = list(file.relative_to(self.folder).with_suffix("").parts)
        return inside[: len(inside) - node.level] + named


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _lines_of_code(text: str) -> frozenset[int]:
    """Numbers of the lines that hold more than a comment."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _LAYOUT:
            found.update(range(token.start[0], token.end[0] + 1))
    return frozenset(found)


def _bound_names(node: ast.stmt) -> set[str]:
    """What a statement of a module binds; an import binds nothing here, it is followed."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return set()
    inner = [n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {
        n.name for n in inner
    }


def _always_run(tree: ast.Module) -> list[ast.stmt]:
    """Statements of a module that bind nothing and are no docstring: whoever imports it runs them."""
    return [n for n in tree.body if not _bound_names(n) and not isinstance(n, (ast.Import, ast.ImportFrom))]


def _is_left_out(node: ast.stmt) -> bool:
    """Is this statement no logic: a docstring, an import, a check, a representation?"""
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)):
        return True
    if isinstance(node, ast.Expr):
        value = node.value
        return isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and _is_check(_last_name(value.func)))
    if isinstance(node, ast.FunctionDef):
        return node.name in _REPRESENTATIONS or _is_check(node.name)
    if isinstance(node, ast.If):
        return len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and all(map(_is_left_out, node.orelse))
    return False


def _is_check(name: str) -> bool:
    return name.lstrip("_").startswith("check_")


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _counted_lines(node: ast.stmt) -> set[int]:
    """All lines of a statement but those of the statements in it that are left out."""
    lines, waiting = _span(node), [node]
    while waiting:
        for inner in ast.iter_child_nodes(waiting.pop()):
            if isinstance(inner, ast.stmt) and _is_left_out(inner):
                lines -= _span(inner)
            else:
                waiting.append(inner)
    return lines


def _span(node: ast.stmt) -> set[int]:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return set(range(first, node.end_lineno + 1))


def _used_names(node: ast.AST, local: frozenset[str] = frozenset()) -> set[str]:
    """Names of the module that the counted part of a statement loads; "module.name" for attributes of a name.

    Args:
        local: arguments and variables of the functions around it, which are no names of the module.
    """
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        stored = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        local = local.union(stored, (a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)))
    if isinstance(node, ast.Name):
        return {node.id} - local
    found = set()
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in local:
        found.add(f"{node.value.id}.{node.attr}")
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(inner, ast.stmt) and _is_left_out(inner)):
            found |= _used_names(inner, local)
    return found


def _counts(groups, roadmap: Roadmap, folder: Path) -> list[set[Line] | None]:
    """The lines of each group of items; None where the subject has none of them."""

    def of(item: Item):
        return logic(folder, item.module, item.names)

    _parsed.cache_clear()
    found = []
    for group in groups:
        parts = [lines for i in group if (lines := of(roadmap.items[i])) is not None]
        found.append(set().union(*parts) if parts else None)
    return found


def _unpack(root: Path, revision: str, impl: str, folder: Path) -> None:
    """The subject and the roadmap as they were at a revision.

    Raises:
        RoadmapError: git knows no such revision, or the subject was not in it.
    """
    command = ["git", "archive", "--format=tar", revision, impl, ROADMAP.as_posix()]
    done = subprocess.run(command, cwd=root, capture_output=True)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip()
        raise RoadmapError(f"--before {revision}: expected a revision with {impl} and {ROADMAP}: {why}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def _shown(count) -> str:
    return "–" if count is None else str(len(count))


def _change(counts) -> list[str]:
    if len(counts) < 2 or None in counts:
        return []
    old, new = (c if isinstance(c, int) else len(c) for c in counts)
    return [f"{new - old:+d}"]


def _row(name, *cells) -> str:
    return f"{name:<32}" + "".join(f"{c:>10}" for c in cells)
