"""Follows objects of the subject through spec files, and finds what is read of them that no contract names.

From the constructor on: through assignments, loops, helpers, lambdas and `parametrize`. Of what cannot
be followed, only a name that the reference alone has is a finding.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.promised import Promise, inner_names, names_of, without_index

# Methods that return the object itself, and functions that return their argument or a copy of it.
_ITSELF = {"double", "float", "half", "bfloat16", "to", "cpu", "type", "eval", "train", "requires_grad_", "apply"}
_ITSELF |= {"to_empty", "__enter__"}
_COPIES = {"copy.deepcopy", "copy.copy", "deepcopy", "torch.compile", "iter", "next", "list", "tuple", "set", "sorted"}
_COPIES |= {"reversed", "dict"}
ANYTHING, LIBRARY = ("anything",), ("library",)
# So many calls within calls are followed.
_DEEPEST = 6
_CONVENTION, _UNKNOWN = "mark.project_convention", " of something"


@dataclass(frozen=True)
class Unpromised:
    """What a spec reads and no contract names: `where` is "file:line"."""

    where: str
    what: str


def unpromised(root: Path, promises: dict[str, Promise]) -> list[Unpromised]:
    """What the specs of a repository read of the subject's objects beyond `promises`, but for specs of conventions."""
    reader = _Reader(root, promises)
    for file in sorted((root / "spec").rglob("*.py")):
        if not file.is_relative_to(root / "spec" / "peers"):
            reader.read(file)
    known = {(u.where, u.what.split(" of ")[0]) for u in reader.found if not u.what.endswith(_UNKNOWN)}
    found = (
        u for u in reader.found if not u.what.endswith(_UNKNOWN) or (u.where, u.what[: -len(_UNKNOWN)]) not in known
    )
    return sorted(found, key=lambda u: (u.where, u.what))


class _Reader:
    """Follows objects of the subject through spec files: an expression has a set of types, `ANYTHING` if unknown.

    `LIBRARY` is another library's module or what it defines.

    ("class", C), ("object", C), ("part", C, path) of its modules, ("state", C) its state dict, ("kept", C) an
    optimizer's state and ("kept of", C) that of one parameter, ("group", C) of its parameter groups, ("keys", …) of a
    dict literal, ("many", types), ("pair", types, types, …), and ("function", file, definition, environment).
    """

    def __init__(self, root: Path, promises: dict[str, Promise]):
        self.root, self.promises = root, promises
        self.inner = inner_names(root, promises)
        self.found: set[Unpromised] = set()
        self.modules: dict[Path, dict] = {}
        self.done: dict = {}
        self.file = root
        self.marks: dict[tuple[Path, str], ast.expr] = {}  # (file, name) → what it is assigned: a decorator, say
        self.calls: list[tuple[Path, int]] = []  # where the functions that are looked at were called

    # ------------------------------------------------------------------------------------------- files and functions

    def read(self, file: Path) -> None:
        names, tree = self._module(file), ast.parse(file.read_text(encoding="utf-8"))
        of_all = self.marks.get((file, "pytestmark"), ast.Constant(""))
        for node in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
            if not any(_CONVENTION in ast.unparse(mark) for mark in (of_all, *node.decorator_list)):
                self._call(("function", file, _Key(node), _Key(names)), self._parametrized(node, names, file), 0)

    def _module(self, file: Path) -> dict:
        """Name → types, of what a spec file defines and imports."""
        if file in self.modules:
            return self.modules[file]
        names = self.modules[file] = {}
        before, self.file = self.file, file
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                names[node.name] = {("function", file, _Key(node), _Key(names))}
            else:
                self._statement(node, names, False, 0)
            if isinstance(node, ast.Assign):
                self.marks[file, ast.unparse(node.targets[0])] = node.value
        self.file = before
        return names

    def _imported(self, module: str, name: str) -> set:
        if module.split(".")[0] == "impl":
            return {("class", name)} if name in self.promises else {ANYTHING}
        if module.split(".")[0] == "spec":
            inner = self.root.joinpath(*module.split("."), f"{name}.py")
            if inner.is_file():
                return {("module", inner)}
            file = self.root.joinpath(*module.split(".")).with_suffix(".py")
            return self._module(file).get(name, {ANYTHING}) if file.is_file() else {ANYTHING}
        return {LIBRARY}

    def _parametrized(self, node: ast.FunctionDef, names: dict, file: Path) -> dict[str, set]:
        """Parameter → types that `parametrize` gives it."""
        found: dict[str, set] = {}
        for mark in (self.marks.get((file, ast.unparse(d)), d) for d in node.decorator_list):
            if not ast.unparse(mark).startswith("pytest.mark.parametrize(") or len(mark.args) < 2:
                continue
            try:
                arguments = ast.literal_eval(mark.args[0])
            except ValueError:
                continue
            arguments = [a.strip() for a in arguments.split(",")] if isinstance(arguments, str) else list(arguments)
            self.file = file
            values = self._elements(self._types(mark.args[1], names, 0))
            for n, name in enumerate(arguments):
                found[name] = values if len(arguments) == 1 else self._nth(values, n)
        return found

    def _call(self, function, arguments: dict, depth: int) -> set:
        """The types of what a function returns; what its body reads is judged on the way."""
        _, file, node, names = function
        key = (node, names, frozenset((n, frozenset(t)) for n, t in arguments.items()))
        if key in self.done or depth > _DEEPEST:
            return self.done.get(key, {ANYTHING})
        self.done[key] = {ANYTHING}  # of a recursion
        before, self.file = self.file, file
        definition = node.value
        inside = dict(names.value) | {a.arg: {ANYTHING} for a in ast.walk(definition.args) if isinstance(a, ast.arg)}
        inside |= arguments
        if isinstance(definition, ast.Lambda):
            result = self._types(definition.body, inside, depth)
        else:
            result = set()
            for statement in definition.body:
                result |= self._statement(statement, inside, False, depth)
        self.file = before
        self.done[key] = result or {ANYTHING}
        return self.done[key]

    # ---------------------------------------------------------------------------------------------------- statements

    def _statement(self, node, names: dict, is_inner: bool, depth: int) -> set:
        """The types that a statement returns from its function."""
        returned: set = set()
        match node:
            case ast.Return(value=value):
                return self._types(value, names, depth) if value else {ANYTHING}
            case ast.Assign(targets=targets, value=value):
                types = self._types(value, names, depth)
                for target in targets:
                    self._bind(target, types, names, is_inner, depth)
            case ast.AnnAssign(target=target, value=value) if value:
                self._bind(target, self._types(value, names, depth), names, is_inner, depth)
            case ast.For(target=target, iter=several):
                self._bind(target, self._elements(self._types(several, names, depth)), names, True, depth)
            case ast.With(items=items):
                for item in items:
                    types = self._types(item.context_expr, names, depth)
                    if item.optional_vars:
                        self._bind(item.optional_vars, types, names, is_inner, depth)
            case ast.FunctionDef():
                names[node.name] = {("function", self.file, _Key(node), _Key(names))}
                self._call(("function", self.file, _Key(node), _Key(names)), {}, depth + 1)
                return set()
            case ast.Import(names=imported):
                names |= {(a.asname or a.name).partition(".")[0]: {LIBRARY} for a in imported}
            case ast.ImportFrom(module=str(module), names=imported):
                names |= {a.asname or a.name: self._imported(module, a.name) for a in imported}
            case ast.ClassDef():
                names[node.name] = {ANYTHING}
                return set()
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._types(child, names, depth)
        inner = is_inner or not isinstance(node, ast.With)
        for part in ("body", "orelse", "finalbody"):
            for child in getattr(node, part, None) or []:
                if isinstance(child, ast.stmt):
                    returned |= self._statement(child, names, inner, depth)
        for handler in getattr(node, "handlers", []):
            for child in handler.body:
                returned |= self._statement(child, names, True, depth)
        return returned

    def _bind(self, target, types: set, names: dict, is_inner: bool, depth: int) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = types | names.get(name, set()) if is_inner else set(types)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for n, one in enumerate(targets):
                    is_rest = isinstance(one, ast.Starred)
                    given = {_many(self._elements(types))} if is_rest else self._nth(types, n)
                    self._bind(one.value if is_rest else one, given, names, is_inner, depth)
            case _:
                self._types(target, names, depth)

    def _elements(self, types: set) -> set:
        """What iterating gives."""
        found: set = set()
        for kind, *rest in types:
            match kind:
                case "many":
                    found |= rest[0].value
                case "pair":
                    found |= set().union(*(r.value for r in rest))
                case "part":
                    found |= self._index(*rest)
                case "groups":
                    found.add(("group", *rest))
                case _:
                    found.add(ANYTHING)
        return found or {ANYTHING}

    def _nth(self, types: set, n: int) -> set:
        found: set = set()
        for one in types:
            if one[0] == "pair":
                found |= one[1 + n].value if n < len(one) - 1 else {ANYTHING}
            else:
                found |= self._elements({one})
        return found

    # --------------------------------------------------------------------------------------------------- expressions

    def _types(self, node, names: dict, depth: int) -> set:
        match node:
            case ast.Name(id=name):
                return names.get(name, {ANYTHING})
            case ast.Attribute(value=value, attr=attr):
                return self._attribute(self._types(value, names, depth), attr, node)
            case ast.Call():
                return self._called_types(node, names, depth)
            case ast.Subscript(value=value, slice=index):
                self._types(index, names, depth)
                return self._subscript(self._types(value, names, depth), index, node)
            case ast.Tuple(elts=elements):
                return {_pair(*(self._types(e, names, depth) for e in elements))}
            case ast.List(elts=elements) | ast.Set(elts=elements):
                return {_many(set().union(*(self._types(e, names, depth) for e in elements)))}
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
                inside = self._comprehended(node, names, depth)
                return {_many(self._types(node.elt, inside, depth))}
            case ast.DictComp():
                inside = self._comprehended(node, names, depth)
                self._types(node.key, inside, depth)
                self._types(node.value, inside, depth)
                return {ANYTHING}
            case ast.Dict(keys=keys, values=values):
                for one in (*filter(None, keys), *values):
                    self._types(one, names, depth)
                return {("keys", tuple(filter(None, map(_pattern, filter(None, keys)))))}
            case ast.BinOp(left=left, right=right, op=ast.BitOr() | ast.Add() | ast.Sub() | ast.BitAnd()):
                return self._types(left, names, depth) | self._types(right, names, depth)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._types(test, names, depth)
                return self._types(body, names, depth) | self._types(orelse, names, depth)
            case ast.NamedExpr(target=target, value=value):
                types = self._types(value, names, depth)
                self._bind(target, types, names, True, depth)
                return types
            case ast.Lambda():
                function = ("function", self.file, _Key(node), _Key(names))
                self._call(function, {}, depth + 1)
                return {function}
            case ast.Starred(value=value):
                return self._elements(self._types(value, names, depth))
            case ast.Compare():
                self._compared(node, names, depth)
                return {ANYTHING}
            case None:
                return {ANYTHING}
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._types(child, names, depth)
        return {ANYTHING}

    def _comprehended(self, node, names: dict, depth: int) -> dict:
        inside = dict(names)
        for loop in node.generators:
            self._bind(loop.target, self._elements(self._types(loop.iter, inside, depth)), inside, False, depth)
            for condition in loop.ifs:
                self._types(condition, inside, depth)
        return inside

    def _compared(self, node: ast.Compare, names: dict, depth: int) -> None:
        """`"key" in state`, `set(state) == {"key", …}`."""
        sides = [node.left, *node.comparators]
        types = [self._types(side, names, depth) for side in sides]
        if isinstance(node.ops[0], ast.NotIn):
            return  # that a key is absent is asked
        for kind in {t for side in types for t in side if t[0] in ("state", "kept of")}:
            for side in sides:
                keys = side.elts if isinstance(side, (ast.Set, ast.List, ast.Tuple)) else [side]
                for key in keys:
                    self._check_key(kind, _pattern(key), node)

    def _called_types(self, node: ast.Call, names: dict, depth: int) -> set:
        given = [self._types(a, names, depth) for a in node.args]
        keywords = {k.arg: self._types(k.value, names, depth) for k in node.keywords}
        called = ast.unparse(node.func)
        if called in ("getattr", "hasattr") and len(node.args) >= 2:
            name = _pattern(node.args[1])
            return self._attribute(given[0], name, node) if name else {ANYTHING}
        if called in _COPIES and given:
            return given[0]
        if called == "zip":
            return {_many({_pair(*map(self._elements, given))})}
        if called == "enumerate" and given:
            return {_many({_pair({ANYTHING}, self._elements(given[0]))})}
        if called.endswith("partial") and given:
            first = _Key(tuple(given[1:])), _Key(keywords)
            return {("partial", _Key(frozenset({one})), *first) for one in given[0]}
        if called.endswith("pytest.param"):
            return given[0] if len(given) == 1 else {_pair(*given)}
        if isinstance(node.func, ast.Attribute):
            owners = self._types(node.func.value, names, depth)
            if node.func.attr in ("pop", "get", "setdefault") and node.args:
                for one in owners:
                    self._check_key(one, _pattern(node.args[0]), node)
            if node.func.attr == "load_state_dict":
                for owner in (o for o in owners if o[0] == "object"):
                    for keys in (t[1] for g in given for t in g if t[0] == "keys"):
                        for key in keys:
                            self._check_key(("state", owner[1]), key, node)
        found: set = set()
        for one in self._types(node.func, names, depth):
            found |= self._result(one, given, keywords, node, depth)
        return found or {ANYTHING}

    def _result(self, called: tuple, given: list, keywords: dict, node, depth: int) -> set:
        match called:
            case ("class", name):
                promise = self.promises[name]
                if promise.names:
                    return {("object", name)}
                return self._annotated(promise.returns.get("__call__"))
            case ("object", name):
                return self._annotated(self.promises[name].returns.get("__call__"))
            case ("method", name, method):
                if method in _ITSELF:
                    return {("object", name)}
                if method == "state_dict":
                    return {("state", name)}
                return self._annotated(self.promises[name].returns.get(method))
            case ("part method", name, path, method):
                return {("part", name, path)} if method in _ITSELF else {ANYTHING}
            case ("part", name, path):
                if not self.promises[name].may_be_called(path):
                    self._report(node, f"calls .{path} of {name}")
            case ("partial", function, positional, named):
                (one,) = function.value
                return self._result(one, [*positional.value, *given], named.value | keywords, node, depth)
            case ("kept values", name):
                return {_many({("kept of", name)})}
            case ("kept items", name):
                return {_many({_pair({ANYTHING}, {("kept of", name)})})}
            case ("kept keys", name):
                return {("kept of", name)}
            case ("keys of", name):
                return {("state", name)}
            case ("function", _, definition, _):
                positional = [a.arg for a in (*definition.value.args.posonlyargs, *definition.value.args.args)]
                bound = dict(zip(positional, given[: _before_a_star(node, given)]))
                known = {*positional, *(a.arg for a in definition.value.args.kwonlyargs)}
                bound |= {n: t for n, t in keywords.items() if n in known}
                self.calls.append((self.file, node.lineno))
                result = self._call(called, bound, depth + 1)
                self.calls.pop()
                return result
        return {ANYTHING}

    def _annotated(self, annotation) -> set:
        """What an annotation names of the subject."""
        match annotation:
            case ast.Name(id=name) if self.promises.get(name, Promise()).names:
                return {("object", name)}
            case ast.BinOp(left=left, right=right):
                return (self._annotated(left) | self._annotated(right)) - {ANYTHING} or {ANYTHING}
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=elements)):
                return {_pair(*map(self._annotated, elements))}
            case ast.Subscript(value=ast.Name(id="list"), slice=element):
                return {_many(self._annotated(element))}
        return {ANYTHING}

    def _attribute(self, types: set, attr: str, node) -> set:
        results, refused = set(), []
        for one in types:
            match one:
                case ("object", name):
                    ok, result = self._of_object(name, attr)
                case ("class", name) if self.promises[name].names:
                    ok = attr in self.promises[name].names | set(dir(type))
                    result = {("method", name, attr)}
                case ("part", name, path):
                    ok, result = self._of_part(name, path, attr)
                case ("state", name) if attr in ("keys", "copy"):
                    ok, result = True, {("keys of", name)}
                case ("kept of", name) if attr == "keys":
                    ok, result = True, {("kept keys", name)}
                case ("kept", name) if attr in ("values", "items"):
                    ok, result = True, {("kept " + attr, name)}
                case ("module", file):
                    ok, result = True, self._module(file).get(attr, {ANYTHING})
                case ("library",):
                    ok, result = True, {LIBRARY}
                case _:
                    ok, result = True, {ANYTHING}
            results |= result
            if not ok:
                refused.append(one)
        if refused and len(refused) == len(types):
            what = sorted({f"{'.'.join(['', *one[2:], attr])} of {one[1]}" for one in refused})
            self._report(node, f"reads {', '.join(what)}")
        if types == {ANYTHING} and attr in self.inner:
            self._report(node, f"reads .{attr}{_UNKNOWN}")
        return results or {ANYTHING}

    def _of_object(self, name: str, attr: str) -> tuple[bool, set]:
        promise = self.promises[name]
        if parts := promise.paths(attr):
            return True, {("part", name, path) for path in parts}
        if not any(re.fullmatch(attr, known) for known in promise.names):
            return False, {ANYTHING}
        kinds = {"state": "kept", "param_groups": "groups", "defaults": "group"}
        if attr in kinds and "param_groups" in promise.names:
            return True, {(kinds[attr], name)}
        return True, {("method", name, attr)} if attr in promise.returns or attr in _of_modules() else {ANYTHING}

    def _of_part(self, name: str, path: str, attr: str) -> tuple[bool, set]:
        promise = self.promises[name]
        if parts := promise.paths(rf"{re.escape(path)}\.{attr}"):
            return True, {("part", name, inner) for inner in parts}
        if path in promise.state:
            return True, {ANYTHING}  # a parameter's or a buffer's own
        return attr in _of_modules(), {("part method", name, path, attr)}

    def _subscript(self, types: set, index, node) -> set:
        found: set = set()
        for one in types:
            match one:
                case ("part", name, path):
                    found |= {one} if isinstance(index, ast.Slice) else self._index(name, path)
                case ("state" | "kept of" | "group", _):
                    self._check_key(one, _pattern(index), node)
                case ("kept", name):
                    found.add(("kept of", name))
                case ("pair", *parts) if isinstance(index, ast.Constant) and isinstance(index.value, int):
                    if -len(parts) <= index.value < len(parts):
                        found |= parts[index.value].value
                case ("many" | "pair" | "groups", *_):
                    found |= {one} if isinstance(index, ast.Slice) else self._elements({one})
        return found or {ANYTHING}

    def _index(self, name: str, path: str) -> set:
        return {("part", name, p) for p in self.promises[name].paths(rf"{re.escape(path)}\.0")} or {ANYTHING}

    def _check_key(self, kind: tuple, key: str | None, node) -> None:
        """A key that is expected of a state dict, of an optimizer's state or of a parameter group."""
        if key is None or kind[0] not in ("state", "kept of", "group"):
            return
        promise = self.promises[kind[1]]
        match kind[0]:
            case "state":
                known = (promise.state or {key}) | promise.loads  # its caller's parts have a state of their own
            case "kept of":
                known = promise.kept
            case "group":
                known = {key} if promise.settings is None else promise.settings | promise.kept | {"params"}
        if not any(re.fullmatch(without_index(key), name) for name in known):
            self._report(node, f"expects the key {key!r} of {kind[1]}")

    def _report(self, node, what: str) -> None:
        """A finding, where the spec calls the helper that reads."""
        trace = [*self.calls, (self.file, node.lineno)]
        file, line = next((at for at in reversed(trace) if at[0].name.startswith("test_")), trace[-1])
        self.found.add(Unpromised(f"{file.relative_to(self.root).as_posix()}:{line}", what))


class _Key:
    """A value as a part of a type: equal if it is the same, or an equal set."""

    def __init__(self, value):
        self.value = value
        self.key = value if isinstance(value, frozenset) else id(value)

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


def _many(types: set) -> tuple:
    return "many", _Key(frozenset(types))


def _pair(*parts: set) -> tuple:
    return "pair", *(_Key(frozenset(part)) for part in parts)


def _before_a_star(node: ast.Call, given: list) -> int:
    """How many positional arguments are known by their place."""
    stars = [n for n, a in enumerate(node.args) if isinstance(a, ast.Starred)]
    return len(given) - len(node.args) + stars[0] if stars else len(given)


def _pattern(node) -> str | None:
    """A string as a regular expression, of an f-string with anything for its values; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value).replace(r"\.", ".") if not node.value.isidentifier() else node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else ".*" for v in node.values)
    return None


@cache
def _of_modules() -> frozenset[str]:
    return names_of("Module")
