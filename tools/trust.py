"""Makes the exit status of a run worth believing, whatever the code under test does to the process that runs it.

The specs run in a fork of the process that was started; the parent, which never imports the subject, passes on no
status but the one that the run itself has handed over at its end. Functions of pytest and of these tools that were
replaced meanwhile are named.
"""

import contextlib
import inspect
import os
import signal
import sys
import types
from pathlib import Path

from tools.roadmap import ROADMAP

# Modules whose functions decide what runs and what is reported.
_MACHINERY = (
    "_pytest.python",
    "_pytest.runner",
    "_pytest.reports",
    "_pytest.main",
    "_pytest.outcomes",
    "_pytest.skipping",
)
_MACHINERY += ("_pytest.raises", "_pytest.fixtures", "pluggy._callers", "pluggy._hooks", "pluggy._manager")
_MACHINERY += ("tools.plugin", "tools.results", "tools.specfile", "tools.subject", "tools.report", "tools.trust")


class Channel:
    """The way from a run to its parent, open since before anything of the subject was imported."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def hand_over(self, status: int) -> None:
        """Tell the parent that the run came to its end, and how."""
        os.write(self.descriptor, f"{int(status)}\n".encode())


def split(root: Path, config) -> Channel | None:
    """Go on in a fork, and wait in this process for its result.

    Returns: in the fork its channel; None where there is no parent: a run inside of another program, a worker, a run
    of other tests, a system without fork.
    """
    if not hasattr(os, "fork") or not is_command(config) or not (root / ROADMAP).is_file():
        return None
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        return Channel(writing)
    os.close(writing)
    os._exit(_wait(child, reading))


def is_command(config) -> bool:
    """Is this process a `pytest` that somebody started, to run specs?"""
    options = config.known_args_namespace
    asks = getattr(options, "version", 0) or getattr(options, "help", False)
    return not (asks or config.invocation_params.plugins or "PYTEST_XDIST_WORKER" in os.environ)


def restart_with_joined_option(option: str) -> None:
    """Start this program again with "option=value" for "option value", where the command line has that.

    pytest looks for its root before it knows the options of plugins: a value of its own is a path to it.
    """
    words = list(sys.orig_argv)
    if option in words[:-1]:
        n = words.index(option)
        words[n : n + 2] = [f"{option}={words[n + 1]}"]
        os.execv(sys.executable, words)


def machinery() -> dict[str, object]:
    """Every function that decides what runs and what is reported, by name; properties and methods too."""
    found = {}
    for name in _MACHINERY:
        module = sys.modules.get(name)
        for attribute, value in vars(module).items() if module else ():
            if isinstance(value, types.FunctionType) and value.__module__ == name:
                found[f"{name}.{attribute}"] = value, value.__code__
            elif inspect.isclass(value) and value.__module__ == name:
                for inner, member in vars(value).items():
                    if callable(member) or isinstance(member, (property, classmethod, staticmethod)):
                        found[f"{name}.{attribute}.{inner}"] = member, getattr(member, "__code__", None)
    return found


def replaced(before: dict[str, object]) -> list[str]:
    """Names of functions that are no longer what they were."""
    now = machinery()
    return sorted(name for name, was in before.items() if now.get(name) != was)


def _wait(child: int, reading: int) -> int:
    """The exit status for a run that a fork does: what it handed over, or a failure where it did not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork is told as well, and ends in its own way
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    _, ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    os.set_blocking(reading, False)
    said = b""
    with contextlib.suppress(BlockingIOError):  # a process that the run has left running may still hold the other end
        said = os.read(reading, 64)
    if status < 0:
        return 128 - status
    if not said.endswith(b"\n"):
        if status == 0:
            print("exit 1: the run was left before its end, so its status proves nothing", file=sys.stderr)
        return status or 1
    return status or int(said)
