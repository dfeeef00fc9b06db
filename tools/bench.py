"""Times our layers and optimizers next to the library's, forward and backward, same inputs, same run; counts memory.

A round times each side once, so that a slow moment of the machine falls on all; a ratio is the median over the rounds
of ours/the library's, its spread the interquartile range. The library's runs eager, ours eager and compiled.
"""

import importlib
import math
import os
import pkgutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools import subject
from tools.roadmap import ROADMAP, load

ROUNDS = 15
# Freed memory stays with the process, as in a long training; otherwise the system's page faults are what one measures.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_MMAP_THRESHOLD_": str(1 << 32)}
HINT = "pip install -c constraints.txt -e '.[oracles]'"
# The highest geometric mean of the ratios, and the highest ratio, of each subject.
MEANS = {("impl", "eager"): 2.5, ("fast", "eager"): 1.2, ("fast", "compiled"): 0.95}
WORST = {("impl", "eager"): 5.0, ("fast", "eager"): 3.0}
BENCHMARKS = "tools.benchmarks."
EAGER, COMPILED = "eager", "compiled"


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
    """The median in microseconds, and the ratio to the first side with its quartiles."""

    time: float
    ratio: float
    low: float
    high: float

    def __str__(self):
        return f"{self.time:>9.0f} {self.ratio:>6.2f} [{self.low:.2f}, {self.high:.2f}]"


def main(items: list[str], seconds: float = 1.0, subjects=(), compiled: bool = True, root: Path | None = None) -> int:
    """`python -m tools bench`: prints the table; 0 whatever the times are, 1 if there is nothing to time.

    Args:
        items: only these; all if empty.
        seconds: how long two sides are timed, and longer where there are more.
        subjects: names of the subjects; impl and fast if empty.
        compiled: whether ours are timed compiled as well.
    """
    if any(os.environ.get(k) != v for k, v in KEEP_MEMORY.items()) and hasattr(os, "execve"):
        # The allocator reads these when the process starts.
        os.execve(sys.executable, [sys.executable, *_again()], os.environ | KEEP_MEMORY)
    import torch

    root = root or Path.cwd()
    subjects = list(subjects) or [subject.PACKAGE, subject.TUNED]
    # Subject → name of a pair → the pair; None where the subject borrows the item.
    listed = {name: _pairs_of(name, root, items) for name in subjects}
    rows = list(listed[subjects[0]])
    if not rows:
        timed = dict.fromkeys(p.item for p in _listed("PAIRS"))
        print(f"nothing to time for {', '.join(items)}; timed: {', '.join(timed)}")
        return 1
    columns = [(name, mode) for name in subjects for mode in (EAGER, COMPILED)[: 1 + compiled]]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians in µs, ratio to the library [quartiles]"
    )
    print(f"{'item':<24} {'what':<28} {'library':>9}" + "".join(f" {f'{n} {m}':>30}" for n, m in columns))
    ratios: dict[tuple[str, str], list[tuple[str, float]]] = {column: [] for column in columns}
    for item, what in rows:
        pairs = {name: listed[name].get((item, what)) for name in subjects}
        try:
            timings = _timed(pairs, columns, seconds)
        except ModuleNotFoundError as missing:
            print(f"{item:<24} {what:<28} not timed: {missing.name} is not installed; {HINT}", flush=True)
            continue
        for column in columns:
            if column in timings:
                ratios[column].append((item, timings[column].ratio))
        library = f"{timings['library'].time:>9.0f}" if timings else f"{'–':>9}"
        cells = "".join(f" {timings.get(column) or '–'!s:>30}" for column in columns)
        print(f"{item:<24} {what:<28} {library}{cells}", flush=True)
    for column in columns:
        if ratios[column]:
            print(_summary(column, ratios[column]))
    subject.install(subject.resolve(subjects[0], root), check_shapes=False)
    for case in (p for p in _listed("MEMORY") if not items or p.item in items):
        forward, both = _peaks(case)
        table = math.prod(case.scores) * 4
        shape = "×".join(map(str, case.scores))
        line = f"forward {forward:,} bytes at most, with backward {both:,}; one table of {shape} scores {table:,}"
        print(f"{case.item:<24} {case.name:<28} {line}", flush=True)
    return 0


def _pairs_of(name: str, root: Path, items) -> dict[tuple[str, str], object]:
    """(item, what) → the pair of one subject, from the benchmarks' modules imported afresh; None where it borrows."""
    chosen = subject.resolve(name, root)
    subject.install(chosen, check_shapes=False)
    roadmap = load(root / ROADMAP).items
    pairs = [p for p in _listed("PAIRS") if not items or p.item in items]
    held = {
        i: set(roadmap[i].names) != set(chosen.borrowed(roadmap[i].module, roadmap[i].names))
        for i in {p.item for p in pairs}
    }
    _move_aside(name)
    return {(p.item, p.name): p if held[p.item] else None for p in pairs}


def _move_aside(name: str) -> None:
    """Give the modules of a subject, and of the benchmarks over it, names of their own.

    The compiler looks a function's globals up by its module's name, and would find the next subject's.
    """
    ours = (f"{subject.PACKAGE}.", f"{subject.LENDER}.", BENCHMARKS)
    for module in [m for m in sys.modules if f"{m}.".startswith(ours) and m != BENCHMARKS.rstrip(".")]:
        moved = sys.modules.pop(module)
        for attribute in ("__name__", "__package__"):
            setattr(moved, attribute, f"_timed_{name}_{getattr(moved, attribute) or ''}".rstrip("."))
        sys.modules[moved.__name__] = moved


def _timed(pairs: dict, columns, seconds: float) -> dict:
    """ "library" and each column → its timing, all in the same rounds; a subject that borrows has none."""
    import torch

    torch._dynamo.reset()
    runs, shown = [], []
    for name, mode in columns:
        if pairs[name] is None:
            continue
        torch.manual_seed(0)
        ours, theirs = _runs(pairs[name], compiled=mode == COMPILED)
        if not runs:
            runs.append(theirs)
        runs.append(ours)
        shown.append((name, mode))
    if not runs:
        return {}
    library, *rest = _compare(runs, seconds)
    return {"library": library, **dict(zip(shown, rest))}


def _summary(column: tuple[str, str], rows: list[tuple[str, float]]) -> str:
    """The geometric mean and the worst ratio of a column, with their targets where there are some."""

    def verdict(found: float, targets) -> str:
        most = targets.get(column)
        return "" if most is None else f" (target {most}: {'met' if found <= most else 'missed'})"

    mean = math.exp(statistics.fmean(math.log(ratio) for _, ratio in rows))
    item, worst = max(rows, key=lambda row: row[1])
    line = f"{' '.join(column):<14} geometric mean {mean:.2f}{verdict(mean, MEANS)} of {len(rows)}"
    return f"{line}; worst {worst:.2f} ({item}){verdict(worst, WORST)}"


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
    parameters = module.parameters() if isinstance(module, torch.nn.Module) else ()
    leaves += [p for p in parameters if p.requires_grad]
    outputs = [t for t in tree_leaves(call(*inputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    cotangents = [torch.randn_like(t) for t in outputs]

    def run():
        results = [t for t in tree_leaves(call(*inputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
        torch.autograd.grad(results, leaves, cotangents, allow_unused=True)  # a sample may be a constant to a loss

    return run


def _compare(runs, seconds: float) -> list[Timing]:
    """Times functions in turn, round by round; ratios are to the first."""
    from torch.utils.benchmark import Timer

    timers = [Timer("run()", globals={"run": run}, num_threads=os.cpu_count() or 1) for run in runs]
    for timer in timers:
        timer.timeit(3)  # warm-up: compilation, allocation
    number = max(1, round(seconds / (2 * ROUNDS) / max(timer.timeit(3).median for timer in timers)))
    rounds = [[timer.timeit(number).median for timer in timers] for _ in range(ROUNDS)]
    found = []
    for n, times in enumerate(zip(*rounds)):
        low, ratio, high = statistics.quantiles([r[n] / r[0] for r in rounds], n=4)
        found.append(Timing(statistics.median(times) * 1e6, ratio, low, high))
    return found
