"""The benchmark measures what it claims: ours over theirs, forward and backward."""

import re
import sys
from pathlib import Path

import pytest
import torch

from tools import bench, benchmarks, subject
from tools.checklist import ticked

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _modules_come_back(monkeypatch):
    """The benchmark installs subjects of its own."""
    before, path = dict(sys.modules), list(sys.meta_path)
    for name, value in bench.KEEP_MEMORY.items():
        monkeypatch.setenv(name, value)
    yield
    sys.meta_path[:] = path
    for name in set(sys.modules) - set(before):
        if name.startswith(("impl", "_reference_impl", "_timed_", "tools.benchmarks.")):
            del sys.modules[name]
    sys.modules.update(before)


def test_ratio_is_to_the_library(monkeypatch):
    """Rounds alternate, the ratio is the median of the rounds' ratios: one slow round moves none."""
    slow, fast = [1, 1, *[3e-6] * 7, *[90e-6] * 8], [1, 1, *[1e-6] * 7, *[30e-6] * 7, 5e-6]
    clock = {"library": [1, 1, *[2e-6] * 7, *[60e-6] * 7, 1e-6], "slow": slow, "fast": fast}

    class Timer:
        def __init__(self, statement, globals, num_threads):
            self.times = iter(clock[globals["run"]])

        def timeit(self, number):
            return type("Measurement", (), {"median": next(self.times)})

    monkeypatch.setattr("torch.utils.benchmark.Timer", Timer)
    library, slow, fast = bench._compare(["library", "slow", "fast"], seconds=1.0)
    assert library.ratio == 1 and library.time == pytest.approx(2.0)
    assert (slow.low, slow.ratio, slow.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (slow.time, fast.time, fast.ratio) == pytest.approx((90.0, 5.0, 0.5))


def test_training_pass_runs_backward():
    seen = []

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.weight.register_hook(lambda g: seen.append(g.clone()))

        def forward(self, x):
            return x * self.weight

    layer = Layer()
    bench._training_pass(layer, layer, (torch.ones(2, 3, requires_grad=True),))()
    assert len(seen) == 1


def test_step_pair_starts_both_sides_alike():
    found = []

    def make(parameters):
        found.append([(p.detach().clone(), p.grad.clone()) for p in parameters])
        return torch.optim.SGD(parameters, lr=0.1)

    bench._runs(bench.StepPair("adamw", "SGD", make, make, lambda: [(3, 4), (5,)]), compiled=False)
    for (p, g), (q, h) in zip(*found, strict=True):
        assert torch.equal(p, q) and torch.equal(g, h)


def test_unknown_item_is_named(capsys):
    assert bench.main(["no-such-item"], root=ROOT) == 1
    assert "nothing to time for no-such-item" in capsys.readouterr().out


def test_every_ticked_item_is_timed():
    assert ticked(ROOT) <= {pair.item for pair in bench._listed("PAIRS")}


def test_library_that_is_not_installed_is_named(monkeypatch, capsys):
    """The other pairs are timed."""

    def theirs():
        import no_such_library  # noqa: F401

    pair = bench.Pair("adamw", "next to a library", lambda: torch.relu, theirs, lambda: (torch.ones(3),))
    monkeypatch.setattr(bench, "_listed", lambda name: [pair] if name == "PAIRS" else [])
    assert bench.main([], root=ROOT) == 0
    said = capsys.readouterr().out
    assert "not timed: no_such_library is not installed; pip install" in said and "geometric mean" not in said


def test_peaks_by_hand():
    """Of 5 elements each, two rows are alive forward; backward eˣ, two gradients, the sum and the gradient to it."""
    case = bench.Memory("adamw", "a product", lambda: lambda x: x.exp() * 2, lambda: (torch.ones(5),), (5, 5))
    assert bench._peaks(case) == (2 * 5 * 4, (3 * 5 + 2) * 4)


PAIRS = """
import torch

from impl.layers.double import Double
from impl.layers.triple import triple
from tools.bench import Pair


def inputs():
    return (torch.ones(4),)


def pair(item, ours):
    return Pair(item=item, name="a pair", ours=ours, theirs=lambda: torch.relu, inputs=inputs)


PAIRS = [pair("double", Double), pair("triple", lambda: triple)]
"""


@pytest.fixture
def tuned(house, monkeypatch):
    """A house whose fast package holds one of two items that are timed."""
    house.write("fast/layers/triple.py", "def triple(x):\n    return x + x + x\n")
    house.write("benchmarks/pairs.py", PAIRS)
    monkeypatch.setattr(benchmarks, "__path__", [str(house.root / "benchmarks")])
    return house


def test_each_subject_is_timed_with_its_own_code(tuned):
    impl, fast = (bench._pairs_of(name, tuned.root, []) for name in ("impl", "fast"))
    assert list(impl) == list(fast) == [("double", "a pair"), ("triple", "a pair")]
    assert fast["double", "a pair"] is None and impl["double", "a pair"] is not None
    ours = [pairs["triple", "a pair"].ours() for pairs in (impl, fast)]
    assert [Path(f.__code__.co_filename).parts[-3] for f in ours] == ["impl", "fast"]
    for f, name in zip(ours, ("impl", "fast")):
        # The compiler finds a function's globals by its module's name.
        assert vars(sys.modules[f.__globals__["__name__"]]) is f.__globals__, name
    assert not hasattr(ours[0], "__wrapped__"), "no check of shapes is timed"


def test_table_has_a_column_for_each_subject_and_mode(tuned, capsys):
    """What a subject borrows is no time of its own."""
    assert bench.main([], seconds=0.001, compiled=False, root=tuned.root) == 0
    head, double, triple, *rest = capsys.readouterr().out.splitlines()[1:]
    assert head.split()[2:] == ["library", "impl", "eager", "fast", "eager"]
    assert len(re.findall(r"\d\.\d\d \[", double)) == 1 and double.rstrip().endswith("–")
    assert len(re.findall(r"\d\.\d\d \[", triple)) == 2
    assert " of 2; worst" in rest[0] and rest[0].startswith("impl eager")
    assert re.match(
        r"fast eager +geometric mean \d+\.\d\d \(target 1.2: (met|missed)\) of 1; worst .* \(triple\)", rest[1]
    )


def test_one_subject_and_compiled_forms(tuned, capsys):
    assert bench.main(["triple"], seconds=0.001, subjects=["fast"], root=tuned.root) == 0
    head, triple, *rest = capsys.readouterr().out.splitlines()[1:]
    assert head.split()[2:] == ["library", "fast", "eager", "fast", "compiled"]
    assert len(re.findall(r"\d\.\d\d \[", triple)) == 2
    assert [line.split()[1] for line in rest] == ["eager", "compiled"]


def test_subject_is_installed_without_checks_of_shapes(house):
    """`check_shapes=False` is what makes a time that of the code."""
    for checked in (True, False):
        subject.install(subject.resolve("impl", house.root), check_shapes=checked)
        from impl.layers.double import Double

        assert hasattr(Double.forward, "__wrapped__") == checked
