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
    """`python -m tools shuffle`: 0 no run failed, 1 one did.

    Args:
        runs: each has an order and a seed of Hypothesis of its own; workers are 0, 1, 2 and 4 in turn.
        seed: of the first run; run n has seed + n, so that any run can be repeated by itself.
        items: ids; all if empty.
    """
    root = root or Path.cwd()
    failed = []
    for n in range(runs):
        workers = WORKERS[n % len(WORKERS)]
        command = [*f"pytest -q -n{workers} --order-seed {seed + n} --hypothesis-seed {seed + n}".split()]
        command += ["--impl", impl] * (impl != "impl") + [word for item in items for word in ("--item", item)]
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines() or [done.stderr.strip() or "no output"]
        verdict = "green" if done.returncode == 0 else f"FAILED with status {done.returncode}"
        took = f"{time.monotonic() - start:.0f} s"
        print(f"[{n + 1}/{runs}] {workers} workers, seed {seed + n}: {verdict}, {took}: {lines[-1]}", flush=True)
        if done.returncode:
            failed.append(command)
            print("\n".join(["", *lines[-SHOWN:], "", f"again: {shlex.join(command)}", ""]), flush=True)
    if failed:
        print(f"{len(failed)} of {runs} runs failed:", *map(shlex.join, failed), sep="\n  ")
        return 1
    print(f"{runs} runs in random order: none failed")
    return 0
