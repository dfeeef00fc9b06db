"""The benchmark measures what it claims: ours over theirs, forward and backward."""

from pathlib import Path

import pytest
import torch

from tools import bench
from tools.checklist import ticked


def test_ratio_is_ours_over_theirs(monkeypatch):
    """Rounds alternate, the ratio is the median of the rounds' ratios: one slow round moves neither."""
    clock = {"ours": [1, 1, *[3e-6] * 7, *[90e-6] * 8], "theirs": [1, 1, *[2e-6] * 7, *[60e-6] * 7, 1e-6]}

    class Timer:
        def __init__(self, statement, globals, num_threads):
            self.times = iter(clock[globals["run"]])

        def timeit(self, number):
            return type("Measurement", (), {"median": next(self.times)})

    monkeypatch.setattr("torch.utils.benchmark.Timer", Timer)
    timing = bench._compare("ours", "theirs", seconds=1.0)
    assert (timing.low, timing.ratio, timing.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (timing.ours, timing.theirs) == pytest.approx((90.0, 2.0))


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


def test_unknown_item_is_named(monkeypatch, capsys):
    for name, value in bench.KEEP_MEMORY.items():
        monkeypatch.setenv(name, value)
    assert bench.main(["no-such-item"]) == 1
    assert "nothing to time for no-such-item" in capsys.readouterr().out


def test_every_ticked_item_is_timed():
    assert ticked(Path(__file__).parents[2]) <= {pair.item for pair in bench._listed("PAIRS")}


def test_library_that_is_not_installed_is_named(monkeypatch, capsys):
    """The other pairs are timed."""
    for name, value in bench.KEEP_MEMORY.items():
        monkeypatch.setenv(name, value)

    def theirs():
        import no_such_library  # noqa: F401

    pair = bench.Pair("adamw", "next to a library", lambda: torch.relu, theirs, lambda: (torch.ones(3),))
    monkeypatch.setattr(bench, "_listed", lambda name: [pair] if name == "PAIRS" else [])
    assert bench.main([]) == 0
    said = capsys.readouterr().out
    assert "not timed: no_such_library is not installed; pip install" in said and "geometric mean" not in said


def test_peaks_by_hand():
    """Of 5 elements each, two rows are alive forward; backward eˣ, two gradients, the sum and the gradient to it."""
    case = bench.Memory("adamw", "a product", lambda: lambda x: x.exp() * 2, lambda: (torch.ones(5),), (5, 5))
    assert bench._peaks(case) == (2 * 5 * 4, (3 * 5 + 2) * 4)
