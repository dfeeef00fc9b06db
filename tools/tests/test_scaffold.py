"""The skeleton shows what to write and nothing of how."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tools import scaffold

REPOSITORY = Path(__file__).parents[2]

MODULE = '''
"""What it is, y = 2 x."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._secret import trick

ROOT = math.sqrt(2)


class _Inner(nn.Module):
    def __init__(self, size: int = 3):
        super().__init__()
        self.size = size

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Shape in, shape out."""
        return trick(input) * ROOT

    def _helper(self):
        return 1

    def extra_repr(self):
        return "size"


class Layer(_Inner):
    """A layer.

    Args:
        size: how large.
    """

    def reset(self, *, hard: bool = False) -> None:
        """Start again."""
        torch.zeros(3)


def function(x: Tensor, scale: float = 2.0) -> Tensor:
    """2 x."""
    return x * scale


def _private(x):
    return x
'''


def test_signatures_and_docstrings_stay_bodies_go():
    made = scaffold.skeleton(MODULE)
    tree = ast.parse(made)
    assert ast.get_docstring(tree) == "What it is, y = 2 x."
    assert "trick" not in made and "_Inner" not in made and "_private" not in made and "ROOT" not in made
    layer, function = (n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)))
    assert ast.unparse(layer.bases[0]) == "nn.Module"
    assert ast.get_docstring(layer) == "A layer.\n\nArgs:\n    size: how large."
    methods = {n.name: n for n in layer.body if isinstance(n, ast.FunctionDef)}
    assert list(methods) == ["__init__", "forward", "reset"]
    assert ast.unparse(methods["forward"].returns) == "Float[Tensor, '*shape']"
    assert ast.unparse(function.args) == "x: Tensor, scale: float=2.0"
    for body in [m.body for m in methods.values()] + [function.body]:
        assert ast.unparse(body[-1]) == "raise NotImplementedError"
        assert len(body) <= 2


def test_skeleton_of_the_repository_imports_and_is_formatted(tmp_path, monkeypatch):
    """Every module imports by itself, without the reference and without the plugin."""
    target = tmp_path / "mine"
    assert scaffold.main(str(target), REPOSITORY) == 0
    modules = [".".join(f.relative_to(tmp_path).with_suffix("").parts) for f in sorted(target.rglob("*.py"))]
    code = "import importlib, sys\n" + f"for m in {modules!r}: importlib.import_module(m)\n"
    code += "assert not any(m == 'impl' or m.startswith('impl.') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--config", str(REPOSITORY / "pyproject.toml"), str(target)]
    subprocess.run([*ruff, "format", "--check", *settings], check=True)
    subprocess.run([*ruff, "check", "--select", "F401,I", *settings], check=True)


def test_refuses_to_overwrite(house, capsys):
    house.write("mine/notes.txt", "a week of work")
    assert scaffold.main("mine", house.root) == 1
    assert "nothing was written" in capsys.readouterr().out
    assert [f.name for f in (house.root / "mine").iterdir()] == ["notes.txt"]


def test_foundations_come_along_whole(house):
    house.write("impl/layers/linear.py", '"""Foundation."""\n\n\ndef linear(x):\n    return x\n')
    house.write("impl/layers/_secret.py", '"""Part of a solution."""\n')
    house.skeleton()
    assert (house.root / "mine/layers/linear.py").read_text() == (house.root / "impl/layers/linear.py").read_text()
    assert not (house.root / "mine/layers/_secret.py").exists()
    assert "return" not in (house.root / "mine/layers/triple.py").read_text()


def test_command_line_knows_the_command(capsys):
    from tools.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for command in ("show", "next", "scaffold", "checklist", "golden", "strength", "bench"):
        assert command in shown
    assert importlib.import_module("tools.show")


def test_public_names_of_private_modules_are_shown_where_they_are_public():
    private = ast.parse(
        '''
import torch
from torch import nn

class Kept(nn.Module):
    """Kept."""
    def forward(self, x): return torch.exp(x)

class Inner: pass
'''
    )
    text = (
        '"""Public."""\n\nfrom ._part import Inner, Kept\n\n__all__ = ["Kept", "own"]\n\n\ndef own(x):\n    return x\n'
    )
    made = scaffold.skeleton(text, {"_part": private})
    names = [n.name for n in ast.parse(made).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    assert names == ["Kept", "own"]
    assert "exp" not in made and "_part" not in made


def test_what_rests_on_a_solution_does_not_come_along(house):
    """A foundation is copied with its own private parts; one that shares a part with an item is to be written, and so
    is every other public module."""
    inner = '"""Inner."""\n\n\ndef work(x):\n    """Works."""\n    return x\n'
    outer = '"""Outer."""\n\nfrom .{} import work\n\n\ndef {}(x):\n    """Calls."""\n    return work(x)\n'
    house.write("impl/layers/_own.py", inner)
    house.write("impl/layers/_shared.py", inner)
    house.write("impl/layers/linear.py", outer.format("_own", "linear"))
    house.write("impl/layers/embedding.py", outer.format("_shared", "embedding"))
    house.write("impl/layers/part.py", outer.format("_own", "part"))
    house.write("impl/layers/triple.py", outer.format("_shared", "triple"))
    assert scaffold.main("mine", house.root) == 0
    made = {p.relative_to(house.root / "mine").as_posix(): p.read_text() for p in (house.root / "mine").rglob("*.py")}
    assert "layers/_shared.py" not in made and "return x" in made["layers/_own.py"]
    assert "return work(x)" in made["layers/linear.py"]
    for part in ("layers/embedding.py", "layers/part.py"):
        assert "NotImplementedError" in made[part] and "work" not in made[part]


def test_the_skeleton_carries_the_contract():
    docstring = '"""Twice.\n\n    Args:\n        times: how often.\n    """'
    text = f"class Double:\n    {docstring}\n\n    def f(self):\n        return 2\n"
    made = scaffold.skeleton(
        text, contracts={"Double": ["times: int >= 1", "counterpart: " + "a very long name " * 10]}
    )
    documented = ast.get_docstring(ast.parse(made).body[-1])
    start = "Twice.\n\nArgs:\n    times: how often.\n\nContract:\n    times: int >= 1\n    counterpart: a"
    assert documented.startswith(start)
    assert max(map(len, documented.splitlines())) <= 108
    assert "Contract" not in scaffold.skeleton(text, contracts={"Triple": ["times: int >= 1"], "Double": []})


def test_methods_and_variants_have_their_contracts():
    text = 'class Double:\n    """y = 2 x."""\n\n    def twice(self, n):\n        """Both."""\n        return 4\n'
    contracts = {
        "Double": ["one"],
        "Double, noisy": ["one", "two"],
        "Double.twice": ["n: int >= 1"],
        "Double.gone": ["four"],
    }
    found = scaffold.skeleton(text, contracts=contracts)
    assert '"""y = 2 x.\n\n    Contract:\n        one\n\n    Contract (noisy):\n        two\n    """' in found
    assert '"""Both.\n\n        Contract:\n            n: int >= 1\n        """' in found


def test_fields_with_values_wait_for_a_constructor():
    text = 'class Cache:\n    key: int | None = None\n\n    def append(self, key):\n        """Adds."""\n'
    made = scaffold.skeleton(text)
    assert "key: int" not in made
    assert "def __init__(self):\n        raise NotImplementedError" in made
    with_own = text + "\n    def __init__(self, size):\n        self.size = size\n"
    assert scaffold.skeleton(with_own).count("__init__") == 1
