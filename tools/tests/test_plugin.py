"""Subjects, choice of items, the report and its commands, and the same answer from workers as from one process."""

import json
import re
import shlex

import pytest
from test_false_green import status_of, text_of

from tools import results
from tools.report import lines
from tools.roadmap import load
from tools.suspects import likely_mistakes


def test_header_names_the_subject(house):
    shown = text_of(house.run())
    assert re.search(r"subject: impl · impl · [0-9a-f]{12}", shown)
    assert re.search(r"torch \d.* · Hypothesis profile dev", shown)


def test_item_runs_its_specs_only(house):
    result = house.run("--item", "triple")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    assert "[x] triple" in text_of(result)


def test_several_items_and_sections(house):
    house.run("--item", "triple", "--item", "double").assert_outcomes(passed=6)
    house.run("--section", "arith").assert_outcomes(passed=6)
    assert house.run("--section", "nothing").ret == pytest.ExitCode.USAGE_ERROR


def test_item_without_specs_says_so(house):
    result = house.run("--item", "curve")
    assert result.ret == 0
    assert "no specs yet" in text_of(result)


def test_item_skips_files_that_do_not_mention_it(house):
    """So that one item costs seconds, whatever the others import."""
    house.write("spec/properties/test_other.py", "import pytest\npytest.mark.item('double')\nimport does_not_exist\n")
    assert house.run("--item", "triple").ret == 0
    assert house.run("--item", "double").ret != 0


def test_partial_run_keeps_the_complete_result(house):
    house.run()
    complete = results.path_of(house.root, "impl").read_bytes()
    house.run("--item", "triple")
    assert results.path_of(house.root, "impl").read_bytes() == complete
    assert results.path_of(house.root, "impl", complete=False).exists()


def test_result_is_the_same_from_workers_and_in_any_order(house):
    """Byte for byte: nothing in the file depends on who ran what first."""
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    files = []
    for arguments in (["-n0"], ["-n2"], ["-n2", "--dist", "worksteal"]):
        house.run(*arguments, "-p", "xdist", "--hypothesis-profile", "ci")
        files.append(results.path_of(house.root, "impl").read_text())
    assert files[0] == files[1] == files[2]
    assert '"failed": 2' in files[0]


def test_worker_and_process_report_the_same(house):
    shown = [text_of(house.run(*a)).split("= roadmap =")[1].split("next")[0].strip("= \n") for a in (["-n0"], ["-n2"])]
    assert shown[0] == shown[1]


def test_failing_command_reruns_exactly_the_failure(house):
    house.edit("impl/layers/triple.py", "3 * x", "3 * x + (x > 2)")
    shown = text_of(house.run())
    command = re.search(r"again +(pytest .*)", shown).group(1)
    again = house.run(*shlex.split(command)[1:])
    assert again.ret == 1
    again.assert_outcomes(failed=1)


def test_report_fits_80_columns_and_plain_letters(house):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    house.run()
    result = results.read(results.path_of(house.root, "impl"))
    shown = [text for text, _ in lines(result, load(house.root / "spec/roadmap.toml"), unicode=False)]
    assert max(map(len, shown)) <= 80
    assert any(re.match(r"Arithmetic +#+\.+ +1/2", line) for line in shown)


def test_worst_news_first(house):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    shown = text_of(house.run())
    assert shown.index("FAILED triple") < shown.index("waiting for their specs")


def test_next_step_is_to_fix_then_to_write(house):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    assert "fix triple: pytest --item triple" in text_of(house.run())
    house.skeleton()
    shown = text_of(house.run("--impl", "mine"))
    assert "python -m tools show double" in shown


def test_bug_is_a_subject_and_leaves_the_files_alone(house):
    house.write(
        "spec/bugs/triple.toml",
        """
        [[bug]]
        item = "triple"
        id = "adds-once-too-often"
        story = "one summand too many"
        file = "impl/layers/triple.py"
        find = "3 * x"
        replace = "4 * x"
        """,
    )
    before = (house.root / "impl/layers/triple.py").read_text()
    result = house.run("--bug", "triple/adds-once-too-often", "--item", "triple")
    assert result.ret == 1
    assert "subject: bug triple/adds-once-too-often" in text_of(result)
    assert (house.root / "impl/layers/triple.py").read_text() == before
    assert not list(house.root.glob(".results/*bug*"))
    assert house.run("--bug", "triple/nothing").ret == pytest.ExitCode.USAGE_ERROR


def test_peers_are_not_asked_for_project_conventions(house):
    house.edit("spec/golden/test_double_golden.py", "def test_value", "@pytest.mark.project_convention\ndef test_value")
    house.skeleton("spec/peers/other")
    house.write("spec/peers/other/layers/double.py", (house.root / "impl/layers/double.py").read_text())
    house.run("--impl", "spec.peers.other", "--item", "double").assert_outcomes(passed=2)


def test_shapes_are_checked_while_specs_run(house):
    """A jaxtyping annotation that the code breaks is an error of the code."""
    house.edit("impl/layers/double.py", "self.factor * input", "(self.factor * input)[None]")
    result = house.run("--item", "double")
    assert result.ret == 1
    assert "TypeCheckError" in text_of(result)


def test_an_integer_is_a_float(house):
    """`factor: float` takes 2, as every caller expects, and still no word."""
    house.edit("impl/layers/triple.py", "def triple(x: Tensor)", "def triple(x: Tensor, factor: float = 3.0)")
    house.edit("impl/layers/triple.py", "3 * x\n", "factor * x\n")
    house.edit("spec/golden/test_triple_golden.py", "triple(torch.ones(3))", "triple(torch.ones(3), factor=3)")
    assert house.run("--item", "triple").ret == 0
    house.edit("spec/golden/test_triple_golden.py", "factor=3", "factor='3'")
    assert "TypeCheckError" in text_of(house.run("--item", "triple"))


def test_unwritten_code_is_met_once(house):
    """Hypothesis neither repeats nor shrinks code that is not written yet: a skeleton's run stays short."""
    house.skeleton()
    house.edit(
        "spec/properties/test_double_properties.py",
        "    laws.assert_close(",
        '    open("met", "a").write("once")\n    laws.assert_close(',
    )
    assert re.search(r"double +pending", text_of(house.run("--impl", "mine", "--item", "double", "-W", "ignore")))
    assert (house.root / "met").read_text() == "once"


def test_one_item_runs_in_process(house):
    """Starting workers costs more than one item; xdist's own default must not win, whichever plugin loads first."""
    shown = text_of(house.run("-p", "xdist", "-n", "auto", "--item", "triple"))
    assert "worker" not in shown
    assert "3 passed" in shown


def test_subject_in_another_folder(house, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "mine"
    from tools import scaffold

    scaffold.main(str(folder), house.root)
    assert house.run(f"--impl={folder}").ret == 0
    assert status_of(house, "double", str(folder)) == "pending"


def test_a_file_that_is_named_shows_its_tracebacks(house):
    """A test of the machinery is no spec: the closing report has nothing to say of it."""
    house.write("tests/test_tools.py", "def test_sum():\n    assert 1 + 1 == 3\n")
    shown = house.run("-q", "-rN", "tests/test_tools.py").stdout.str()
    assert "test_sum" in shown and "assert (1 + 1) == 3" in shown
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    assert "FAILURES" not in house.run("-q").stdout.str(), "the whole roadmap has a report of its own"


CASES = '''
import pytest

from impl.layers.triple import triple

pytestmark = pytest.mark.item("triple")


@pytest.mark.parametrize("factor", [1, 2], ids=["as it is", "twice"])
def test_refuses_a_word(factor):
    """A word is refused.

    Source: Euclid, book VII.
    """
    word = "three"
    with pytest.raises(TypeError):
        triple(word * factor)
'''


def test_a_call_that_raised_nothing_is_shown_with_its_case(house):
    house.write("spec/golden/test_words.py", CASES)
    house.edit("impl/layers/triple.py", "(x: Tensor) -> Tensor", "(x)")
    shown = text_of(house.run("--item", "triple"))
    assert re.search(r"  case +as it is\n", shown)
    assert "no error from triple(word * factor)" in shown and "with factor = 1, word = 'three'" in shown


def test_few_tracebacks_are_shown_and_none_twice(house):
    """Of specs and subject alone, with the first lines of a long message."""
    house.edit("impl/layers/triple.py", "return 3 * x", "raise ValueError('\\n'.join(map(str, range(99))))")
    one = text_of(house.run("--item", "triple", "--hypothesis-profile", "ci"))
    assert len(re.findall(r"^_+ test_\w+ _+$", one, re.M)) == 1, "the others have the same evidence"
    assert "_pytest" not in one.partition("FAILURES")[2] and "hypothesis/core.py" not in one
    assert "more lines" in one and "2 more failures; --tb=short shows their tracebacks" in one
    assert "3 failed" in one
    all_of_them = text_of(house.run("--item", "triple", "--tb=short", "-W", "ignore"))
    assert len(re.findall(r"^_+ test_\w+ _+$", all_of_them, re.M)) == 3


def test_the_same_failure_of_several_items_is_shown_once(house):
    for item in ("double", "triple"):
        house.write(
            f"impl/layers/{item}.py", "from .common import wrong as " + {"double": "Double"}.get(item, item) + "\n"
        )
    house.write("impl/layers/common.py", "def wrong(*x):\n    raise ValueError('nothing')\n")
    shown = text_of(house.run())
    assert shown.count("  found   ValueError: nothing") == 1
    assert re.search(r"FAILED triple .*\n  found   the same as double: test_is_additive", shown)


def test_pytests_count_is_that_of_the_specs(house):
    law = (house.root / "spec/golden/test_double_golden.py").read_text().replace("test_value", "test_other")
    house.write(
        "spec/golden/test_both.py",
        law + law[law.index("def test") :].replace("def test_other", '\n\n@pytest.mark.item("triple")\ndef test_more'),
    )
    shown = text_of(house.run("--item", "triple"))
    assert re.search(r"collected 5 items / 1 deselected / 4 selected", shown), shown


def broken(item, *evidence, passed=range(0)):
    found = dict(enumerate(evidence)) | dict.fromkeys(passed, "")
    return [
        {
            "nodeid": f"spec/golden/test_{item}.py::test_{n}",
            "outcome": "passed" if n in passed else "failed",
            "evidence": e,
        }
        for n, e in found.items()
    ]


@pytest.fixture
def known(house):
    """Bugs of one item: `a` is killed by the specs 0 and 1, `b` and `c` by 2 and 3."""
    killing = {"a": (0, 1), "b": (2, 3), "c": (2, 3)}
    bug = '[[bug]]\nitem = "triple"\nid = "{}"\nstory = "a story"\nfile = "impl/layers/triple.py"\nfind = "3 * x"\n'
    house.write("spec/bugs/triple.toml", "".join(map(bug.format, killing)))
    kills = {f"triple/{b}": [f"spec/golden/test_triple.py::test_{n}" for n in specs] for b, specs in killing.items()}
    house.write("spec/bugs/kills.json", json.dumps(kills))
    return house.root


WRONG = "AssertionError: value"


def test_a_mistake_is_named_where_its_specs_fail(known):
    found = likely_mistakes("triple", broken("triple", WRONG, WRONG), known)
    assert found == ["fails exactly like 'a': a story (look at impl/layers/triple.py:8)"]
    elsewhere = likely_mistakes("triple", broken("triple", WRONG, WRONG), known, "mine/layers/triple.py")
    assert elsewhere == ["fails exactly like 'a': a story (look at mine/layers/triple.py)"]


def test_a_mistake_is_named_with_care_where_others_fit(known):
    found = likely_mistakes("triple", broken("triple", *[WRONG] * 4)[2:], known)
    assert [f.partition(":")[0] for f in found] == ["may be one of 2"] * 2
    assert likely_mistakes("triple", broken("triple", WRONG, passed=range(1, 4)), known)[0].startswith("may be 'a'")


def test_a_spec_that_was_not_asked_is_no_evidence(known):
    """Of the five specs that kill `d` three are conventions of the project."""
    file = known / "spec/bugs/triple.toml"
    bug = file.read_text().split("[[bug]]")[1].replace('"a"', '"d"')
    file.write_text(f"{file.read_text()}[[bug]]{bug}")
    kills = json.loads((known / "spec/bugs/kills.json").read_text())
    kills["triple/d"] = [f"spec/golden/test_triple.py::test_{n}" for n in range(4, 9)]
    (known / "spec/bugs/kills.json").write_text(json.dumps(kills))
    failed = broken("triple", *[WRONG] * 6, passed=range(4))
    assert likely_mistakes("triple", failed, known)[0].startswith("fails exactly like 'd'")
    assert likely_mistakes("triple", failed + broken("triple", *[WRONG] * 9, passed=range(9))[6:], known) == []
    waiting = [s | {"outcome": "pending"} for s in broken("triple", *[WRONG] * 9)[6:]]
    assert likely_mistakes("triple", failed + waiting, known)[0].startswith("fails exactly like 'd'")


@pytest.mark.parametrize(
    "evidence",
    [
        "KeyError: 'min_val'",
        "AttributeError: no attribute 'multiplier'",
        "ImportError: impl.layers.triple.x: its module cannot be imported",
        "TypeError: triple() got an unexpected keyword argument 'eps'",
        "RuntimeError: Error(s) in loading state_dict for Triple:",
    ],
)
def test_what_is_not_there_is_no_known_mistake(known, evidence):
    assert likely_mistakes("triple", broken("triple", evidence, WRONG), known) == []
    assert likely_mistakes("triple", broken("triple", WRONG, WRONG, evidence), known) != []


CONVENTION = '''
import pytest

from impl.layers.triple import triple


@pytest.mark.item("triple")
@pytest.mark.project_convention
def test_convention_{name}():
    """Its page says what it does.

    Convention: ours.
    """
    assert triple.__doc__
'''


def test_a_reader_is_never_sent_to_the_reference(house):
    house.write(
        "spec/bugs/triple.toml",
        '[[bug]]\nitem = "triple"\nid = "four"\nstory = "a story"\nfile = "impl/layers/triple.py"\nfind = "3 * x"\n',
    )
    kills = ["golden/test_triple_golden.py::test_value_at_one"]
    kills += ["behaviours/test_triple_behaviours.py::test_grows_step_by_step"]
    for n in range(3):  # killing specs as well, but not asked of `mine`
        house.write(f"spec/properties/test_convention_{n}.py", CONVENTION.format(name=n))
        kills.append(f"properties/test_convention_{n}.py::test_convention_{n}")
    house.write("spec/bugs/kills.json", json.dumps({"triple/four": [f"spec/{k}" for k in kills]}))
    house.skeleton()
    house.write("mine/layers/triple.py", "def triple(x):\n    return 4 * x\n")
    shown = " ".join(text_of(house.run("--impl", "mine", "--item", "triple")).split())
    assert "fails exactly like 'four': a story (look at mine/layers/triple.py)" in shown
    assert "impl/layers" not in shown.partition("roadmap =")[2]
