"""Takes each guard against false green out of a copy of the machinery: the test that is named for it must fail."""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CATALOGUE = Path("tools/tests/guards.toml")
COPIED = ("tools", "spec", "impl", "fast", "pyproject.toml")


def main(root: Path | None = None) -> int:
    """`python -m tools guards`: 0 every guard is missed by its test, 1 one is not, or its patch does not apply."""
    root = root or Path.cwd()
    guards = tomllib.loads((root / CATALOGUE).read_text(encoding="utf-8"))["guard"]
    problems = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for n, (guard, problem) in enumerate(zip(guards, pool.map(lambda g: _without(root, g), guards)), 1):
            print(f"[{n}/{len(guards)}] {guard['case']:<72} {problem or 'missed by its test'}", flush=True)
            problems += [problem] if problem else []
    print(
        f"{len(problems)} of {len(guards)} guards are not tested"
        if problems
        else f"all {len(guards)} guards are tested"
    )
    return int(bool(problems))


def _without(root: Path, guard: dict) -> str:
    """Why the guard is not shown to matter, or an empty string."""
    with tempfile.TemporaryDirectory(prefix="blueprint-guard-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        file = copy / guard["file"]
        text = file.read_text(encoding="utf-8")
        if text.count(guard["find"]) != 1:
            return f"`find` is found {text.count(guard['find'])} times in {guard['file']}, expected once"
        file.write_text(text.replace(guard["find"], guard["replace"]), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "tools/tests/test_false_green.py",
        ]
        done = subprocess.run([*command, "-k", guard["test"]], cwd=copy, capture_output=True, text=True)
        if done.returncode == 1 and " failed" in done.stdout:
            return ""
        return f"{guard['test']} passes without it" if done.returncode == 0 else f"the run broke ({done.returncode})"
