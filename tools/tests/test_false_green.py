"""No box can be ticked by testing less: every way we know to turn green without being right is caught."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spec import golden, laws, scratch
from tools import checklist, results

REPOSITORY = Path(__file__).parents[2]


def text_of(result: pytest.RunResult) -> str:
    return result.stdout.str() + result.stderr.str()


def status_of(house, item: str, subject: str = "impl", complete: bool = True) -> str:
    return results.read(results.path_of(house.root, subject, complete)).statuses[item].status


def test_right_code_under_all_its_specs_is_done(house):
    result = house.run()
    assert result.ret == 0
    assert "2 of 3 done" in text_of(result)
    assert [status_of(house, i) for i in ("double", "triple", "curve")] == ["done", "done", "pending"]


def test_empty_skeleton_is_pending_and_nothing_else(house):
    house.skeleton()
    result = house.run("--impl", "mine")
    assert result.ret == 0
    assert "0 of 3 done · 3 pending" in text_of(result)
    result.assert_outcomes()  # nothing passed, nothing failed


def test_empty_skeleton_of_the_repository_is_pending_and_nothing_else(tmp_path):
    """Against a subject that holds no code of any item, no spec of the repository fails, and none of an item passes.

    The specs of a foundation that came along whole may pass: its code is there.
    """
    from tools import results, scaffold

    target = tmp_path / "mine"
    assert scaffold.main(str(target), REPOSITORY) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-n0", f"--impl={target}", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 of 77 done · 77 pending" in done.stdout
    result = results.read(results.path_of(REPOSITORY, str(target)))
    results.path_of(REPOSITORY, str(target)).unlink()
    assert {s["outcome"] for s in result.specs} <= {"pending", "passed"}
    foundations = {f.stem: f for f in (target / "layers").glob("*.py") if "NotImplementedError" not in f.read_text()}
    public = {n.name for f in foundations.values() for n in ast.parse(f.read_text()).body if hasattr(n, "name")}
    passed = {s["nodeid"] for s in result.specs if s["outcome"] == "passed"}
    # Of the laws that all modules share, a record's name tells whose they are: test_laws.py::test_x[item:Embedding].
    theirs = {i for i in passed if Path(i.partition("::")[0]).stem.removeprefix("test_") in foundations}
    theirs |= {i for i in passed if (found := re.search(r"test_laws.py::\w+\[[\w-]+:(\w+)", i)) and found[1] in public}
    assert passed == theirs, f"{passed - theirs} pass without code"


def test_wrong_code_fails_with_claim_source_counterexample_and_command(house):
    house.edit("impl/layers/triple.py", "3 * x", "3 * x + (x > 2)")
    result = house.run()
    shown = text_of(result)
    assert result.ret == 1
    assert status_of(house, "triple") == "failed"
    for part in (
        "f(x + y) = f(x) + f(y) for every x and y.",
        "Euclid, book V, proposition 1.",
        "smallest counterexample:",
        "pytest --item triple -k test_is_additive",
    ):
        assert part in shown


def test_deleted_spec_file_is_missed(house):
    house.tick("double", "triple")
    assert house.run().ret == 0
    (house.root / "spec/golden/test_double_golden.py").unlink()
    result = house.run()
    assert result.ret == 1
    assert "double is done by spec/done.toml but incomplete: no spec under spec/golden" in " ".join(
        text_of(result).split()
    )


def test_item_without_a_spec_of_each_kind_is_not_done(house):
    (house.root / "spec/behaviours/test_double_behaviours.py").unlink()
    assert house.run().ret == 0
    assert status_of(house, "double") == "incomplete"


@pytest.mark.parametrize(
    "how",
    [
        "@pytest.mark.skip(reason='later')\n@given",
        "@pytest.mark.skipif(True, reason='later')\n@given",
        "@pytest.mark.xfail(reason='later')\n@given",
        "@pytest.mark.xfail(run=False, reason='later')\n@given",
    ],
)
def test_skipped_spec_fails(house, how):
    house.edit("spec/properties/test_double_properties.py", "@given", how)
    result = house.run()
    assert result.ret == 1
    assert status_of(house, "double") == "failed"
    assert status_of(house, "triple") == "done"


def test_expected_failure_that_fails_is_a_failure(house):
    house.edit("spec/properties/test_double_properties.py", "@given", "@pytest.mark.xfail(reason='later')\n@given")
    house.edit("impl/layers/double.py", "self.factor * input", "self.factor * input + 1")
    assert house.run().ret == 1
    assert status_of(house, "double") == "failed"


def test_skip_from_within_fails(house):
    house.edit("spec/golden/test_double_golden.py", "    laws.", "    pytest.skip('later')\n    laws.")
    assert house.run().ret == 1
    assert status_of(house, "double") == "failed"


def test_module_that_skips_itself_is_missed(house):
    file = "spec/golden/test_double_golden.py"
    house.edit(file, "import torch", "import torch\npytest.skip('later', allow_module_level=True)")
    result = house.run()
    assert result.ret == 1
    assert "could not be collected" in text_of(result)
    assert status_of(house, "double", complete=False) == "partial"


@pytest.mark.parametrize(
    "choice",
    [
        ("-k", "not additive"),
        ("-k", "nothing_of_that_name"),
        ("--deselect", "spec/golden/test_double_golden.py::test_value_at_one"),
        ("spec/properties",),
        ("spec/properties/test_double_properties.py",),
    ],
)
def test_deselected_specs_tick_no_box(house, choice):
    house.run(*choice)
    assert not results.path_of(house.root, "impl").exists(), "a partial run must not leave a complete result"
    partial = results.path_of(house.root, "impl", complete=False)
    assert not partial.exists() or results.read(partial).statuses["double"].status == "partial"


def test_stopping_early_ticks_no_box(house):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    house.run("-x", "-p", "no:randomly")
    assert not results.path_of(house.root, "impl").exists()


@pytest.mark.parametrize(
    "body", ["pass", "...", "x + y", "assert True", "Double()(x)", "laws.jacobian(Double(), x)[0]"]
)
def test_spec_that_asserts_nothing_fails(house, body):
    house.edit(
        "spec/properties/test_double_properties.py",
        "laws.assert_close(Double()(x + y), Double()(x) + Double()(y))",
        body,
    )
    result = house.run()
    assert result.ret == 1
    assert "it asserts nothing" in text_of(result)
    assert status_of(house, "double") == "failed"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('    """f(x + y)', '    f"""f(x + y)', "no docstring"),
        ("    Source: Euclid", "    From: Euclid", "names no Source"),
        ('item("double")', 'item("duoble")', "did you mean 'double'?"),
        ('pytest.mark.item("double")', "[]", "names no roadmap item"),
    ],
)
def test_what_is_no_spec_fails(house, old, new, complaint):
    house.edit("spec/properties/test_double_properties.py", old, new)
    result = house.run()
    assert result.ret == 1
    assert complaint in " ".join(text_of(result).split())


def test_checklist_refuses_a_missing_result(house, capsys):
    assert checklist.main(True, house.root) == 1
    assert "no complete run" in capsys.readouterr().out
    assert not (house.root / "CHECKLIST.md").exists()


@pytest.mark.parametrize(
    ("path", "old", "new", "complaint"),
    [
        ("impl/layers/triple.py", "3 * x", "x * 3", "the implementation has changed"),
        ("spec/golden/test_triple_golden.py", "3.0", "3.00", "the specs have changed"),
    ],
)
def test_checklist_refuses_a_stale_result(house, capsys, path, old, new, complaint):
    house.run()
    assert checklist.main(True, house.root) == 0
    house.edit(path, old, new)
    assert checklist.main(False, house.root) == 1
    assert checklist.main(True, house.root) == 1
    assert complaint in capsys.readouterr().out


def test_checklist_refuses_a_partial_result(house, capsys):
    """Also one that was renamed to look complete."""
    house.run("--item", "double")
    partial = results.path_of(house.root, "impl", complete=False)
    partial.rename(results.path_of(house.root, "impl"))
    assert checklist.main(True, house.root) == 1
    assert "not of a complete run" in capsys.readouterr().out


def test_checklist_refuses_a_failed_run(house, capsys):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    house.run()
    assert checklist.main(True, house.root) == 1
    assert "failed (triple)" in capsys.readouterr().out


def test_checklist_refuses_somebody_elses_result(house):
    house.skeleton()
    house.run("--impl", "mine")
    results.path_of(house.root, "mine").rename(results.path_of(house.root, "impl"))
    assert checklist.main(True, house.root) == 1


def test_checklist_edited_by_hand_is_noticed(house, capsys):
    house.run()
    checklist.main(True, house.root)
    assert checklist.main(False, house.root) == 0
    house.edit("CHECKLIST.md", "|   | Curves `curve`", "| ✓ | Curves `curve`")
    assert checklist.main(False, house.root) == 1


def test_an_item_called_done_that_no_spec_has_earned_is_noticed(house):
    house.run()
    checklist.main(True, house.root)
    assert house.run().ret == 0
    done = house.root / "spec/done.toml"
    done.write_text(done.read_text() + 'curve = { claims = 1, hash = "" }\n')
    assert checklist.main(False, house.root) == 1
    result = house.run()
    assert result.ret == 1
    assert "curve is done by spec/done.toml but pending" in " ".join(text_of(result).split())


def test_a_changed_run_does_not_count(house):
    """A file that changes while the specs run leaves no complete result."""
    file = "spec/behaviours/test_triple_behaviours.py"
    house.edit(
        file, "    laws.", "    import pathlib\n    pathlib.Path('impl/layers/late.py').write_text('')\n    laws."
    )
    house.run()
    assert not results.path_of(house.root, "impl").exists()


@pytest.mark.parametrize("name", ["nothing_here", "no.such.package", "torch.zeros", "./nowhere"])
def test_unknown_subject_is_an_error(house, name):
    result = house.run("--impl", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "found neither" in text_of(result)


def test_folder_without_code_is_no_subject(house):
    (house.root / "empty").mkdir()
    result = house.run("--impl", "empty")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_linked_folder_borrows_the_reference(house):
    os.symlink(house.root / "impl", house.root / "mine")
    result = house.run("--impl", "mine")
    assert "0 of 3 done" in text_of(result)
    assert status_of(house, "double", "mine") == "borrowed"


def test_linked_file_borrows_the_reference(house):
    house.skeleton()
    (house.root / "mine/layers/triple.py").unlink()
    os.symlink(house.root / "impl/layers/triple.py", house.root / "mine/layers/triple.py")
    house.run("--impl", "mine")
    assert status_of(house, "triple", "mine") == "borrowed"


def test_subclass_of_the_reference_borrows_it(house):
    house.skeleton()
    house.write(
        "mine/layers/double.py",
        f"""
        import importlib.util
        spec = importlib.util.spec_from_file_location("theirs", {str(house.root / "impl/layers/double.py")!r})
        theirs = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(theirs)

        class Double(theirs.Double):
            pass
        """,
    )
    house.run("--impl", "mine")
    assert status_of(house, "double", "mine") == "borrowed"


def test_borrowing_lends_but_never_counts(house):
    """With --borrow the lent code runs beneath the subject's own, and its items stay open."""
    house.skeleton()
    house.write(
        "mine/layers/triple.py",
        """
        from .double import Double

        def triple(x):
            return Double()(x) + x
        """,
    )
    assert house.run("--impl", "mine").ret == 0
    assert status_of(house, "triple", "mine") == "pending"
    result = house.run("--impl", "mine", "--borrow")
    assert status_of(house, "triple", "mine") == "done" or "double" in text_of(result)
    assert status_of(house, "double", "mine") == "borrowed"
    assert "borrowed from the reference" in text_of(result)


def test_copied_module_is_the_subjects_own(house):
    """Exactly the items that the copy carries turn done."""
    house.skeleton()
    house.write("mine/layers/double.py", (house.root / "impl/layers/double.py").read_text())
    result = house.run("--impl", "mine")
    assert result.ret == 0
    assert "1 of 3 done · 2 pending" in text_of(result)
    assert status_of(house, "double", "mine") == "done"


def test_unknown_item_is_an_error_that_names_the_nearest(house):
    result = house.run("--item", "duoble")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "did you mean 'double'?" in text_of(result)


def test_not_implemented_in_torch_is_not_pending(house):
    """Only the subject's own NotImplementedError waits; torch raises that type for its own reasons."""
    house.edit("impl/layers/triple.py", "return 3 * x", "return 3 * x.to('meta').cpu()")
    assert house.run().ret == 1
    assert status_of(house, "triple") == "failed"


def test_pending_item_that_is_ticked_fails_the_reference(house):
    house.tick("double", "triple")
    house.edit("impl/layers/triple.py", "return 3 * x", "raise NotImplementedError")
    result = house.run()
    assert result.ret == 1
    assert "triple is done by spec/done.toml but pending" in " ".join(text_of(result).split())
    assert house.run("--item", "triple").ret == 1


def test_module_that_cannot_be_imported_fails_its_items_only(house):
    house.write("impl/layers/triple.py", "import nothing_of_this_name\n")
    result = house.run()
    assert result.ret == 1
    assert [status_of(house, i) for i in ("double", "triple")] == ["done", "failed"]
    assert "nothing_of_this_name" in text_of(result)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda x: 3 * x / x.sub(x), "NaN or infinite"),
        (lambda x: (3 * x).double(), "dtype"),
        (lambda x: (3 * x).unsqueeze(0), "shape"),
        (lambda x: (3 * x)[:1], "shape"),
        (lambda x: 3.0, "tensor"),
        (lambda x: 3 * x + 1e-3, "not close"),
    ],
)
def test_comparison_rejects_what_is_not_the_same(wrong, complaint):
    x = torch.ones(3)
    with pytest.raises(AssertionError, match=complaint):
        laws.assert_close(wrong(x), 3 * x)


def test_wide_tolerance_needs_a_reason():
    with pytest.raises(ValueError, match="because"):
        laws.assert_close(torch.ones(3), torch.ones(3), atol=1e-2)


@pytest.mark.parametrize("wrong", ["x * float('nan') * 3", "(3 * x).double().float().half()", "(3 * x)[None]"])
def test_implementation_with_nan_dtype_or_shape_bug_fails(house, wrong):
    house.edit("impl/layers/triple.py", "3 * x", wrong)
    house.run()
    assert status_of(house, "triple") == "failed"


def _frozen(folder: Path) -> Path:
    """A golden file with provenance, as the tool writes it."""
    from tools.golden import _as_toml, _freeze

    recipe = golden.Recipe()
    recipe.given("x", np.arange(3.0))
    recipe.expect("y", 2 * np.arange(3.0))
    source = golden.Source("double", "arithmetic", None, ("numpy",), lambda r: None)
    record = {"double": _freeze(golden, "double", source, recipe, folder)}
    (folder / "provenance.toml").write_text(_as_toml(record))
    return folder / "double.npz"


def test_golden_values_are_read_back(tmp_path):
    _frozen(tmp_path)
    values = golden.read("double", tmp_path)
    values.check("y", 2 * values["x"])
    with pytest.raises(AssertionError, match="golden y"):
        values.check("y", 2 * values["x"] + 1e-9)


def test_missing_golden_file_fails(tmp_path):
    _frozen(tmp_path).unlink()
    with pytest.raises(golden.GoldenError, match="found none"):
        golden.read("double", tmp_path)


def test_golden_file_changed_by_hand_fails(tmp_path):
    file = _frozen(tmp_path)
    np.savez(file, x=np.arange(3.0), y=2.1 * np.arange(3.0))
    with pytest.raises(golden.GoldenError, match="edited"):
        golden.read("double", tmp_path)


def test_golden_file_with_a_pickle_fails(tmp_path):
    file = _frozen(tmp_path)
    np.savez(file, x=np.arange(3.0), y=np.array([{"a": 1}], dtype=object))
    with pytest.raises(golden.GoldenError, match="plain arrays"):
        golden.read("double", tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn.functional as F\ny = F.relu",
        "from torch.nn import functional\n",
        "from torch.nn.functional import gelu\n",
        "import torch\ny = torch.nn.functional.layer_norm",
        "from torch import nn\ny = nn.Linear(2, 3)",
        "from torch.nn import Linear\n",
        "from torch import nn\ny = nn.init.zeros_",
        "import torch\ny = torch.layer_norm",
        "import torch\ny = torch.ops.aten.gelu",
        "import torch\ny = getattr(torch.nn, 'Linear')",
        "from torch.optim import AdamW\n",
        "from torch.library import Library\n",
        "import transformers\n",
        "import numpy\n",
    ],
)
def test_source_that_is_not_from_scratch_is_named(tmp_path, source):
    file = tmp_path / "layer.py"
    file.write_text(source)
    assert scratch.violations(file)


@pytest.mark.parametrize(
    "source",
    [
        "import math\nimport torch\nfrom torch import Tensor, nn\nclass A(nn.Module): pass\n",
        "import torch\ny = torch.special.erf\nz = torch.softmax\nw = torch.linalg.qr\nv = torch._foreach_add_",
        "from torch.optim import Optimizer\n",
        "from torch.library import custom_op\n",
        "from torch import nn\nm = nn.ModuleList([nn.Parameter, nn.Sequential])",
    ],
)
def test_source_from_scratch_is_accepted(tmp_path, source):
    file = tmp_path / "layer.py"
    file.write_text(source)
    assert scratch.violations(file) == []


@pytest.mark.parametrize(
    "wrong",
    [
        torch.nn.functional.gelu,
        torch.nn.functional.silu,
        lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
        lambda x: torch.nn.functional.conv1d(x[None], torch.ones(1, 4, 1)),
        torch.nn.Softplus(),
    ],
)
def test_dispatch_that_is_not_from_scratch_is_named(wrong):
    with pytest.raises(AssertionError, match="elementary operators only"):
        scratch.dispatch_is_from_scratch(lambda: wrong, (torch.randn(4, 5),))


def command(house, *arguments: str) -> subprocess.CompletedProcess:
    """One run as a user starts it, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_XDIST_WORKER"}
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(line, cwd=house.root, env=environment, capture_output=True, text=True, timeout=120)


def test_a_command_ends_with_the_status_of_its_run(house):
    assert command(house, "-n0", "--item", "triple").returncode == 0
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    assert command(house, "-n0", "--item", "triple").returncode == 1
    assert command(house, "--item", "nothing").returncode == pytest.ExitCode.USAGE_ERROR
    assert command(house, "--version").returncode == 0


def test_leaving_while_it_is_imported_is_no_success(house):
    house.edit("impl/layers/triple.py", "from torch", "import os\n\nos._exit(0)\nfrom torch")
    done = command(house, "-n0")
    assert done.returncode == 1 and "left before its end" in done.stderr


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_leaving_while_a_spec_runs_is_no_success(house, workers):
    house.edit("impl/layers/triple.py", "return 3", "import os\n\n    os._exit(0)\n    return 3")
    assert command(house, workers, "--item", "triple").returncode == 1
    assert not results.path_of(house.root, "impl").exists()


def test_a_status_that_is_changed_after_the_run_is_not_passed_on(house):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    house.edit("impl/layers/triple.py", "from torch", "import atexit, os\n\natexit.register(os._exit, 0)\nfrom torch")
    assert command(house, "-n0").returncode == 1


@pytest.mark.parametrize("factor", [3, 4])
def test_ending_the_session_with_success_is_no_success(house, factor):
    """Whether a spec has failed before, or none has."""
    leaving = f"import pytest\n    if x.dim() == 1 and len(x) == 3:\n        pytest.exit('x', 0)\n    return {factor}"
    house.edit("impl/layers/triple.py", "return 3", leaving)
    result = house.run()
    assert result.ret == 1
    assert "the run ended early" in " ".join(text_of(result).split())
    assert not results.path_of(house.root, "impl").exists()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_replacing_what_runs_specs_is_no_success(house, workers):
    house.edit("impl/layers/triple.py", "3 * x", "4 * x")
    replaced = "from _pytest.python import Function\n\nFunction.runtest = lambda self: None\nfrom torch"
    house.edit("impl/layers/triple.py", "from torch", replaced)
    done = command(house, workers)
    assert done.returncode == 1
    assert "_pytest.python.Function.runtest replaced" in " ".join(done.stdout.split())
    assert not results.path_of(house.root, "impl").exists()
    assert status_of(house, "triple", complete=False) == "failed"


def test_a_subject_elsewhere_may_be_named_after_a_space(house, tmp_path_factory):
    """pytest takes the path for one to collect from, and looks for its root there."""
    from tools import scaffold

    folder = tmp_path_factory.mktemp("elsewhere") / "mine"
    scaffold.main(str(folder), house.root)
    done = command(house, "-n0", "--impl", str(folder), "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 3 done" in done.stdout
