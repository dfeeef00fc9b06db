"""Times our layers and optimizers next to the library's, forward and backward, same inputs, same run; counts memory.

Rounds alternate between the two sides, so that a slow moment of the machine falls on both; a ratio is the median over
the rounds of ours/theirs, its spread the interquartile range.
"""

import importlib
import math
import os
import pkgutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 15
# Freed memory stays with the process, as in a long training; otherwise the system's page faults are what one measures.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_MMAP_THRESHOLD_": str(1 << 32)}
HINT = "pip install -c constraints.txt -e '.[oracles]'"
TARGETS = {"eager": 2.5, "compiled": 1.0}
WORST = 4.0


@dataclass(frozen=True)
class Pair:
    """Ours and the library's of one thing, run on the same inputs.

    Attributes:
        item: the roadmap id.
        name: what is shown.
        ours, theirs: make the callable; both are given the same parameters where they have some.
        inputs: make the inputs; floating ones get gradients.
    """

    item: str
    name: str
    ours: Callable[[], Callable]
    theirs: Callable[[], Callable]
    inputs: Callable[[], tuple]


@dataclass(frozen=True)
class StepPair:
    """An optimizer and the library's, stepping over the same parameters with the same gradients.

    Attributes:
        item, name: as in `Pair`.
        ours, theirs: make the optimizer for a list of parameters.
        shapes: of the parameters.
    """

    item: str
    name: str
    ours: Callable[[list], object]
    theirs: Callable[[list], object]
    shapes: Callable[[], list[tuple[int, ...]]]


@dataclass(frozen=True)
class Memory:
    """One of ours whose claim is the memory that it does without.

    Attributes:
        item, name, ours, inputs: as in `Pair`.
        scores: shape of the table that it never has.
    """

    item: str
    name: str
    ours: Callable[[], Callable]
    inputs: Callable[[], tuple]
    scores: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """Medians in microseconds, and the ratio ours/theirs with its quartiles."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def main(items: list[str], seconds: float = 1.0) -> int:
    """`python -m tools bench`: prints the table; 0 whatever the times are, 1 if there is nothing to time."""
    if any(os.environ.get(k) != v for k, v in KEEP_MEMORY.items()) and hasattr(os, "execve"):
        # The allocator reads these when the process starts.
        os.execve(sys.executable, [sys.executable, *_again()], os.environ | KEEP_MEMORY)
    import torch

    pairs, memory = ([p for p in _listed(name) if not items or p.item in items] for name in ("PAIRS", "MEMORY"))
    if not pairs:
        timed = dict.fromkeys(p.item for p in _listed("PAIRS"))
        print(f"nothing to time for {', '.join(items)}; timed: {', '.join(timed)}")
        return 1
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians in µs, ratio ours/theirs [quartiles]")
    print(f"{'item':<14} {'what':<28} {'library':>9} {'eager':>9} {'ratio':>19} {'compiled':>9} {'ratio':>19}")
    found: dict[str, list[tuple[str, float]]] = {"eager": [], "compiled": []}
    for pair in pairs:
        cells = []
        for mode in found:
            torch.manual_seed(0)
            torch._dynamo.reset()
            try:
                runs = _runs(pair, compiled=mode == "compiled")
            except ModuleNotFoundError as missing:
                print(f"{pair.item:<14} {pair.name:<28} not timed: {missing.name} is not installed; {HINT}", flush=True)
                break
            timing = _compare(*runs, seconds)
            found[mode].append((pair.item, timing.ratio))
            if mode == "eager":
                cells.append(f"{timing.theirs:>9.0f}")
            cells.append(f"{timing.ours:>9.0f} {timing.ratio:>6.2f} [{timing.low:.2f}, {timing.high:.2f}]")
        else:
            print(f"{pair.item:<14} {pair.name:<28} {' '.join(cells)}", flush=True)
    for mode, rows in found.items() if found["eager"] else ():
        mean = math.exp(statistics.fmean(math.log(ratio) for _, ratio in rows))
        item, worst = max(rows, key=lambda row: row[1])
        verdict = "met" if mean <= TARGETS[mode] else "missed"
        line = f"{mode:<9} geometric mean {mean:.2f} (target {TARGETS[mode]}: {verdict}); worst {worst:.2f} ({item})"
        print(line + (f" (target {WORST}: {'met' if worst <= WORST else 'missed'})" if mode == "eager" else ""))
    for case in memory:
        forward, both = _peaks(case)
        table = math.prod(case.scores) * 4
        shape = "×".join(map(str, case.scores))
        line = f"forward {forward:,} bytes at most, with backward {both:,}; one table of {shape} scores {table:,}"
        print(f"{case.item:<14} {case.name:<28} {line}", flush=True)
    return 0


def _again() -> list[str]:
    """The arguments that start this program again."""
    return ["-m", "tools", *sys.argv[1:]]


def _listed(name: str) -> list:
    """What the benchmarks' modules list as PAIRS or MEMORY."""
    from tools import benchmarks

    topics = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__))
    return [p for t in topics for p in getattr(importlib.import_module(f"{benchmarks.__name__}.{t}"), name, [])]


def _peaks(case: Memory) -> tuple[int, int]:
    """The most bytes of new storage alive, in inference, and forward and backward with gradients to all inputs."""
    import torch

    from spec import cost

    torch.manual_seed(0)
    ours, inputs = case.ours(), tuple(_leaf(t) for t in case.inputs())
    with torch.no_grad():
        forward = cost.peak_bytes(ours, *inputs)
    return forward, cost.peak_bytes(lambda *inputs: ours(*inputs).sum().backward(), *inputs)


def _runs(pair, compiled: bool):
    """Two functions without arguments: one forward and backward, or one step, of ours and of theirs (eager)."""
    import torch

    if isinstance(pair, StepPair):
        sides = []
        for make in (pair.ours, pair.theirs):
            generator = torch.Generator().manual_seed(0)
            parameters = [torch.randn(s, generator=generator).requires_grad_() for s in pair.shapes()]
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            sides.append(make(parameters).step)
        return (torch.compile(sides[0]) if compiled else sides[0]), sides[1]
    ours, theirs = pair.ours(), pair.theirs()
    inputs = tuple(_leaf(t) for t in pair.inputs())
    return _training_pass(torch.compile(ours) if compiled else ours, ours, inputs), _training_pass(
        theirs, theirs, inputs
    )


def _leaf(t):
    import torch

    return t.detach().requires_grad_() if isinstance(t, torch.Tensor) and t.is_floating_point() else t


def _training_pass(call, module, inputs):
    import torch
    from torch.utils._pytree import tree_leaves

    leaves = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves += list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    outputs = [t for t in tree_leaves(call(*inputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    cotangents = [torch.randn_like(t) for t in outputs]

    def run():
        results = [t for t in tree_leaves(call(*inputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
        torch.autograd.grad(results, leaves, cotangents)

    return run


def _compare(ours, theirs, seconds: float) -> Timing:
    from torch.utils.benchmark import Timer

    timers = [Timer("run()", globals={"run": run}, num_threads=os.cpu_count() or 1) for run in (ours, theirs)]
    for timer in timers:
        timer.timeit(3)  # warm-up: compilation, allocation
    number = max(1, round(seconds / (2 * ROUNDS) / max(timer.timeit(3).median for timer in timers)))
    rounds = [[timer.timeit(number).median for timer in timers] for _ in range(ROUNDS)]
    ratios = [a / b for a, b in rounds]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    medians = [statistics.median(column) * 1e6 for column in zip(*rounds)]
    return Timing(*medians, ratio, low, high)
