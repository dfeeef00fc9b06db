"""The catalogue of bugs: caught, surviving, stale or crashing, each is told apart."""

import json
import subprocess
import sys

import pytest

BUG = """
[[bug]]
item = "triple"
id = "{id}"
story = "a story"
file = "impl/layers/triple.py"
find = "{find}"
replace = "{replace}"
"""


SPEC_THAT_ALWAYS_FAILS = '''

def test_of_nothing():
    """Three is four.

    Source: none.
    """
    assert triple(1.0) == 4
'''


def strength(house, *bugs, items=(), options=()):
    """In a process of its own: it forks."""
    house.write("spec/bugs/triple.toml", "".join(BUG.format(id=i, find=f, replace=r) for i, f, r in bugs))
    command = [sys.executable, "-m", "tools", "strength", *[a for i in items for a in ("--item", i)], *options]
    return subprocess.run(command, cwd=house.root, capture_output=True, text=True)


def test_caught_bug_is_recorded_with_its_killing_specs(house):
    done = strength(house, ("four", "3 * x", "4 * x"))
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads((house.root / "spec/bugs/kills.json").read_text())
    assert kills == {"triple/four": ["spec/golden/test_triple_golden.py::test_value_at_one"]}


def test_behaviours_run_only_where_the_others_let_a_bug_live(house):
    (house.root / "spec/golden/test_triple_golden.py").unlink()
    strength(house, ("four", "3 * x", "4 * x"))
    kills = json.loads((house.root / "spec/bugs/kills.json").read_text())
    assert kills == {"triple/four": ["spec/behaviours/test_triple_behaviours.py::test_grows_step_by_step"]}


@pytest.mark.parametrize(
    ("bug", "complaint"),
    [
        (("same", "3 * x", "x * 3"), "triple/same survives: a story"),
        (("stale", "5 * x", "4 * x"), "expected `find` exactly once in impl/layers/triple.py, found 0"),
        (("crash", "3 * x", "x.nothing"), "is killed by crashes alone"),
    ],
)
def test_what_is_no_proof_is_an_error(house, bug, complaint):
    done = strength(house, bug)
    assert done.returncode == 1
    assert complaint in done.stdout


def test_a_spec_that_rejects_the_reference_catches_nothing(house):
    """It would catch every bug: the proof is void, and the matrix stays as it was."""
    golden = house.root / "spec/golden/test_triple_golden.py"
    golden.write_text(golden.read_text() + SPEC_THAT_ALWAYS_FAILS)
    done = strength(house, ("same", "3 * x", "x * 3"))
    assert done.returncode == 1
    assert "spec/golden/test_triple_golden.py::test_of_nothing fails without any bug" in done.stdout
    assert not (house.root / "spec/bugs/kills.json").is_file()


def test_specs_that_add_nothing_are_hinted_at(house):
    """A spec that alone catches a bug is not named; whatever catches nothing, or only what others catch, is."""
    done = strength(house, ("four", "3 * x", "4 * x"))
    hints = [line for line in done.stdout.splitlines() if line.startswith("hint")]
    assert any("test_triple_properties.py catch nothing that others do not: test_is_additive" in h for h in hints)
    assert not any("test_triple_golden.py" in h for h in hints)


def test_partial_run_renews_its_rows_of_the_matrix(house):
    house.write(
        "spec/bugs/double.toml", BUG.format(id="x", find="factor = 2", replace="factor = 4").replace("triple", "double")
    )
    house.write("spec/bugs/kills.json", '{"double/x": ["kept"], "triple/four": ["old"], "triple/gone": ["old"]}')
    assert strength(house, ("four", "3 * x", "4 * x"), items=["triple"]).returncode == 0
    assert json.loads((house.root / "spec/bugs/kills.json").read_text()) == {
        "double/x": ["kept"],
        "triple/four": ["spec/golden/test_triple_golden.py::test_value_at_one"],
    }


def test_recorded_killing_specs_are_run_and_no_others(house):
    """A matrix that names a spec which no longer catches the bug is stale, and so is one without the bug."""
    bug = ("four", "3 * x", "4 * x")
    strength(house, bug)
    assert strength(house, bug, options=["--recorded"]).returncode == 0
    house.write(
        "spec/bugs/kills.json", '{"triple/four": ["spec/properties/test_triple_properties.py::test_is_additive"]}'
    )
    done = strength(house, bug, options=["--recorded"])
    assert done.returncode == 1 and "is no longer killed by what" in done.stdout
    house.write("spec/bugs/kills.json", '{"triple/four": ["spec/golden/test_triple_golden.py::test_renamed"]}')
    done = strength(house, bug, options=["--recorded"])
    assert done.returncode == 1 and "is one of these gone" in done.stderr, done.stdout + done.stderr
    house.write("spec/bugs/kills.json", "{}")
    done = strength(house, bug, options=["--recorded"])
    assert done.returncode == 1 and "has no row" in done.stdout


def test_new_bugs_get_rows_and_others_keep_theirs(house):
    house.write("spec/bugs/kills.json", '{"triple/four": ["what was there"]}')
    done = strength(house, ("four", "3 * x", "4 * x"), ("five", "3 * x", "5 * x"), options=["--new"])
    assert "all 1 bugs caught" in done.stdout, done.stdout + done.stderr
    kills = json.loads((house.root / "spec/bugs/kills.json").read_text())
    assert kills["triple/four"] == ["what was there"] and kills["triple/five"], kills


def test_the_same_name_twice_is_an_error(house):
    done = strength(house, ("four", "3 * x", "4 * x"), ("four", "3 * x", "5 * x"))
    assert done.returncode == 1
    assert "is used 2 times" in done.stdout
