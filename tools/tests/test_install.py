"""Set-up: what stops it is said in one line, and what is done is not done again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    return tmp_path


def only_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_old_python_is_refused_in_one_line(copy, monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 4))
    assert install.main("test") == 1
    assert (
        only_line(capsys)
        == "set-up stopped: Python 3.11 or newer is needed, this is 3.10.4; try `make PYTHON=python3.11`"
    )


def test_missing_venv_module_is_one_line(copy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert install.main("test") == 1
    assert "no venv module" in only_line(capsys)


@pytest.fixture
def fake_venv(copy):
    """A virtual environment whose pip does what a file asks for."""
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n. "$(dirname "$0")/pip"\n')
    python.chmod(0o755)
    return python.parent


def test_no_network_ends_in_one_line(copy, fake_venv, capsys):
    (fake_venv / "pip").write_text("echo 'NewConnectionError: Failed to establish a new connection' >&2; exit 1\n")
    assert install.main("test") == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("set-up stopped: pip found no way")


def test_second_run_installs_nothing(copy, fake_venv):
    (fake_venv / "pip").write_text("exit 0\n")
    assert install.main("test") == install.main("test") == 0
    assert len((fake_venv / "calls").read_text().splitlines()) == 1


def test_new_pins_install_again(copy, fake_venv):
    (fake_venv / "pip").write_text("exit 0\n")
    install.main("test")
    (copy / "constraints.txt").write_text("torch==0\n")
    install.main("test")
    assert len((fake_venv / "calls").read_text().splitlines()) == 2


def test_failed_installation_is_tried_again(copy, fake_venv):
    (fake_venv / "pip").write_text("exit 1\n")
    assert install.main("test") == 1
    (fake_venv / "pip").write_text("exit 0\n")
    assert install.main("test") == 0


def test_make_without_python_is_one_line(tmp_path):
    make = shutil.which("make")
    environment = {"PATH": os.path.dirname(shutil.which("sh")), "HOME": str(tmp_path)}
    done = subprocess.run(
        [make, "-C", str(REPOSITORY), "setup", "PYTHON=no-such-python"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "set-up stopped: no no-such-python found" in done.stderr


def test_golden_values_need_nothing_that_only_specs_need():
    """`make golden` runs in an environment of the oracles alone."""
    absent = ("beartype", "hypothesis", "pytest", "networkx", "ruff")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\nimport tools.__main__, tools.golden, spec.golden"
    done = subprocess.run([sys.executable, "-c", code], cwd=install.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
