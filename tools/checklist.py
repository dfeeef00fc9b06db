"""CHECKLIST.md."""
import re
from pathlib import Path
def ticked(root: Path) -> set[str]:
    file = root / "CHECKLIST.md"
    if not file.is_file():
        return set()
    return set(re.findall(r"^\s*- \[x\] .*?`([a-z0-9-]+)`", file.read_text(encoding="utf-8"), re.MULTILINE))
