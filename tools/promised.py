"""What a stranger knows of a public class, and specs may therefore read of its objects.

The skeleton shows public methods, fields and documented attributes; the contract promises attributes, state keys and
what is kept between calls; torch's base classes give the rest to everybody.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tools import scaffold


@dataclass
class Promise:
    """What is known of a public class.

    Attributes:
        names: what may be read of an object of it.
        returns: method → the annotation of what it returns.
        state: its state keys, with 0 for every index; empty where its contract has none.
        loads: keys that may be loaded as well.
        kept: words of what it keeps between calls: an optimizer's state.
        settings: arguments of its constructor; None where it passes any on.
        callable_parts: words of what is said of its attributes: such a part may be called.
    """

    names: set[str] = field(default_factory=set)
    returns: dict[str, ast.expr] = field(default_factory=dict)
    state: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    settings: set[str] | None = field(default_factory=set)
    callable_parts: set[str] = field(default_factory=set)

    def paths(self, pattern: str) -> set[str]:
        """State keys, and names of parts that have some, that fit a regular expression."""
        keys = (key.split(".") for key in self.state)
        return {p for key in keys for n in range(len(key)) if re.fullmatch(pattern, p := ".".join(key[: n + 1]))}

    def may_be_called(self, path: str) -> bool:
        """Is it a part with a weight, or one that the contract speaks of?"""
        return f"{path}.weight" in self.state or set(path.split(".")) - {"0"} <= self.callable_parts | self.names


def promises_of(root: Path, contracts: Iterable = ()) -> dict[str, Promise]:
    """Public class or function → what is known of it.

    Args:
        contracts: objects with name, state, loads, attributes and remembers, as `spec.contract.Contract`.
    """
    found: dict[str, Promise] = {}
    bases: dict[str, list[str]] = {}
    faces = [(n, is_whole) for _, text, is_whole in scaffold.shown(root) for n in ast.parse(text).body]
    for node, is_whole in ((n, w) for n, w in faces if isinstance(n, (ast.ClassDef, ast.FunctionDef))):
        promise = found.setdefault(node.name, Promise())
        if isinstance(node, ast.FunctionDef):
            promise.returns["__call__"] = node.returns
            continue
        bases[node.name] = [ast.unparse(b) for b in node.bases]
        promise.names |= _documented(node)
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                promise.names.add(member.name)
                promise.returns[member.name] = member.returns
                if member.name == "__init__":
                    names = {a.arg for a in (*member.args.args, *member.args.kwonlyargs)}
                    promise.settings = None if member.args.kwarg else names
                if member.name == "forward":
                    promise.returns["__call__"] = member.returns
            elif isinstance(member, (ast.AnnAssign, ast.Assign)):
                targets = [member.target] if isinstance(member, ast.AnnAssign) else member.targets
                promise.names |= {t.id for t in targets if isinstance(t, ast.Name)}
        if is_whole:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
            promise.names |= {n.attr for n in stored if not n.attr.startswith("_")}
    for name, promise in found.items():
        waiting = list(bases.get(name, []))
        for base in waiting:
            waiting += [b for b in bases.get(base, []) if b not in waiting]
            inherited = found.get(base, Promise())
            promise.names |= inherited.names | names_of(base)
            promise.returns = inherited.returns | promise.returns
            promise.settings = inherited.settings if promise.settings == set() else promise.settings
    for contract in contracts:
        promise = found.setdefault(contract.name.partition(",")[0], Promise())
        promise.names |= set(contract.attributes)
        promise.callable_parts |= set(re.findall(r"\w+", " ".join(contract.attributes.values())))
        promise.state |= {without_index(key) for key in contract.state}
        promise.loads |= {without_index(key) for key in contract.loads}
        promise.kept |= set(re.findall(r"\w+", contract.remembers))
    return found


def inner_names(root: Path, promises: dict[str, Promise]) -> set[str]:
    """What only the reference's classes have: no contract names it, nor has a base class or a class of the specs."""
    known = {n for p in promises.values() for n in (*p.names, *p.callable_parts, *".".join(p.state).split("."))}
    known |= _names_of_classes(root / "spec")
    return _names_of_classes(root / "impl") - known - _common_names()


def _names_of_classes(folder: Path) -> set[str]:
    """What the classes of a folder define or assign."""
    found = set()
    for file in folder.rglob("*.py"):
        classes = (n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef))
        for one in classes:
            assigned = (t for n in one.body if isinstance(n, ast.Assign) for t in n.targets)
            found |= {t.id for t in assigned if isinstance(t, ast.Name)}
            for node in ast.walk(one):
                match node:
                    case ast.Attribute(attr=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                        found.add(name)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        found.add(name)
    return found


@cache
def _common_names() -> frozenset[str]:
    import numpy
    import torch

    others = (torch.Tensor, torch.Generator, torch.autograd.Function, numpy.ndarray, str, dict, list, set, float)
    others += (torch.autograd.function.FunctionCtx, Path)
    return names_of("Module") | names_of("Optimizer") | {name for one in others for name in dir(one)}


def _documented(node: ast.ClassDef) -> set[str]:
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
    lines = re.findall(r"^ {4}(\w[\w, ]*):", section[1], re.MULTILINE) if section else []
    return {name for line in lines for name in re.findall(r"\w+", line)}


@cache
def names_of(base: str) -> frozenset[str]:
    """What a base class of torch or of Python gives to everybody."""
    import torch

    known = {"Module": torch.nn.Module(), "Optimizer": torch.optim.SGD([torch.ones(1)]), "NamedTuple": ()}
    known |= {"tuple": (), "Function": torch.autograd.Function, "Sequential": torch.nn.Sequential()}
    name = base.rpartition(".")[2]
    extra = {"_asdict", "_replace", "_fields"} if name == "NamedTuple" else set()
    own = set(vars(torch.optim.SGD)) - set(vars(torch.optim.Optimizer)) if name == "Optimizer" else set()
    return frozenset({*dir(known.get(name, object())), *extra} - own)


def without_index(key: str) -> str:
    """A state key with 0 for every index."""
    return re.sub(r"\.\d+(?=\.|$)", ".0", key)
