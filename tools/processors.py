"""`python -m tools processors`: the golden values, and the specs, along the code paths of other processors.

A sum, an exponential or a matrix product has other last digits on another processor, because libraries choose their
kernels by what the processor offers. Most of them can be told to choose as if it offered less; so one machine can walk
the paths of several. What it cannot walk (no AVX-512, another architecture) is named in the table.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tools import golden as golden_tool

CORES = {"Haswell": "AVX2", "SkylakeX": "AVX512", "Zen": "AVX2"}  # of OpenBLAS, and what their kernels need
CAPABILITIES = {"default": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}  # of torch
THREADS = (1, 2, 4)
VARIABLES = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "GLIBC_TUNABLES")
_ORDER = ["DEFAULT", "AVX2", "AVX512"]


@dataclass(frozen=True)
class Cell:
    """One code path: the environment that asks for it, and why it cannot run here, if it cannot."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    cannot: str = ""


@dataclass
class Outcome:
    """What a cell said."""

    cell: Cell
    ran: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    drifts: dict[str, dict[str, golden_tool.Drift]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    said: str = ""


def main(specs: bool, kills: bool, product: bool, items: list[str], names: list[str], jobs: int | None) -> int:
    """`python -m tools processors`: 0 every cell is green, 1 one is red, 2 no cell is left to run.

    Args:
        specs: run the specs in each cell, not the golden check.
        kills: ask the recorded killing specs of each bug in each cell, not the golden check.
        product: combine every OpenBLAS core with every capability of torch and every number of threads.
        items: only these; all if empty.
        names: only cells whose name has one of these words; all if empty.
        jobs: cells side by side; one a core if None, and one in all for specs, which take every core themselves.
    """
    chosen = cells(probe(), product)
    chosen = [c for c in chosen if not names or any(n in c.name for n in names)]
    if not any(not c.cannot for c in chosen):
        print("\n".join(f"{c.name}: cannot run here: {c.cannot}" for c in chosen) or f"no cell is called {names}")
        return 2
    run = _specs if specs else _kills if kills else _golden
    jobs = 1 if specs or kills else jobs or os.cpu_count() or 1
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        numbered = [(c, f"[{n}/{len(chosen)}] {c.name}") for n, c in enumerate(chosen, 1)]
        for outcome in pool.map(lambda pair: _timed(run, pair, items), numbered):
            outcomes.append(outcome)
    print(_table(outcomes, golden=run is _golden))
    if run is _golden:
        print(_files(outcomes))
    red = [f"RED {o.cell.name}: {p}" for o in outcomes for p in o.problems]
    print("\n".join(red) or "every cell that can run here is green")
    return int(bool(red))


def probe() -> dict:
    """What this processor and these libraries offer, asked in a process that no variable holds back."""
    free = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    code = "from tools.processors import _offers; _offers()"
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cells(offers: dict, product: bool = False) -> list[Cell]:
    """The code paths, each with the variables of the library that can be told to take it."""
    best = offers["capability"]

    def lacking(needed: str) -> str:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return f"it is for x86-64, this is {platform.machine()}"
        return "" if _ORDER.index(needed) <= _rank(best) else f"it needs {needed}, this processor offers {best}"

    cores = [Cell(f"OPENBLAS_CORETYPE={c}", {"OPENBLAS_CORETYPE": c}, lacking(need)) for c, need in CORES.items()]
    torch_paths = [
        Cell(f"ATEN_CPU_CAPABILITY={c}", {"ATEN_CPU_CAPABILITY": c}, lacking(need)) for c, need in CAPABILITIES.items()
    ]
    threads = [
        Cell(f"threads={n}", dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCH_THREADS"), str(n)))
        for n in THREADS
    ]
    if product:
        unset = Cell("")
        return [_joined(triple) for triple in itertools.product([unset, *cores], torch_paths, threads)]
    simd = offers["simd"]
    numpy_paths = [
        Cell(f"NumPy without {simd[n]} and later", {"NPY_DISABLE_CPU_FEATURES": " ".join(simd[n:])})
        for n in range(len(simd))
    ]
    libm = Cell(
        "libm without FMA",
        {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2"},
        lacking("AVX2") or ("" if platform.libc_ver()[0] == "glibc" else "it is glibc's, and this is another libc"),
    )
    mkl = Cell("MKL and oneDNN without AVX", {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}, lacking("AVX2"))
    jax = Cell(
        "XLA without AVX",
        {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
        lacking("AVX2") or ("" if offers["jax"] else "jax is not installed"),
    )
    libraries = [*numpy_paths, libm, mkl, jax]
    least = [cores[0], torch_paths[0], threads[0], *numpy_paths[:1], libm, mkl, jax]
    oldest = Cell("the least of everything", _joined([c for c in least if not c.cannot]).environment)
    return [Cell("as it is"), *cores, *torch_paths, *threads, *libraries, oldest]


def _rank(capability: str) -> int:
    return _ORDER.index(capability) if capability in _ORDER else 0


def _joined(parts) -> Cell:
    environment = {k: v for part in parts for k, v in part.environment.items()}
    cannot = "; ".join(p.cannot for p in parts if p.cannot)
    return Cell(
        " ".join(p.name.replace("OPENBLAS_CORETYPE=", "").replace("ATEN_CPU_CAPABILITY=", "") for p in parts if p.name),
        environment,
        cannot,
    )


def _offers() -> None:
    """In a child: one line of JSON about the machine."""
    import numpy as np
    import torch

    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    offers = {"capability": torch.backends.cpu.get_cpu_capability(), "simd": simd.get("found", [])}
    print(json.dumps(offers | {"jax": golden_tool._installed("jax")}))


# ------------------------------------------------------------------------------------------------ one cell


def _timed(run, numbered, items) -> Outcome:
    cell, label = numbered
    if cell.cannot:
        print(f"{label}: cannot run here: {cell.cannot}", flush=True)
        return Outcome(cell)
    print(f"{label} …", flush=True)
    start = time.perf_counter()
    outcome = run(cell, items, label)
    outcome.seconds = time.perf_counter() - start
    state = f"{len(outcome.problems)} problems" if outcome.problems else "green"
    print(f"{label}: {state}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def _golden(cell: Cell, items, label) -> Outcome:
    """The golden check in a child, which reports item by item."""
    code = "import sys; from tools.processors import _derive_all; _derive_all(sys.argv[1:])"
    command = [sys.executable, "-c", code, *items]
    outcome, tail, last = Outcome(cell), [], time.perf_counter()
    with subprocess.Popen(
        command, env=os.environ | cell.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        for line in child.stdout:
            if not line.startswith("@ "):
                tail = [*tail[-9:], line.rstrip()]
                continue
            news = json.loads(line[2:])
            outcome.ran = news.get("ran", outcome.ran)
            if item := news.get("item"):
                outcome.problems += news["problems"]
                outcome.drifts[item] = {n: golden_tool.Drift(**d) for n, d in news["drifts"].items()}
                if news["absent"]:
                    outcome.absent[item] = news["absent"]
                if time.perf_counter() - last > 30:
                    last = time.perf_counter()
                    print(f"{label}: {news['n']}/{news['of']} {item}", flush=True)
    if child.returncode != 0:
        outcome.problems.append(f"the golden check ended with status {child.returncode}: {' | '.join(tail)}")
    derived = [i for i in outcome.drifts if i not in outcome.absent]
    worst = max((d for i in derived for d in outcome.drifts[i].values()), key=_share, default=None)
    outcome.said = f"{len(derived)} of {len(outcome.drifts)} derived, " + (
        f"at most {_share(worst):.1%} of a tolerance" if worst else "nothing compared"
    )
    return outcome


def _derive_all(items) -> None:
    """In a child: derive each item whose oracles are installed, and print how far it is from the frozen one."""
    golden = golden_tool._load_recipes()
    print("@ " + json.dumps({"ran": _what_runs()}), flush=True)
    record = golden_tool._read_provenance(golden.FOLDER)
    sources = {i: s for i, s in golden.RECIPES.items() if not items or i in items}
    for unknown in sorted(set(items) - set(sources)):
        raise SystemExit(f"no recipe for {unknown}")
    for n, (item, source) in enumerate(sources.items(), 1):
        absent = [d for d in source.needs if not golden_tool._installed(d)]
        problems, found = golden_tool._frozen_problem(golden, item), {}
        if not absent and not problems:
            recipe = golden.Recipe()
            source.generate(recipe)
            problems = golden_tool._compare(golden, item, recipe, record)
            if not any("recipe and file differ" in p for p in problems):
                found = golden_tool.drifts(golden, item, recipe, record)
        drifts = {name: vars(d) for name, d in found.items()}
        news = {"item": item, "n": n, "of": len(sources), "problems": problems, "drifts": drifts, "absent": absent}
        print("@ " + json.dumps(news), flush=True)


def _what_runs() -> str:
    """The kernels that the libraries chose in this process, in their own words."""
    import torch

    found = [f"torch {torch.backends.cpu.get_cpu_capability()}", f"{torch.get_num_threads()} threads"]
    try:
        import threadpoolctl
    except ImportError:
        return ", ".join(found)
    names = {i.get("architecture") for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"}
    return ", ".join([f"OpenBLAS {'/'.join(sorted(filter(None, names))) or 'none'}", *found])


def _specs(cell: Cell, items, label) -> Outcome:
    chosen = [f"--item={i}" for i in items]
    return _command(cell, ["-m", "pytest", "-q", "--hypothesis-profile=ci", *chosen, *(["-n0"] if items else [])])


def _kills(cell: Cell, items, label) -> Outcome:
    return _command(cell, ["-m", "tools", "strength", "--recorded", *(f"--item={i}" for i in items)])


def _command(cell: Cell, arguments) -> Outcome:
    lines = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | cell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        for line in child.stdout:
            print(line, end="", flush=True)  # minutes: whoever waits sees how far it is
            lines += [line.rstrip()] if line.strip() else []
    counted = [line for line in lines if " passed" in line or "caught" in line] or lines[-1:]
    outcome = Outcome(cell, said=counted[-1].strip() if counted else "no output")
    if child.returncode != 0:
        outcome.problems.append(f"ended with status {child.returncode}:\n" + "\n".join(lines[-60:]))
    return outcome


# ------------------------------------------------------------------------------------------------ tables


def _share(drift: golden_tool.Drift) -> float:
    """What part of its tolerance a drift takes; an exact array that moved takes more than any."""
    if drift.size == 0:
        return 0.0
    return drift.size / drift.tolerance if drift.tolerance else float("inf")


def _table(outcomes, golden: bool) -> str:
    rows = [("cell", "kernels" if golden else "", "result", "said")]
    for o in outcomes:
        state = "cannot run" if o.cell.cannot else "RED" if o.problems else "green"
        rows.append((o.cell.name, o.ran, state, o.cell.cannot or o.said))
    return "\n" + _aligned(rows)


def _files(outcomes) -> str:
    """For each golden file the array that came closest to its tolerance in any cell."""
    rows = [("golden file", "array", "largest drift", "tolerance", "in")]
    for item in dict.fromkeys(i for o in outcomes for i in o.drifts):
        found = [(d, name, o.cell.name) for o in outcomes for name, d in o.drifts.get(item, {}).items()]
        if not found:
            absent = next((o.absent[item] for o in outcomes if item in o.absent), [])
            rows.append((item, "not derived", "", "", f"{', '.join(absent)} not installed" if absent else ""))
            continue
        drift, name, where = max(found, key=lambda f: _share(f[0]))
        unit = f" {drift.unit}" if drift.unit else ""
        same = "every array the same in every cell" if drift.size == 0 else name
        rows.append((item, same, f"{drift.size:.1e}", f"{drift.tolerance:g}{unit}", where if drift.size else "all"))
    return "\n" + _aligned(rows) + "\n"


def _aligned(rows) -> str:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows)
