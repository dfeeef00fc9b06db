"""Other processors' code paths: which can be walked here, and what a drift along one of them looks like."""

import pytest

from tools import golden, processors

AVX512 = {"capability": "AVX512", "simd": ["X86_V3", "X86_V4"], "jax": True}


@pytest.fixture
def on_x86(monkeypatch):
    monkeypatch.setattr(processors.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processors.platform, "libc_ver", lambda: ("glibc", "2.36"))


def named(cells) -> dict[str, processors.Cell]:
    return {c.name: c for c in cells}


def test_every_library_has_its_paths(on_x86):
    found = named(processors.cells(AVX512))
    assert not any(c.cannot for c in found.values())
    assert found["as it is"].environment == {}
    assert {f"OPENBLAS_CORETYPE={c}" for c in ("Haswell", "SkylakeX", "Zen")} <= set(found)
    assert {f"ATEN_CPU_CAPABILITY={c}" for c in ("default", "avx2", "avx512")} <= set(found)
    assert {f"threads={n}" for n in (1, 2, 4)} <= set(found)
    assert found["threads=4"].environment["TORCH_THREADS"] == "4"
    assert found["NumPy without X86_V4 and later"].environment == {"NPY_DISABLE_CPU_FEATURES": "X86_V4"}
    least = found["the least of everything"].environment
    assert least["OPENBLAS_CORETYPE"] == "Haswell" and least["ATEN_CPU_CAPABILITY"] == "default"
    assert least["NPY_DISABLE_CPU_FEATURES"] == "X86_V3 X86_V4" and "XLA_FLAGS" in least


@pytest.mark.parametrize(
    "capability, cannot",
    [("AVX512", 0), ("AVX2", 2), ("DEFAULT", 8)],
)
def test_what_the_processor_cannot_run_is_said(on_x86, capability, cannot):
    """A kernel that the processor lacks would end the process with an illegal instruction."""
    found = processors.cells(AVX512 | {"capability": capability})
    lacking = [c for c in found if c.cannot]
    assert len(lacking) == cannot
    assert all(f"this processor offers {capability}" in c.cannot for c in lacking)


def test_another_architecture_has_its_threads_alone(monkeypatch):
    monkeypatch.setattr(processors.platform, "machine", lambda: "aarch64")
    found = processors.cells({"capability": "DEFAULT", "simd": [], "jax": False})
    runnable = [c.name for c in found if not c.cannot]
    assert runnable == ["as it is", "threads=1", "threads=2", "threads=4", "the least of everything"]


def test_the_product_has_every_combination(on_x86):
    found = named(processors.cells(AVX512, product=True))
    assert len(found) == 4 * 3 * 3
    assert found["Zen avx2 threads=4"].environment["OPENBLAS_CORETYPE"] == "Zen"
    assert "OPENBLAS_CORETYPE" not in found["avx2 threads=4"].environment


def outcomes(monkeypatch, drift, problems=()):
    """Two cells; in the second the array `weights` of `double` drifts."""

    def check(cell, items, label):
        size = drift if cell.environment else 0.0
        found = {"double": {"y": golden.Drift(1e-15, 1e-12), "weights": golden.Drift(size, 4.0, golden.ULPS)}}
        return processors.Outcome(cell, problems=list(problems) if cell.environment else [], drifts=found)

    cells = [
        processors.Cell("as it is"),
        processors.Cell("old", {"AGE": "9"}),
        processors.Cell("new", {}, "it needs 9"),
    ]
    monkeypatch.setattr(processors, "_golden", check)
    monkeypatch.setattr(processors, "probe", dict)
    monkeypatch.setattr(processors, "cells", lambda offers, product: cells)
    return processors.main(False, False, False, [], [], 1)


def test_the_table_has_the_drift_that_comes_closest_to_its_tolerance(monkeypatch, capsys):
    assert outcomes(monkeypatch, drift=3.0) == 0
    said = capsys.readouterr().out
    row = next(line.split() for line in said.splitlines() if line.startswith("double"))
    assert row == ["double", "weights", "3.0e+00", "4", "units", "in", "the", "last", "place", "old"]
    assert "[3/3] new: cannot run here: it needs 9" in said
    assert "every cell that can run here is green" in said


def test_a_red_cell_is_named(monkeypatch, capsys):
    problem = "double.weights: derived value differs by 5 > 4 units in the last place"
    assert outcomes(monkeypatch, drift=5.0, problems=[problem]) == 1
    assert f"RED old: {problem}" in capsys.readouterr().out


def test_no_cell_left_to_run_is_no_success(on_x86, monkeypatch, capsys):
    monkeypatch.setattr(processors, "probe", lambda: AVX512 | {"capability": "AVX2"})
    assert processors.main(False, False, False, [], ["SkylakeX"], 1) == 2
    assert "cannot run here: it needs AVX512, this processor offers AVX2" in capsys.readouterr().out


def test_a_failing_command_is_red(tmp_path):
    cell = processors.Cell("old", {"AGE": "9"})
    code = "import os, sys; print('3 passed'); sys.exit(os.environ['AGE'] == '9')"
    outcome = processors._command(cell, ["-c", code])
    assert outcome.said == "3 passed"
    assert outcome.problems == ["ended with status 1:\n3 passed"]


def test_a_child_that_dies_is_red(monkeypatch):
    """An illegal instruction, or an unknown item, must not look like nothing to compare."""
    outcome = processors._golden(processors.Cell("as it is"), ["no-such-item"], "")
    assert "no recipe for no-such-item" in outcome.problems[0]
