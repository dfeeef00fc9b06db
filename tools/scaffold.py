"""Makes an empty implementation: signatures and docstrings of the reference, bodies that raise NotImplementedError."""

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from tools.contracts import promises
from tools.roadmap import ROADMAP, load, page_of
from tools.subject import PACKAGE

# What no item is about, and many rest on: a skeleton has it whole. Every other module is there to be written.
_LAYERS = ("dropout", "embedding", "initialisers", "linear", "pooling", "rms_norm", "transposed_convolution")
FOUNDATIONS = tuple(Path("layers", f"{name}.py") for name in (*_LAYERS, "upsampling"))
HELPERS = (Path("layers/checks.py"), Path("layers/numerics.py"))
_STUB = ast.parse("raise NotImplementedError").body[0]
# Methods that are no claim of any spec; a stub of them would only disturb a debugger.
_DROPPED = {"extra_repr"}


def main(folder: str, root: Path | None = None) -> int:
    """`python -m tools scaffold mine`: 0 made, 1 refused because the folder exists and holds something."""
    root = root or Path.cwd()
    target = root / folder
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        print(f"{folder} exists and is not empty: nothing was written; choose another name")
        return 1
    stubs = 0
    for file, text, is_whole in shown(root, promises(root)):
        stubs += not is_whole
        made = target / file.relative_to(root / PACKAGE)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text, encoding="utf-8")
    _tidy(target)
    print(f"made {folder}: {stubs} modules to write; shared foundations (Linear, …) came along whole")
    print(f"next: pytest --impl {folder}              your progress, 0 of the roadmap so far")
    print(f"      python -m tools next --impl {folder}  what to write first")
    return 0


def shown(root: Path, contracts: dict[str, list[str]] | None = None):
    """Each module that a skeleton has: the reference's file, what the skeleton has of it, and whether that is all."""
    reference = root / PACKAGE
    pages = {item.page(reference) for item in load(root / ROADMAP).items.values()}
    files = sorted(p for p in reference.rglob("*.py") if "__pycache__" not in p.parts)
    whole = _whole(reference, files, pages)
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file in whole:
            yield file, text, True
        elif not _is_private_module(file):  # that would be an inner part of some item's solution
            beside = [f for f in files if f.parent == file.parent and _is_private_module(f)]
            parts = {f.stem: ast.parse(f.read_text(encoding="utf-8")) for f in beside}
            yield file, skeleton(text, parts, contracts), False


def skeleton(
    text: str, private: dict[str, ast.Module] | None = None, contracts: dict[str, list[str]] | None = None
) -> str:
    """The public face of a module: docstring, imports, classes and functions, every body a `NotImplementedError`.

    Args:
        private: name → tree of the private modules next to it; what it re-exports from them is shown here.
        contracts: public name → lines that its docstring ends with; the name may be that of a method, "VAE.elbo", or of
            a variant, "TopKRouter, noisy", which adds its own lines.
    """
    private = private or {}
    known = {name: node for tree in [*private.values(), ast.parse(text)] for name, node in _classes(tree).items()}
    body: list[ast.stmt] = []
    # A base class that is folded in may rest on what only its private module imports.
    inner = [n for tree in private.values() for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    for n, node in enumerate(_with_reexports(ast.parse(text), private)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            body.append(_without_private_imports(node))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            body.append(_class(node, known))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            body.append(_function(node))
        elif n == 0 and _is_docstring(node):
            body += [node, *map(_without_private_imports, inner)]
        elif _assigns_all(node) or isinstance(node, ast.Assign):
            body.append(node)
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            _promise(node, node.name, contracts or {})
        for method in (n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)):
            _promise(method, f"{node.name}.{method.name}", contracts or {}, "    ")
    module = ast.Module(body=_without_unused([node for node in body if node is not None]), type_ignores=[])
    return ast.unparse(ast.fix_missing_locations(module)) + "\n"


def _promise(node: ast.ClassDef | ast.FunctionDef, name: str, contracts: dict[str, list[str]], indent="") -> None:
    """Put the contracts of a name at the end of its docstring."""
    text, known = (ast.get_docstring(node) or "").rstrip(), set()
    for title, lines in contracts.items():
        own, _, variant = title.partition(", ")
        new = [line for line in lines if line not in known] if own == name else []
        if new:
            wrapped = (textwrap.fill(x, 104, initial_indent="    ", subsequent_indent="        ") for x in new)
            text += f"\n\nContract{variant and f' ({variant})'}:\n" + "\n".join(wrapped)
            known |= set(new)
    if not known:
        return
    indented = textwrap.indent(text, f"    {indent}").lstrip() + f"\n    {indent}"
    docstring = ast.Expr(ast.Constant(indented))
    node.body = [docstring, *(node.body[1:] if _is_docstring(node.body[0]) else node.body)]


def _is_private_module(file: Path) -> bool:
    return file.name.startswith("_") and file.name not in ("__init__.py", "__main__.py")


def _whole(reference: Path, files: list[Path], pages: set[Path]) -> set[Path]:
    """What comes along as it is: foundations with their own private parts, and the folders of modules themselves.

    A foundation that rests on a part of some item's solution would give it away: it is to be written, too.
    """
    foundations = {reference / path for path in (*FOUNDATIONS, *HELPERS)} & set(files)
    inner = {f for page in pages if page.is_file() for f in imported_modules(page) if _is_private_module(f)}
    whole = {f for f in files if f.name == "__main__.py" or (f.name == "__init__.py" and f not in pages)}
    for file in foundations:
        needed = imported_modules(file)
        if all(f in foundations or (_is_private_module(f) and f not in inner) for f in needed):
            whole |= {file, *needed}
    return whole


def imported_modules(file: Path) -> set[Path]:
    """The modules of the same implementation that a module imports, directly or through one another."""
    found, waiting = set(), [file]
    while waiting:
        current = waiting.pop()
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                new = set(modules_of(current, node)) - {file} - found
                found |= new
                waiting += new
    return found


def modules_of(file: Path, node: ast.ImportFrom) -> list[Path]:
    """The files that a relative import of a file leads to."""
    package = file.parents[node.level - 1]
    named = package.joinpath(*node.module.split(".")) if node.module else package
    inner = [page_of(named, f".{name.name}") for name in node.names]
    found = [f for f in inner if f.is_file()]
    if node.module or len(found) < len(node.names):  # some name is no module: it is one of the module's own
        found.append(page_of(named.parent, f".{named.name}"))
    return [f for f in found if f.is_file()]


def _with_reexports(tree: ast.Module, private):
    """The statements of a module, with public names that it takes from private modules defined in place."""
    exported = {name for n in tree.body if _assigns_all(n) for name in ast.literal_eval(n.value)}
    imports, definitions = [], []
    for node in tree.body:
        name = (node.module or "") if isinstance(node, ast.ImportFrom) and node.level else ""
        if name in private:
            wanted = {n.name for n in node.names if not n.name.startswith("_")} & exported
            inner = private[name].body
            definitions += [n for n in inner if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name in wanted]
            if wanted:
                imports += [n for n in inner if isinstance(n, (ast.Import, ast.ImportFrom))]
    first = sum(isinstance(n, (ast.Import, ast.ImportFrom)) or _is_docstring(n) for n in tree.body)
    return [*tree.body[: min(first, 1)], *imports, *tree.body[1:first], *definitions, *tree.body[first:]]


def _assigns_all(node) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _class(node: ast.ClassDef, known: dict[str, ast.ClassDef]) -> ast.ClassDef:
    bases, members = _flattened(node, known)
    functions = [m for m in members.values() if isinstance(m, ast.FunctionDef)]
    if not functions:
        return node  # only fields: the shape of a result, nothing to write
    kept = [n for n in node.body[:1] if _is_docstring(n)]
    kept += [n for n in node.body if isinstance(n, ast.AnnAssign) and n.value is None]
    public = [f for f in functions if not _is_private(f.name) and f.name not in _DROPPED]
    made = ast.ClassDef(node.name, bases, node.keywords, [*kept, *map(_function, public)], node.decorator_list)
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.value is not None]
    if fields and "__init__" not in members and not node.decorator_list:
        made.body.append(_function(ast.parse("def __init__(self): ...").body[0]))  # its fields' values are the solution
    if not public:
        made.body.append(_STUB)
    return made


def _flattened(node, known):
    """Bases and members of a class, with private base classes (they are the solution) folded into it."""
    bases, members = [], {}
    for base in node.bases:
        name = ast.unparse(base)
        if name.startswith("_") and name in known:
            inner_bases, inner = _flattened(known[name], known)
            bases += inner_bases
            members |= inner
        else:
            bases.append(base)
    members |= {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    unique = {ast.unparse(b): b for b in bases}
    return list(unique.values()), members


def _function(node: ast.FunctionDef) -> ast.FunctionDef:
    kept = node.body[:1] if _is_docstring(node.body[0]) else []
    made = ast.FunctionDef(node.name, node.args, [*kept, _STUB], node.decorator_list, node.returns)
    return ast.copy_location(made, node)


def _without_private_imports(node):
    """An import without what the skeleton does not have: private modules, private names."""
    if isinstance(node, ast.ImportFrom) and node.level:
        if (node.module or "").rpartition(".")[2].startswith("_"):
            return None
        names = [n for n in node.names if not n.name.startswith("_")]
        return ast.ImportFrom(node.module, names, node.level) if names else None
    return node


def _without_unused(body: list[ast.stmt]) -> list[ast.stmt]:
    """Imports and constants that only bodies needed go: a constant may be the solution, a name of a shape is not.

    What a page re-exports is in `__all__` (ruff spares `__init__.py`).
    """
    given = (ast.Import, ast.ImportFrom, ast.Assign)
    used = {name for node in body if not isinstance(node, given) for name in _names(node)}
    used |= {name for node in body if _assigns_all(node) for name in ast.literal_eval(node.value)}
    for node in reversed(body):  # a constant may be made of earlier ones
        if isinstance(node, ast.Assign) and not used.isdisjoint(map(ast.unparse, node.targets)):
            used |= _names(node)
    kept = []
    for node in body:
        if isinstance(node, ast.Assign) and not _assigns_all(node) and used.isdisjoint(map(ast.unparse, node.targets)):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [n for n in node.names if (n.asname or n.name).partition(".")[0] in used]
            if not names:
                continue
            if isinstance(node, ast.Import):
                node = ast.Import(names)
            else:
                node = ast.ImportFrom(node.module, names, node.level)
        kept.append(node)
    return kept


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _classes(tree):
    return {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _is_docstring(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _tidy(folder: Path) -> None:
    """Format the skeleton and drop the imports that only bodies needed."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        raise SystemExit("ruff is needed to format the skeleton: run `make setup`")
    options = ["--quiet", "--no-cache", "--line-length", "120", "--isolated"]
    subprocess.run([ruff, "check", "--fix", "--select", "F401,I", *options, str(folder)], check=False)
    subprocess.run([ruff, "format", *options, str(folder)], check=True)
