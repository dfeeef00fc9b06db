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
    assert "double: neither stated by a spec nor excused in spec/laws.toml: laws of every module, symmetry" in (
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


def mark(house, law):
    """The spec of a value states a law."""
    house.edit("spec/golden/test_double_golden.py", "def test_value", f'@pytest.mark.states("{law}")\ndef test_value')


def test_a_law_is_stated_by_a_mark_or_excused(house, capsys):
    mark(house, 'limiting case", "dependence')
    excused = {"laws of every module", *law_matrix.OWN} - {"limiting case", "dependence"}
    house.write("spec/laws.toml", "".join(LAWS.format(law=n, item="double", rest='why = "a toy"') for n in excused))
    house.run()
    assert laws_of(house, "double") == 0
    said = capsys.readouterr().out
    assert "- cost                                 a toy" in said
    assert "x limiting case                        test_value_at_one" in said


def test_a_lost_mark_is_a_missing_law(house, capsys):
    excused = {"laws of every module", *law_matrix.OWN} - {"limiting case"}
    house.write("spec/laws.toml", "".join(LAWS.format(law=n, item="double", rest='why = "a toy"') for n in excused))
    house.run()
    assert laws_of(house, "double") == 1
    assert "double: neither stated by a spec nor excused in spec/laws.toml: limiting case\n" in capsys.readouterr().out


def test_a_spec_that_states_no_law_of_the_list_fails(house):
    mark(house, "limiting cases")
    result = house.run("--item", "double")
    assert result.ret == 1
    assert "it states 'limiting cases': expected one of symmetry, dependence, limiting case" in result.stdout.str()


@pytest.mark.parametrize(
    ("law", "rest", "complaint"),
    [
        ("cost", 'specs = ["test_value_at_one"]', "expected law (one of symmetry, .*, items and why, found"),
        ("beauty", 'why = "so"', "expected law (one of symmetry, "),
        ("cost", 'why = ""', "items and why, found"),
        ("cost", 'why = "a product"', "cost of double: expected no excuse for what a spec states, found test_value"),
    ],
)
def test_an_excuse_is_for_a_law_that_is_not_stated(house, law, rest, complaint):
    mark(house, "cost")
    house.write("spec/laws.toml", LAWS.format(law=law, item="double", rest=rest))
    house.run()
    with pytest.raises(RoadmapError, match=complaint.replace("(", r"\(")):
        laws_of(house)


def test_without_a_complete_run_there_is_no_matrix(house, capsys):
    assert laws_of(house) == 1
    assert "no complete run of the reference yet" in capsys.readouterr().out
