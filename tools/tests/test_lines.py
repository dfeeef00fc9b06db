"""Lines of logic, counted by hand: what is left out, what is followed, and before next to after."""

import subprocess

import pytest

from tools import lines

PAGE = '''
"""A page of 9 lines of logic."""

import math  # 0

from torch import Tensor

from .parts import factor

__all__ = ["triple"]


def triple(x: Tensor) -> Tensor:  # 1
    """y = 3 x.

    Several lines of words.
    """
    check_size(x)
    if x.dim() < 1:
        raise ValueError(
            "expected a dimension"
        )
    elif not x.numel():
        raise ValueError
    if x.dim() == 2:  # 2
        x = x + 0  # 3
    else:  # 4
        # a comment

        x = (  # 5
            x  # 6

        )  # 7
    return factor * x  # 8, and one in the other module


def check_size(x):
    """Not counted."""
    return math.inf


def unused(x):
    return x
'''

PARTS = '''
"""Parts."""

from . import deep

factor = deep.number  # 9
other = 4
'''


def count(house, *names, module="impl.layers.triple"):
    found = lines.logic(house.root / "impl", module, names)
    return None if found is None else len(found)


@pytest.fixture
def page(house):
    house.write("impl/layers/triple.py", PAGE)
    house.write("impl/layers/parts.py", PARTS)
    house.write("impl/layers/deep.py", "import math\n")
    return house


def test_what_is_no_logic_is_left_out(page):
    assert count(page, "triple") == 9


def test_what_the_names_use_is_counted_wherever_it_stands(page):
    """Through a module that was imported, a package's page, and a name that another module hands on."""
    page.write("impl/layers/deep.py", "from .deeper import number\n\nunused = 5\n")
    page.write("impl/layers/deeper/__init__.py", "from ._inner import one as number\n")
    page.write("impl/layers/deeper/_inner.py", "from impl.layers.parts import other\n\none = other - 1\n")
    assert count(page, "triple") == 11  # `one`, and `other` once


def test_a_class_counts_as_a_whole_and_no_representation(page):
    page.write(
        "impl/layers/triple.py",
        '''
        class Base:  # 1
            kind = 3  # 2

            @property  # 3
            def never_called(self):  # 4
                return self.kind  # 5

            def extra_repr(self):
                return unused()

        class triple(Base):  # 6
            """Only words."""

            def __repr__(self):
                return unused()

        def unused():
            return ""
        ''',
    )
    assert count(page, "triple") == 6


def test_a_check_with_another_branch_is_logic(page):
    page.edit("impl/layers/triple.py", "raise ValueError\n", "raise ValueError\n    else:\n        x = x\n")
    assert count(page, "triple") == 9 + 8


def test_a_variable_is_no_name_of_the_module(page):
    page.edit("impl/layers/triple.py", "def unused(x):", "def x():")
    assert count(page, "triple") == 9


def test_what_a_module_does_when_it_is_imported_counts(page):
    page.edit("impl/layers/parts.py", "other = 4", "print(other)  # 10\nother = 4  # 11")
    assert count(page, "triple") == 11


def test_the_module_of_checks_is_left_out(page):
    page.write("impl/layers/checks.py", "def ranges(x):\n    return x\n")
    page.edit("impl/layers/triple.py", "return factor * x", "return factor * ranges(x)")
    page.edit(
        "impl/layers/triple.py", "from .parts import factor", "from .checks import ranges\nfrom .parts import factor"
    )
    assert count(page, "triple") == 9


def test_what_the_subject_does_not_hold_has_no_count(page):
    assert count(page, "missing") is None
    assert count(page, "missing", module="impl.layers.nowhere") is None


def table(capsys):
    """Row → its cells, after the rule."""
    said = capsys.readouterr().out
    assert said.startswith("Counts the lines of logic") and "`check_…`" in said
    rows = [line.split() for line in said.splitlines()[said.splitlines().index("") :]]
    return {row[0]: row[1:] for row in rows if row and (row[-1][-1].isdigit() or row[-1] == "–")}


def test_union_counts_shared_lines_once(page, capsys):
    page.write("impl/layers/double.py", "from .parts import factor\n\n\ndef Double():\n    return factor - 1\n")
    assert lines.main(["double,triple", "triple", "double"], root=page.root) == 0
    assert table(capsys) == {"double,triple": ["11"], "triple": ["9"], "double": ["3"], "all": ["3", "together", "11"]}


def test_before_and_after_stand_side_by_side(page, capsys):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=page.root, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "before")
    page.write("impl/layers/triple.py", "def triple(x):\n    return 3 * x\n")
    page.write("impl/models/curve.py", "def Curve(x):\n    return x\n")
    assert lines.main([], before="HEAD", root=page.root) == 0
    found = table(capsys)
    assert found["triple"] == ["9", "2", "-7"]
    assert found["curve"] == ["–", "2"]
    with pytest.raises(lines.RoadmapError, match="--before nothing"):
        lines.main([], before="nothing", root=page.root)


def test_another_subject_is_counted_without_what_it_borrows(page, capsys):
    page.write("fast/layers/triple.py", "def triple(x):\n    return 3 * x\n")
    assert lines.main([], impl="fast", root=page.root) == 0
    assert table(capsys) == {"triple": ["2"]}
    assert lines.main(["double"], impl="fast", root=page.root) == 1
