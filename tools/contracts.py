"""What the contracts of spec/cases promise, in words: for `show` and for the skeleton."""

import sys
from pathlib import Path

from tools import subject


def promises(root: Path, item: str | None = None) -> dict[str, list[str]]:
    """Public name → its contract, a line each: of an item, or of all; none where the repository has no contracts."""
    found = [c for c in all_contracts(root) if item in (None, c.item)]
    if not found:
        return {}
    from spec import contract

    return {c.name: contract.in_words(c) for c in found}


def all_contracts(root: Path) -> list:
    """The contracts of a repository; none where it has no cases."""
    if not (root / "spec" / "cases" / "__init__.py").is_file():
        return []
    sys.path.insert(0, str(root))
    subject.install(subject.resolve(subject.PACKAGE, root), check_shapes=False)
    from spec import cases

    return cases.all_contracts()
