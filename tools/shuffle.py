"""Do the specs hold in any order, with any examples, on any number of workers?"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

WORKERS = (0, 1, 2, 4)
# Lines of a failed run that are shown; its command shows the rest.
SHOWN = 60


def main(runs: int, seed: int, items: list[str], impl: str = "impl", root: Path | None = None) -> int:
    """`python -m tools shuffle`: 0 no run failed, 1 one did, and the others were not begun.

    Args:
        runs: each has an order and a seed of Hypothesis of its own; workers are 0, 1, 2 and 4 in turn.
        seed: of the first run; run n has seed + n and the workers of that seed, so that a broken series goes on with
            the next seed as if it had not been broken.
        items: ids; all if empty.
    """
    root = root or Path.cwd()
    chosen = [*(["--impl", impl] if impl != "impl" else []), *(word for item in items for word in ("--item", item))]
    took = []
    for n, current in enumerate(range(seed, seed + runs), 1):
        workers = WORKERS[current % len(WORKERS)]
        command = f"pytest -q -n{workers} --order-seed {current} --hypothesis-seed {current}".split() + chosen
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True)
        took.append(time.monotonic() - start)
        lines = done.stdout.strip().splitlines() or [done.stderr.strip() or "no output"]
        verdict = "green" if done.returncode == 0 else f"FAILED with status {done.returncode}"
        print(f"[{n}/{runs}] {workers} workers, seed {current}: {verdict}, {took[-1]:.0f} s: {lines[-1]}", flush=True)
        if done.returncode:
            print("\n".join(["", *lines[-SHOWN:], ""]))
            print(
                f"run {n} of {runs} failed after {n - 1} green ones: {workers} workers, order and examples of {current}"
            )
            print(f"  again: python -m {shlex.join(command)}")
            rest = ["shuffle", "--runs", str(runs - n), "--seed", str(current + 1), *chosen]
            if n < runs:
                print(f"  on:    python -m tools {shlex.join(rest)}")
            return 1
    print(f"{runs} runs in random order, seeds {seed} to {seed + runs - 1}: none failed; {_range(took)} s each")
    return 0


def _range(seconds: list[float]) -> str:
    return f"{min(seconds):.0f} to {max(seconds):.0f}" if seconds else "0"
