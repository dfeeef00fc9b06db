"""The matrix of items and laws: found in the specs, named by hand, excused, or missing."""

import pytest

from tools import law_matrix
from tools.roadmap import RoadmapError

LAWS = '[[law]]\nlaw = "{law}"\nitems = ["{item}"]\n{rest}\n'


def laws_of(house, *items):
    return law_matrix.main(list(items), house.root)


def test_what_is_neither_stated_nor_excused_is_missing(house, capsys):
    house.run()
    assert laws_of(house) == 1
    assert "double: neither stated nor excused in spec/laws.toml: laws of every module, symmetry" in (
        capsys.readouterr().out
    )


def test_a_spec_states_the_law_that_it_calls(house, capsys):
    spec = "spec/properties/test_double_properties.py"
    house.edit(spec, "laws.assert_close(Double()(x + y)", "helper(Double()(x + y)")
    helper = "\n\ndef helper(a, b):\n    laws.invariant(lambda x: 0 * x, b, lambda x: x)\n    laws.assert_close(a, b)\n"
    file = house.root / spec
    file.write_text(file.read_text() + helper)
    house.run()
    laws_of(house, "double")
    assert "x symmetry                             test_is_additive" in capsys.readouterr().out


def test_a_law_is_stated_or_excused_by_hand(house, capsys):
    stated = dict.fromkeys(law_matrix.OWN, 'specs = ["test_value_at_one"]')
    stated |= {"cost": 'why = "a product"', "laws of every module": 'why = "a toy"'}
    house.write("spec/laws.toml", "".join(LAWS.format(law=n, item="double", rest=r) for n, r in stated.items()))
    house.run()
    assert laws_of(house, "double") == 0
    said = capsys.readouterr().out
    assert "- cost                                 a product" in said
    assert "x limiting case                        test_value_at_one" in said


@pytest.mark.parametrize(
    ("law", "rest", "complaint"),
    [
        ("cost", 'specs = ["test_gone"]', "expected a spec of it, found 'test_gone'"),
        ("beauty", 'why = "so"', "expected one of symmetry, "),
        ("cost", "", "with `specs` or `why`"),
    ],
)
def test_what_laws_toml_names_exists(house, law, rest, complaint):
    house.write("spec/laws.toml", LAWS.format(law=law, item="double", rest=rest))
    house.run()
    with pytest.raises(RoadmapError, match=complaint):
        laws_of(house)


def test_without_a_complete_run_there_is_no_matrix(house, capsys):
    assert laws_of(house) == 1
    assert "no complete run of the reference yet" in capsys.readouterr().out
