"""Every rule of the linter has an example that it finds and one that it lets pass."""

import numpy as np
import pytest

from tools import lint

GOOD = '''
"""Doubling."""

import pytest
import torch
from hypothesis import given

from impl.layers.double import Double
from spec import laws, strategies

pytestmark = pytest.mark.item("double")


@given(x=strategies.tensors(shape=(2,)))
def test_is_odd(x):
    """f(-x) = -f(x).

    Source: Euclid, book V.  Measured: 1.0 right, 0.2 wrong.
    """
    laws.assert_close(Double()(-x), -1 * Double()(x), rtol=1e-6)
'''

# rule → (what to replace in the good spec, by what), each one planted mistake
PLANTED = {
    "compares-with-itself": ("-1 * Double()(x), rtol", "Double()(-x), rtol"),
    "wide-tolerance": ("rtol=1e-6", "rtol=1e-2"),
    "raw-comparison": ("laws.assert_close", "torch.testing.assert_close"),
    "no-claim": (
        '    """f(-x) = -f(x).\n\n    Source: Euclid, book V.  Measured: 1.0 right, 0.2 wrong.\n    """\n',
        "",
    ),
    "no-source": ("Source: Euclid", "From: Euclid"),
    "no-assertion": ("laws.assert_close(Double()(-x), -1 * Double()(x), rtol=1e-6)", "Double()(x)"),
    "wall-clock": ("    laws.", "    import time\n    start = time.perf_counter()\n    laws."),
    "constant-inputs": (
        "@given(x=strategies.tensors(shape=(2,)))\ndef test_is_odd(x):",
        "def test_is_odd(x=None):",
    ),
}


def rules(house) -> set[str]:
    return {f.rule for f in lint.findings(house.root)} - {"too-few-bugs"}


@pytest.fixture
def good(house):
    for path in house.root.glob("spec/*/test_*.py"):
        path.unlink()
    for kind in ("properties", "behaviours"):
        house.write(f"spec/{kind}/test_double_{kind}.py", GOOD)
    golden = GOOD.replace("-1 * Double()(x)", "-2 * x")
    house.write("spec/golden/test_double_golden.py", golden)
    return house


def test_good_specs_pass(good):
    assert rules(good) == set()


@pytest.mark.parametrize("rule", PLANTED)
def test_planted_mistake_is_found(good, rule):
    old, new = PLANTED[rule]
    good.edit("spec/properties/test_double_properties.py", old, new)
    if rule == "constant-inputs":
        good.edit("spec/properties/test_double_properties.py", "    laws.", "    x = torch.ones(2)\n    laws.")
    assert rules(good) == {rule}


def test_reason_allows_a_wide_tolerance(good):
    good.edit("spec/properties/test_double_properties.py", "rtol=1e-6", 'rtol=1e-2, because="bfloat16"')
    assert rules(good) == set()


def test_varied_inputs_beside_constants_pass(good):
    good.edit("spec/properties/test_double_properties.py", "    laws.", "    x = x + torch.ones(2)\n    laws.")
    assert rules(good) == set()


def test_golden_value_from_the_subject_is_found(good):
    good.edit("spec/golden/test_double_golden.py", "-2 * x", "-1 * Double()(x)")
    assert rules(good) == {"oracle-from-the-subject"}


@pytest.mark.parametrize("line", ["import impl.layers.double", "from impl.layers.double import Double"])
def test_recipe_that_imports_the_subject_is_found(good, line):
    good.write("spec/golden/recipes/double.py", "import numpy\n")
    assert rules(good) == set()
    good.write("spec/golden/recipes/double.py", f"{line}\n")
    assert rules(good) == {"oracle-from-the-subject"}


RECIPE = """
import math

import mpmath
import numpy as np
import torch
from scipy.stats import norm


def draws(rng, spread):
    return math.prod(spread) * rng.normal(size=3)


def means(rng):
    return rng.normal(size=(3, 2)).mean(axis=0)


def double(recipe):
    rng = np.random.default_rng(0)
    nodes, weights = np.polynomial.legendre.leggauss(160)
    y = torch.tensor([1.0]).exp()
    left, right = rng.random(4), rng.random(4) @ rng.random((4, 4))
    recipe.given("x", EXPRESSION)
"""
EXACT = (
    "np.linspace(-1, 1, 5)",
    "0.4 * rng.normal(size=y.shape) + left",
    "draws(rng, (2, 3))",
    "[float(mpmath.exp(v)) for v in left.tolist()]",
    "rng.uniform(0, 1, size=len(nodes))",
    "np.exp(left), ulps=4",
)
INEXACT = (
    "np.exp(left)",
    "norm.pdf(left)",
    "2 * weights",
    "right",
    "means(rng)",
    "y",
    "left.sum()",
    "torch.randn(3)",
    "np.outer(left, [1, left @ left])",
    "np.linalg.norm(left)",
)


@pytest.mark.parametrize("expression", EXACT)
def test_given_array_that_every_processor_gets_alike_passes(good, expression):
    good.write("spec/golden/recipes/double.py", RECIPE.replace("EXPRESSION", expression))
    assert rules(good) == set()


@pytest.mark.parametrize("expression", INEXACT)
def test_given_array_of_an_inexact_routine_is_found(good, expression):
    """Another processor computes its last digits along another path, and a given array has no room for that."""
    good.write("spec/golden/recipes/double.py", RECIPE.replace("EXPRESSION", expression))
    assert rules(good) == {"inexact-given"}


def test_threshold_without_measurement_is_found(good):
    good.edit("spec/behaviours/test_double_behaviours.py", "  Measured: 1.0 right, 0.2 wrong.", "")
    assert rules(good) == {"threshold-without-measurement"}


def test_golden_arrays_are_different_and_used(good):
    good.edit("spec/golden/test_double_golden.py", "    laws.", '    load("double")\n    laws.')
    file = good.root / "spec/golden/double.npz"
    good.write("spec/golden/provenance.toml", "[double.values]\ny = {}\nz = {}\n")
    np.savez(file, x=np.arange(3.0), y=np.arange(3.0), z=2 * np.arange(3.0))
    assert rules(good) == set()  # an input may be a fixed point
    np.savez(file, x=np.arange(3.0), y=2 * np.arange(3.0), z=2 * np.arange(3.0))
    assert rules(good) == {"identical-golden-arrays"}


def test_golden_file_that_nobody_loads_is_found(good):
    np.savez(good.root / "spec/golden/triple.npz", x=np.arange(3.0))
    assert rules(good) == {"unused-golden-file"}


def test_missing_kind_is_found(good):
    (good.root / "spec/behaviours/test_double_behaviours.py").unlink()
    assert rules(good) == {"incomplete-item"}


def test_too_few_bugs_are_found(good):
    def few():
        return [f.where for f in lint.findings(good.root) if f.rule == "too-few-bugs"]

    assert few() == ["item double"]
    bug = '[[bug]]\nitem = "double"\nid = "{}"\n'
    good.write("spec/bugs/double.toml", "".join(bug.format(n) for n in range(4)))
    assert few() == ["item double"]
    good.write("spec/bugs/double.toml", "".join(bug.format(n) for n in range(5)))
    assert few() == []


def test_findings_end_in_exit_status_1(good, capsys):
    assert lint.main(good.root) == 1
    assert "item double: too-few-bugs" in capsys.readouterr().out
