"""A throw-away house for the tests of the machinery: three items, specs of three kinds, a reference."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch._dynamo.repro.after_dynamo  # noqa: F401

# pytester forgets the modules that a run imported; these cannot be loaded twice, so they are loaded before.
import spec.strategies  # noqa: F401

ROADMAP = """
[[section]]
title = "Arithmetic"

[[section.group]]
title = "Scaling"
item = [
  {id = "double", title = "Doubling", papers = ["Euclid, book V"], module = "impl.layers.double", names = ["Double"]},
  {id = "triple", title = "Tripling", papers = ["Euclid, book V"], module = "impl.layers.triple", names = ["triple"]},
]

[[section]]
title = "Geometry"

[[section.group]]
title = "Curves"
item = [
  {id = "curve", title = "Curves", papers = ["Euclid, book III"], module = "impl.models.curve", names = ["Curve"]},
]
"""

DOUBLE = '''
"""Doubling, y = 2 x."""

from jaxtyping import Float
from torch import Tensor, nn


class _Scale(nn.Module):
    factor = 1

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """y = factor·x."""
        return self.factor * input


class Double(_Scale):
    """y = 2 x."""

    factor = 2
'''

TRIPLE = '''
"""Tripling, y = 3 x."""

from torch import Tensor


def triple(x: Tensor) -> Tensor:
    """y = 3 x."""
    return 3 * x
'''

SPEC = '''
"""{title}."""

import pytest
import torch
from hypothesis import given

from impl.layers.{item} import {name}
from spec import laws, strategies

pytestmark = pytest.mark.item("{item}")


{body}
'''

ADDITIVE = '''
@given(x=strategies.tensors(shape=(2,)), y=strategies.tensors(shape=(2,)))
def test_is_additive(x, y):
    """f(x + y) = f(x) + f(y) for every x and y.

    Source: Euclid, book V, proposition 1.
    """
    laws.assert_close({call}(x + y), {call}(x) + {call}(y))
'''

VALUE = '''
def test_value_at_one():
    """f(1) is the factor.

    Source: Euclid, book V, definition 2.
    """
    laws.assert_close({call}(torch.ones(3)), torch.full((3,), {factor}.0))
'''

GROWS = '''
def test_grows_step_by_step():
    """Applied twice, the factor is squared.

    Source: Euclid, book VIII.
    """
    laws.assert_close({call}({call}(torch.ones(3))), torch.full((3,), {factor}.0**2))
'''


class House:
    """A small repository with the machinery around it."""

    def __init__(self, pytester: pytest.Pytester):
        self.pytester = pytester
        self.root: Path = pytester.path
        self.write("pyproject.toml", '[tool.pytest.ini_options]\ntestpaths = ["spec"]\n')
        self.write("spec/roadmap.toml", ROADMAP)
        self.write("spec/conftest.py", (Path(__file__).parents[2] / "spec/conftest.py").read_text(encoding="utf-8"))
        for package in ("impl", "impl/layers"):
            self.write(f"{package}/__init__.py", "")
        self.write("impl/layers/double.py", DOUBLE)
        self.write("impl/layers/triple.py", TRIPLE)
        for item, name, call, factor in (("double", "Double", "Double()", 2), ("triple", "triple", "triple", 3)):
            for kind, body in (("properties", ADDITIVE), ("golden", VALUE), ("behaviours", GROWS)):
                body = body.format(call=call, factor=factor).strip()
                text = SPEC.format(title=item.title(), item=item, name=name, body=body)
                self.write(f"spec/{kind}/test_{item}_{kind}.py", text)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text).lstrip(), encoding="utf-8")
        return file

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is found {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, *arguments: str) -> pytest.RunResult:
        """One pytest run in this process."""
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)

    def skeleton(self, folder: str = "mine") -> None:
        from tools import scaffold

        assert scaffold.main(folder, self.root) == 0

    def tick(self, *items: str) -> None:
        """Commit these as done."""
        self.write("spec/done.toml", "".join(f'{i} = {{ claims = 1, hash = "" }}\n' for i in items))


@pytest.fixture
def house(pytester, monkeypatch) -> House:
    # A test that read the real contracts has imported the real implementation; the house has one of its own.
    for name in [name for name in sys.modules if name.partition(".")[0] == "impl"]:
        monkeypatch.delitem(sys.modules, name)
    # Two versions of a file within one second would share their byte code.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # Programs that a test starts run these tools, not those that are installed from elsewhere.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return House(pytester)
