"""Points `import impl` at the implementation under test.

One finder on `sys.meta_path` serves every subject: the reference, somebody's own package, a peer, a bug. Inside the
specs `import impl.layers.normalization` loads the file `layers/normalization.py` of the *subject's* folder, with shape
annotations checked. What the subject lacks resolves to a stub that raises `NotImplementedError` when it is used, so a
suite always collects.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import jaxtyping

PACKAGE = "impl"
# The tuned forms: a subject of its own, which holds what pays and borrows the rest from the reference.
TUNED = "fast"
PACKAGES = (PACKAGE, TUNED)
# The reference under a second name: what `--borrow` lends to a subject comes from there.
LENDER = "_reference_impl"


class SubjectError(ValueError):
    """There is no such subject: says what was asked for and what was expected."""


@dataclass(frozen=True)
class Subject:
    """An implementation under test.

    Attributes:
        name: as the user gave it.
        folder: where its files stand.
        reference: the folder of the reference.
        borrow: if True, modules and names that it has not written come from the reference.
        is_ours: whether it is one of the project's packages, or a copy of one, and so held to its conventions.
    """

    name: str
    folder: Path
    reference: Path
    borrow: bool = False
    is_ours: bool = False

    @property
    def is_reference(self) -> bool:
        """Asked for under its own name; another name that leads to the same folder only borrows it."""
        return self.folder == self.reference

    @property
    def package(self) -> str:
        """Which of the project's packages it is, or a copy of; empty for other people's code."""
        return self.folder.name if self.is_ours else ""

    @property
    def is_peer(self) -> bool:
        return self.folder.parent.parts[-2:] == ("spec", "peers")

    def files(self) -> list[Path]:
        return sorted(p for p in self.folder.rglob("*.py") if "__pycache__" not in p.parts)

    def digest(self) -> str:
        return digest(self.folder, self.files())

    def owns(self, file: Path) -> bool:
        return _inside(file, self.folder)

    def borrowed(self, module: str, names) -> list[str]:
        """Those of the public `names` of `module` whose code stands in the reference's files, not in the subject's."""
        if self.is_reference:
            return []
        found = importlib.import_module(module)
        return [name for name in names if any(_inside(f, self.reference) for f in _sources(getattr(found, name)))]


def digest(root: Path, files) -> str:
    """A hash of names and contents, equal for equal trees wherever they stand."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def resolve(name: str, root: Path, borrow: bool = False) -> Subject:
    """Find a subject by the name of a package or the path of a folder.

    Raises:
        SubjectError: neither exists.
    """
    reference = root / PACKAGE
    if name == PACKAGE:
        return Subject(name, reference, reference, borrow, is_ours=True)
    if name == TUNED:
        return Subject(name, root / TUNED, reference, borrow=True, is_ours=True)
    for folder in (Path(name), root / name, root.joinpath(*name.split("."))):
        if folder.is_dir():
            folder = folder.absolute()
            if not any(folder.rglob("*.py")):
                raise SubjectError(f"--impl {name}: expected a package, found a folder without Python files: {folder}")
            return Subject(name, folder, reference, borrow)
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() or "." in name.strip(".") else None
    except (ImportError, ValueError):
        spec = None
    if spec and spec.submodule_search_locations:
        return Subject(name, Path(next(iter(spec.submodule_search_locations))).absolute(), reference, borrow)
    raise SubjectError(
        f"--impl {name}: expected the name of a package or the path of a folder, found neither; "
        f"`python -m tools scaffold {name}` makes an empty one"
    )


def install(subject: Subject, check_shapes: bool = True) -> None:
    """From now on `import impl…` means the subject. Modules of an earlier subject are forgotten.

    Args:
        check_shapes: whether annotations of shapes are checked at each call, which takes time.
    """
    for module in [m for m in sys.modules if m.partition(".")[0] in (PACKAGE, LENDER)]:
        del sys.modules[module]
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _SubjectFinder)]
    sys.meta_path.insert(0, _SubjectFinder(subject, check_shapes))


class Missing:
    """Stands for a name that the subject lacks; any use of it raises, so its specs are pending, not lost."""

    def __init__(self, name: str, cause: BaseException | None = None):
        self._name = name
        self._cause = cause

    def _raise(self, *_args, **_kwargs):
        if self._cause is None:
            raise NotImplementedError(f"{self._name} does not exist yet")
        raise ImportError(f"{self._name}: its module cannot be imported: {self._cause!r}") from self._cause

    def __getattr__(self, attribute):
        if attribute.startswith("__"):  # introspection must keep working: pytest looks at every global of a spec
            raise AttributeError(attribute)
        self._raise()

    __call__ = __mro_entries__ = __instancecheck__ = __subclasscheck__ = __iter__ = __getitem__ = _raise


class _SubjectFinder(MetaPathFinder):
    def __init__(self, subject: Subject, check_shapes: bool):
        self.roots = {
            PACKAGE: [subject.folder] + ([subject.reference] if subject.borrow else []),
            LENDER: [subject.reference],
        }
        self.lends = subject.borrow and not subject.is_reference
        self.loading = _shape_checking_finder() if check_shapes else PathFinder

    def find_spec(self, fullname, path=None, target=None):
        root, *inner = fullname.split(".")
        if root not in self.roots:
            return None
        present = [f for f in (folder.joinpath(*inner) for folder in self.roots[root]) if _exists(f)]
        if not present:
            # Within a module (the roadmap's are impl.section.module) a name is a module only if the reference has one:
            # a class that is asked for as if it were one must not be hidden by a stub.
            is_module = len(inner) <= 2 or _exists(self.roots[LENDER][0].joinpath(*inner))
            return ModuleSpec(fullname, _Absent(), is_package=True) if is_module else None
        # Every folder that may hold a package's modules, the subject's first.
        folders = [str(f) for f in present if _is_package(f)]
        init = present[0] / "__init__.py"
        if not _is_package(present[0]) or (inner and init.is_file()):
            spec = self.loading.find_spec(fullname, [str(present[0].parent)])
        else:
            spec = _package(fullname, init) if init.is_file() else ModuleSpec(fullname, None, is_package=True)
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = folders
        lender = ".".join([LENDER, *inner]) if self.lends and root == PACKAGE and inner else None
        spec.loader = _Guarded(spec.loader, lender, folders)
        return spec


def _exists(path: Path) -> bool:
    return _is_package(path) or path.with_name(f"{path.name}.py").is_file()


def _is_package(path: Path) -> bool:
    """Is it a folder of modules? As in Python, one without `__init__.py` gives way to a file of the same name."""
    if (path / "__init__.py").is_file():
        return True
    return not path.with_name(f"{path.name}.py").is_file() and path.is_dir() and any(path.rglob("*.py"))


def _package(fullname, init):
    return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=[str(init.parent)])


def _shape_checking_finder():
    """jaxtyping's own finder: loads our modules with annotations checked by beartype.

    Its hook stands on `sys.meta_path`; we take it off again, because ours decides which file is meant.
    """
    jaxtyping.install_import_hook([PACKAGE, LENDER], "tools.subject.check_types")
    return sys.meta_path.pop(0)


def check_types(thing):
    """beartype, to which `float` also means 2, as type checkers and every caller read it (PEP 484's numeric tower)."""
    import beartype  # late: the other tools run in environments without it

    return beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))(thing)


class _Absent(Loader):
    """An empty module whose every name is `Missing`."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        _stub_missing_names(module)


class _Guarded(Loader):
    """Runs the real loader; names that it did not define become stubs, or the lender's where one may borrow."""

    def __init__(self, loader, lender, folders):
        self.loader = loader
        self.lender = lender
        self.folders = folders

    def create_module(self, spec):
        return self.loader.create_module(spec) if self.loader else None

    def exec_module(self, module):
        cause = None
        # A file may stand where another implementation has a package: what is imported from inside of it is looked for
        # as well. Its own relative imports go by the spec, which says that it is a file.
        module.__path__ = self.folders
        if self.loader:
            try:
                self.loader.exec_module(module)
            except NotImplementedError:
                pass
            except Exception as error:
                cause = error
        if self.lender:
            for name in _unwritten(module):
                vars(module).pop(name)
        _stub_missing_names(module, cause, self.lender)

    def get_source(self, fullname):
        return self.loader.get_source(fullname) if self.loader else None


def _stub_missing_names(module, cause=None, lender=None):
    package = module.__name__

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if any(_exists(Path(folder) / name) for folder in module.__path__):
            return importlib.import_module(f"{package}.{name}")
        if lender and cause is None:
            return getattr(importlib.import_module(lender), name)
        return Missing(f"{package}.{name}", cause)

    module.__getattr__ = __getattr__


def _unwritten(module):
    """Public names of a module whose every function body is a docstring and `raise NotImplementedError`."""
    if not getattr(module, "__file__", None):
        return  # a folder without a page
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in vars(module):
            functions = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)]
            if functions and all(_is_stub(f) for f in functions):
                yield node.name


def _is_stub(function: ast.FunctionDef) -> bool:
    body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


def _sources(thing) -> set[Path]:
    """The files in which the code of a class (with all its bases) or of a function stands."""
    if inspect.isclass(thing):
        members = [m for base in thing.__mro__ for m in vars(base).values()]
        functions = [getattr(m, "__func__", getattr(m, "fget", m)) for m in members]
    else:
        functions = [thing]
    functions = [inspect.unwrap(f) for f in functions if callable(f) and not isinstance(f, Missing)]
    return {Path(f.__code__.co_filename) for f in functions if hasattr(f, "__code__")}


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())
