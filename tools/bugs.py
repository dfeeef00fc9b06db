"""The catalogue of known bugs, spec/bugs/<topic>.toml, and the kill matrix that `strength` makes of it."""

import tomllib
from pathlib import Path

from tools.roadmap import RoadmapError

KILLS = Path("spec/bugs/kills.json")


def find_bug(root: Path, bug_id: str) -> dict:
    """The catalogue entry of "item/bug".

    Raises:
        RoadmapError: no such bug; lists the item's bugs.
    """
    bugs = {bug_name(b): b for b in all_bugs(root)}
    if bug_id not in bugs:
        same_item = [b for b in bugs if b.split("/")[0] == bug_id.split("/")[0]]
        raise RoadmapError(f"--bug {bug_id}: expected one of {', '.join(same_item or bugs) or 'an empty catalogue'}")
    return bugs[bug_id]


def bug_name(bug: dict) -> str:
    """item/bug, as `--bug` takes it."""
    return f"{bug['item']}/{bug['id']}"


def all_bugs(root: Path) -> list[dict]:
    files = sorted((root / "spec" / "bugs").glob("*.toml"))
    return [bug for f in files for bug in tomllib.loads(f.read_text(encoding="utf-8")).get("bug", [])]


def apply_bug(text: str, bug: dict) -> str:
    """The text with the bug's one edit.

    Raises:
        RoadmapError: the file does not hold what it replaces exactly once, or the edit changes nothing.
    """
    count = text.count(bug["find"])
    if count != 1 or bug["find"] == bug["replace"]:
        raise RoadmapError(
            f"bug {bug['item']}/{bug['id']}: expected `find` exactly once in {bug['file']}, found {count}"
        )
    return text.replace(bug["find"], bug["replace"])
