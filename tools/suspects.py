"""Names the likely mistake: the known bugs whose failed specs are most like those of a run."""

import json
from dataclasses import dataclass
from pathlib import Path

from tools.bugs import KILLS, all_bugs, bug_name
from tools.results import is_structural

# Below this likeness a name would be a guess.
ENOUGH = 0.5


@dataclass(frozen=True)
class Suspect:
    """A known bug and how alike the failures are: 1.0 where exactly the same specs fail."""

    bug: str
    likeness: float
    story: str
    where: str


def likely_mistakes(item: str, specs: list[dict], root: Path, where: str | None = None) -> list[str]:
    """What the failed specs of an item are like, in a line each; none where nothing is like them.

    Args:
        specs: those of the item that were asked of the subject, with outcome and evidence. Where as many failed for a
            name or an argument that is not there as for a wrong value, no value is to blame.
        where: the file to look at; None for the reference's, in which the bugs are known.
    """
    broken = [s for s in specs if s["outcome"] == "failed"]
    if 2 * sum(is_structural(s["evidence"]) for s in broken) >= len(broken):
        return []
    ran = {s["nodeid"] for s in specs if s["outcome"] in ("passed", "failed")}
    ranked = suspects(item, {s["nodeid"] for s in broken}, ran, root)
    first = [s for s in ranked if s.likeness == ranked[0].likeness][:3]
    # One failed spec, or several bugs that fail as this does, is evidence, and no proof.
    exact = len(first) == 1 and first[0].likeness == 1 and len(broken) > 1
    how = "fails exactly like" if exact else "may be" if len(first) == 1 else f"may be one of {len(first)}:"
    return [f"{how} '{s.bug.partition('/')[2]}': {s.story} (look at {where or s.where})" for s in first]


def suspects(item: str, failed: set[str], ran: set[str], root: Path) -> list[Suspect]:
    """The known bugs of an item that fail most alike, the likeliest first; those that tie share the first likeness.

    Args:
        failed: node ids of the item's failed specs.
        ran: of those that passed or failed. What was not asked, a convention of the project say, could not fail.
    """
    file = root / KILLS
    if not file.is_file():
        return []
    kills = json.loads(file.read_text(encoding="utf-8"))
    found = []
    for bug in all_bugs(root):
        name = bug_name(bug)
        if bug["item"] == item and kills.get(name):
            likeness = _likeness(failed, set(kills[name]) & ran)
            if likeness >= ENOUGH:
                found.append(Suspect(name, likeness, bug["story"], _where(bug, root)))
    return sorted(found, key=lambda s: -s.likeness)


def _likeness(failed: set[str], killing: set[str]) -> float:
    """Jaccard's index of two sets of specs, of the kinds that were run against the bug."""
    if not any(k.startswith("spec/behaviours/") for k in killing):
        failed = {f for f in failed if not f.startswith("spec/behaviours/")}
    return len(failed & killing) / len(failed | killing) if killing else 0


def _where(bug: dict, root: Path) -> str:
    """The file of the reference, and the line that the bug changes: the right one for comparison."""
    text = (root / bug["file"]).read_text(encoding="utf-8")
    line = text[: max(text.find(bug["find"]), 0)].count("\n") + 1
    return f"{bug['file']}:{line}"
