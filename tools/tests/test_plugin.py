"""Subjects, choice of items, the report and its commands, and the same answer from workers as from one process."""

import re
import shlex

import pytest
from test_false_green import status_of, text_of

from tools import results
from tools.report import lines
from tools.roadmap import load


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
