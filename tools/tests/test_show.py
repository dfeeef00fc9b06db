"""`show` asks the collected specs, and `next` all runs of a subject; both speak of the reader's own package."""

import subprocess
import sys

import pytest

from tools import show
from tools.results import progress
from tools.roadmap import RoadmapError

BUG = '[[bug]]\nitem = "double"\nid = "halves"\nstory = "a half for a double"\n'


def shown(house, capsys, item="double", **options) -> str:
    capsys.readouterr()
    assert show.show(item, root=house.root, **options) == 0
    return capsys.readouterr().out


def test_an_item_is_shown_with_its_own_claims(house, capsys):
    """Marks that have a name, and parameters that are marked, are read as a run reads them."""
    house.edit("spec/properties/test_double_properties.py", "pytestmark = pytest.mark", "of_double = pytest.mark")
    house.edit("spec/properties/test_double_properties.py", "@given", "@of_double\n@given")
    house.write(
        "spec/properties/test_both.py",
        '''
        import pytest

        of_triple = pytest.mark.item("triple")

        @of_triple
        def test_of_triple():
            """Tripling is odd.

            Source: none.
            """
            assert str()

        @pytest.mark.parametrize("n", [pytest.param(n, marks=pytest.mark.item("double")) for n in (1, 2)])
        def test_of_double(n):
            """Doubling is odd.

            Source: Euclid.
            """
            assert n
        ''',
    )
    house.write("spec/bugs/double.toml", BUG)
    said = shown(house, capsys)
    assert "f(x + y) = f(x) + f(y) for every x and y." in said
    assert said.count("Doubling is odd.") == 1 and "Tripling is odd." not in said
    assert "bugs it must resist (1)\n  • halves: a half for a double" in said


def test_laws_are_named_together(house, capsys):
    law = (house.root / "spec/properties/test_double_properties.py").read_text()
    house.write("spec/properties/test_toy_laws.py", law.replace("is_additive", "keeps_sums"))
    said = shown(house, capsys)
    assert "and 1 laws of every module, in spec/properties/test_toy_laws.py\n  keeps sums" in said
    assert said.count("f(x + y)") == 1


def test_a_reader_is_sent_to_the_own_package(house, capsys):
    said = shown(house, capsys)
    assert "write   mine/layers/double.py: Double" in said and "pytest --impl=mine --item double" in said
    assert "impl/" not in said
    assert "write   impl/layers/double.py" in shown(house, capsys, impl="impl")


def test_an_item_without_specs_is_shown(house, capsys):
    assert "no specs yet" in shown(house, capsys, "curve")


def test_specs_that_cannot_be_collected_are_an_error(house):
    house.edit("spec/golden/test_double_golden.py", "import torch", "import nothing_of_this_name")
    with pytest.raises(RoadmapError, match="nothing_of_this_name"):
        show.show("double", root=house.root)


def advice(house, capsys, subject="mine") -> str:
    capsys.readouterr()
    show.suggest(subject, house.root)
    return capsys.readouterr().out.strip()


def test_next_knows_all_runs(house, capsys):
    """Each run looks at a part; what is done, what fails and what waits is the sum of them."""
    assert advice(house, capsys) == "no run of mine yet; start with: pytest --impl=mine"
    house.skeleton()
    house.run("--impl", "mine", "--item", "triple")
    assert advice(house, capsys).startswith(
        "python -m tools show double; write mine/layers/double.py; pytest --impl=mine"
    )
    house.write("mine/layers/double.py", (house.root / "impl/layers/double.py").read_text())
    house.run("--impl", "mine", "--item", "double")
    assert "write mine/layers/triple.py" in advice(house, capsys)
    house.write("mine/layers/triple.py", "def triple(x):\n    return 4 * x\n")
    house.run("--impl", "mine", "--item", "triple")
    house.run("--impl", "mine", "--item", "double")
    assert advice(house, capsys) == "fix triple: pytest --impl=mine --item triple"
    house.write("mine/layers/triple.py", "def triple(x):\n    return 3 * x\n")
    house.run("--impl", "mine")
    assert advice(house, capsys) == "nothing waits: every specified item is done"


def test_a_part_of_an_items_specs_changes_no_status_but_by_a_failure(house):
    house.run("--item", "triple")
    house.run("--item", "triple", "-k", "additive")
    assert progress(house.root, "impl")["triple"].status == "done"
    house.edit("impl/layers/triple.py", "3 * x", "3 * x + 1")
    house.run("--item", "triple", "-k", "additive")
    assert progress(house.root, "impl")["triple"].status == "failed"


def test_what_the_tuned_forms_borrow_is_no_work(house, capsys):
    house.write("fast/layers/double.py", (house.root / "impl/layers/double.py").read_text())
    result = house.run("--impl", "fast")
    assert result.ret == 0
    said = result.stdout.str()
    assert "borrowed from the reference (1)" in said and "not done" not in said and "next" not in said
    assert advice(house, capsys, "fast") == "nothing waits: every specified item is done"


def test_a_reader_that_stops_reading_sees_no_traceback():
    """`python -m tools … | head -1`."""
    code = "import sys, tools.__main__ as t; t._run = lambda _: print('x' * 9999999) or 0; sys.exit(t.main(['lint']))"
    reader = "import sys; sys.stdin.read(1)"
    with subprocess.Popen([sys.executable, "-c", reader], stdin=subprocess.PIPE) as head:
        done = subprocess.run([sys.executable, "-c", code], stdout=head.stdin, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "" and done.returncode == 141
