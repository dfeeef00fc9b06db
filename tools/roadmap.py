"""Reads and checks spec/roadmap.toml, the one list of what exists."""

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROADMAP = Path("spec/roadmap.toml")
KINDS = ("properties", "golden", "behaviours")
_ITEM_KEYS = {"id": str, "title": str, "papers": list, "module": str, "names": list}


class RoadmapError(ValueError):
    """The roadmap file is not what it should be: says the line, what was expected, and what is there."""


@dataclass(frozen=True)
class Item:
    """One concept of the roadmap; `module` and `names` are the public surface its specs may import.

    `path` is the page of the module in the reference, relative to the repository.
    """

    id: str
    title: str
    papers: tuple[str, ...]
    module: str
    names: tuple[str, ...]
    section: str
    group: str
    path: str

    @property
    def topic(self) -> str:
        """The last part of the module: specs and implementation of a topic are facing pages."""
        return self.module.rpartition(".")[2]

    def page(self, folder: Path) -> Path:
        """The file of the module in the folder of an implementation, which may be another than the reference."""
        return page_of(folder, self.module)


@dataclass(frozen=True)
class Roadmap:
    """All items by id, in the order of the file."""

    items: dict[str, Item]

    @property
    def sections(self) -> dict[str, dict[str, list[Item]]]:
        """Section title → group title → items."""
        tree: dict[str, dict[str, list[Item]]] = {}
        for item in self.items.values():
            tree.setdefault(item.section, {}).setdefault(item.group, []).append(item)
        return tree

    def find(self, item_id: str) -> Item:
        """The item with this id.

        Raises:
            RoadmapError: no such id; names the nearest one.
        """
        if item_id not in self.items:
            raise RoadmapError(f"no item {item_id!r} in the roadmap{nearest(item_id, self.items)}")
        return self.items[item_id]


def page_of(folder: Path, module: str) -> Path:
    """The file in which a module stands: a package's `__init__.py` where there is one, else a file of its own.

    Args:
        folder: that of the package in front of the module's first dot.
    """
    package = folder.joinpath(*module.split(".")[1:])
    init = package / "__init__.py"
    return init if init.is_file() else package.with_name(f"{package.name}.py")


def nearest(word: str, choices) -> str:
    """A "did you mean" for a mistyped word, or nothing."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return f"; did you mean {found[0]!r}?" if found else ""


def load(path: Path = ROADMAP) -> Roadmap:
    """Read and check a roadmap file.

    Raises:
        RoadmapError: missing file, broken TOML, duplicate id, unknown or missing key, item without a paper.
    """
    path = Path(path)
    if not path.is_file():
        raise RoadmapError(f"{path}: expected the roadmap here, found no such file")
    text = path.read_text(encoding="utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RoadmapError(f"{path}: not valid TOML: {error}") from None
    items: dict[str, Item] = {}
    root = path.parents[len(ROADMAP.parts) - 1] if path.parts[-2:] == ROADMAP.parts else path.parent
    for section in _tables(path, text, data, "section"):
        for group in _tables(path, text, section, "group"):
            for entry in _tables(path, text, group, "item"):
                _check(path, text, entry, items)
                package = entry["module"].partition(".")[0]
                items[entry["id"]] = Item(
                    id=entry["id"],
                    title=entry["title"],
                    papers=tuple(entry["papers"]),
                    module=entry["module"],
                    names=tuple(entry["names"]),
                    section=section["title"],
                    group=group["title"],
                    path=page_of(root / package, entry["module"]).relative_to(root).as_posix(),
                )
    return Roadmap(items)


def _tables(path, text, parent, key):
    """The list of tables under `key`, each with the keys that its level allows."""
    children = {"section": "group", "group": "item"}
    allowed = {"section": {"title", "group"}, "group": {"title", "item"}, "item": set(_ITEM_KEYS)}[key]
    tables = parent.get(key)
    if not isinstance(tables, list) or not tables:
        where = _line(text, parent.get("title", ""))
        raise RoadmapError(f"{path}:{where}: expected at least one {key}, found {tables!r}")
    for table in tables:
        where = _line(text, table.get("id") or table.get("title", ""))
        if key != "item" and not isinstance(table.get("title"), str):
            raise RoadmapError(f"{path}:{where}: expected a title for the {key}, found {table.get('title')!r}")
        for unknown in set(table) - allowed:
            raise RoadmapError(
                f"{path}:{where}: unknown key {unknown!r} in {key} {table.get('id', table.get('title'))!r};"
                f" expected {', '.join(sorted(allowed))}{nearest(unknown, allowed)}"
            )
        if key in children and children[key] not in table:
            raise RoadmapError(f"{path}:{where}: {key} {table['title']!r}: expected a {children[key]}, found none")
    return tables


def _check(path, text, entry, items):
    name = entry.get("id", entry.get("title"))
    where = _line(text, entry.get("id", ""))
    for key, kind in _ITEM_KEYS.items():
        value = entry.get(key)
        if not isinstance(value, kind) or not value:
            what = "a list of at least one string" if kind is list else "a string"
            raise RoadmapError(f"{path}:{where}: item {name!r}: expected {key} = {what}, found {value!r}")
        if kind is list and not all(isinstance(v, str) and v.strip() for v in value):
            raise RoadmapError(f"{path}:{where}: item {name!r}: expected {key} to hold strings, found {value!r}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["id"]):
        raise RoadmapError(f"{path}:{where}: expected an id in lower-case words joined by '-', found {entry['id']!r}")
    if not re.fullmatch(r"impl(\.[a-z0-9_]+)+", entry["module"]):
        raise RoadmapError(
            f"{path}:{where}: item {name!r}: expected module = a dotted path under impl, found {entry['module']!r}"
        )
    if entry["id"] in items:
        second = _line(text, entry["id"], occurrence=2)
        raise RoadmapError(f"{path}:{second}: duplicate id {name!r}; expected every id once (first: line {where})")


def _line(text, value, occurrence=1):
    """The 1-based line on which the string `value` stands in quotes (TOML keeps no positions)."""
    lines = [n for n, line in enumerate(text.splitlines(), 1) if value and f'"{value}"' in line]
    return lines[min(occurrence, len(lines)) - 1] if lines else 1
