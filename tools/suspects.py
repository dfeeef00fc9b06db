"""Names the likely mistake: the known bugs whose failed specs are most like those of a run."""

import json
from dataclasses import dataclass
from pathlib import Path

from tools.bugs import KILLS, all_bugs, bug_name

# Below this likeness a name would be a guess.
ENOUGH = 0.5


@dataclass(frozen=True)
class Suspect:
    """A known bug and how alike the failures are: 1.0 where exactly the same specs fail."""

    bug: str
    likeness: float
    story: str
    where: str

    def __str__(self):
        how = "exactly" if self.likeness == 1 else "much"
        return f"fails {how} like '{self.bug.partition('/')[2]}': {self.story} (look at {self.where})"


def suspects(item: str, failed: set[str], root: Path) -> list[Suspect]:
    """The known bugs of an item that fail most alike, the likeliest first; those that tie share the first likeness.

    Args:
        failed: node ids of the item's failed specs.
    """
    file = root / KILLS
    if not file.is_file():
        return []
    kills = json.loads(file.read_text(encoding="utf-8"))
    found = []
    for bug in all_bugs(root):
        name = bug_name(bug)
        if bug["item"] == item and kills.get(name):
            likeness = _likeness(failed, set(kills[name]))
            if likeness >= ENOUGH:
                found.append(Suspect(name, likeness, bug["story"], _where(bug, root)))
    return sorted(found, key=lambda s: -s.likeness)


def _likeness(failed: set[str], killing: set[str]) -> float:
    """Jaccard's index of two sets of specs, of the kinds that were run against the bug."""
    if not any(k.startswith("spec/behaviours/") for k in killing):
        failed = {f for f in failed if not f.startswith("spec/behaviours/")}
    return len(failed & killing) / len(failed | killing)


def _where(bug: dict, root: Path) -> str:
    """The file of the reference, and the line that the bug changes: the right one for comparison."""
    text = (root / bug["file"]).read_text(encoding="utf-8")
    line = text[: max(text.find(bug["find"]), 0)].count("\n") + 1
    return f"{bug['file']}:{line}"
