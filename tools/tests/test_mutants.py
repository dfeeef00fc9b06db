"""Automatic mutants: what counts as one, which code an item rests on, and who else does."""

from pathlib import Path

import pytest

from tools.mutants import Mutant, _is_another_program, _reached, _sharers
from tools.roadmap import ROADMAP, load

CODE = """
class Power(Function):
    @staticmethod
    def forward(ctx, x: float) -> float:
        return x * x
"""


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (("x * x", "x + x"), True),
        (("x * x", "x *"), False),  # no program at all
        (("x: float", "x: int"), False),
        (("-> float", "-> int"), False),
        (("    @staticmethod\n", ""), False),
        (("    def", "    @classmethod\n    def"), True),
    ],
)
def test_a_mutant_computes_something_else(change, counts):
    assert _is_another_program(CODE, CODE.replace(*change)) == counts


@pytest.fixture
def shared(house):
    """Two items over one private module; each has a function of its own there, and both use `both`."""
    house.write("impl/layers/_parts.py", "def both(x):\n    return x\n\n\ndef two(x):\n    return both(x)\n")
    house.write("impl/layers/triple.py", "from ._parts import both\n\n\ndef triple(x):\n    return 3 * both(x)\n")
    house.write("impl/layers/double.py", "from ._parts import two\n\n\ndef Double():\n    return two\n")
    return house


def test_an_item_rests_on_private_parts_that_its_names_use(shared):
    roadmap = load(shared.root / ROADMAP)
    reached = _reached(shared.root / "impl", roadmap, roadmap.find("triple"))
    assert reached == {Path("layers/triple.py"): {4, 5}, Path("layers/_parts.py"): {1, 2}}


def test_code_that_another_item_rests_on_is_its_to_pin_as_well(shared):
    roadmap = load(shared.root / ROADMAP)
    parts, own = Path("layers/_parts.py"), Path("layers/double.py")
    sharers = _sharers(roadmap, shared.root / "impl", roadmap.find("double"), {parts, own})
    assert sharers(Mutant(parts, 2, "", "")) == ("triple",)
    assert sharers(Mutant(parts, 6, "", "")) == ()
    assert sharers(Mutant(own, 5, "", "")) == ()
