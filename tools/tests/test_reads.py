"""What a spec reads beyond the contract is found in whatever form it is read; what it may read is not."""

import re

import pytest

from spec.contract import Contract
from tools import lint
from tools.promised import promises_of
from tools.reads import unpromised

STEPPED = '''
"""A layer with parts, an optimizer, and a result with fields."""

from typing import NamedTuple

import torch
from torch import nn


class Found(NamedTuple):
    """What `look` finds."""

    value: torch.Tensor


class Layer(nn.Module):
    """A layer.

    Attributes:
        width, depth: as given.
    """

    def __init__(self, width: int, depth: int = 2):
        super().__init__()
        self.width, self.depth, self.hidden = width, depth, 3
        self.secret = 4
        self.parts = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

    @classmethod
    def shallow(cls, width: int) -> "Layer":
        """One part."""
        return cls(width, 1)

    def look(self) -> Found:
        """Look."""
        return Found(self.parts[0].weight)

    def _inner(self):
        return self.hidden


class Step(torch.optim.Optimizer):
    """A step."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, {"lr": lr})

    def step(self):
        """Step."""
'''

CONTRACTS = [
    Contract(
        item="double",
        name="Layer",
        of=object,
        state={"parts.0.weight": "(width, width)", "parts.0.bias": "(width,)", "head.norm.weight": "(width,)"},
        loads={"old.weight": "ignored"},
        attributes={"width": "as given"},
    ),
    Contract(item="double", name="Step", of=object, remembers="the sum, of each parameter's shape"),
]

SPEC = '''
"""Specs."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from impl.models.curve import Layer, Step
from spec import helpers
from spec.helpers import ready

pytestmark = pytest.mark.item("double")
EACH = pytest.mark.parametrize(("build", "n"), [(Layer, 1), (lambda n: Layer(n), 2)])


class Other:
    hidden = 1


def layer(width=3):
    return ready(Layer(width).double())


@EACH
def test_it_keeps_to_the_contract(build, n):
    """It does.

    Source: none.
    """
    module = build(n)
{body}
'''

HELPERS = """
def ready(module):
    for parameter in module.parameters():
        parameter.data.fill_(1)
    return module


def hidden_of(module):
    return module.hidden
"""

# what a spec does → what is said of it
BEYOND = {
    "module.hidden": "reads .hidden of Layer",
    "module.hidden = 4": "reads .hidden of Layer",
    "module._inner()": "reads ._inner of Layer",
    "module.double().eval().hidden": "reads .hidden of Layer",
    "Layer.deep(3)": "reads .deep of Layer",
    "getattr(module, 'hidden')": "reads .hidden of Layer",
    "[getattr(module, f'{n}den') for n in 'ab']": "reads ..*den of Layer",
    "other = copy.deepcopy(layer())\n    other.hidden": "reads .hidden of Layer",
    "[m.hidden for m in (layer(), Layer(4))]": "reads .hidden of Layer",
    "for n, m in enumerate([layer()]):\n        assert m.hidden": "reads .hidden of Layer",
    "first, *rest = layer(), layer(4)\n    first.hidden": "reads .hidden of Layer",
    "act = lambda: module.hidden": "reads .hidden of Layer",
    "made = partial(Layer, 3)\n    made().hidden": "reads .hidden of Layer",
    "helpers.hidden_of(module)": "reads .hidden of Layer",
    "def inner():\n        return module.hidden": "reads .hidden of Layer",
    "with torch.no_grad():\n        assert module.look().other": "reads .other of Found",
    "module.parts[0].hidden": "reads .parts.0.hidden of Layer",
    "module.head.other": "reads .head.other of Layer",
    "module.head(3)": "calls .head of Layer",
    "module.state_dict()['parts.0.scale']": "expects the key 'parts.0.scale' of Layer",
    "state = module.state_dict()\n    assert 'scale' in state": "expects the key 'scale' of Layer",
    "assert set(module.state_dict()) == {'parts.0.weight', 'scale'}": "expects the key 'scale' of Layer",
    "assert list(module.state_dict().keys()) == ['scale']": "expects the key 'scale' of Layer",
    "module.state_dict().pop('scale')": "expects the key 'scale' of Layer",
    "[module.state_dict()[f'parts.{n}.scale'] for n in (0, 1)]": "expects the key 'parts..*.scale' of Layer",
    "module.load_state_dict({'scale': 1})": "expects the key 'scale' of Layer",
    "module.load_state_dict(module.state_dict() | {'scale': 1})": "expects the key 'scale' of Layer",
    "step = Step([module.parts[0].weight])\n    step.state[0]['exp_avg']": "expects the key 'exp_avg' of Step",
    "step = Step([1])\n    assert [s['exp_avg'] for s in step.state.values()]": "expects the key 'exp_avg' of Step",
    "step = Step([1])\n    assert step.state[0].keys() - {'sum'} == {'exp_avg'}": "expects the key 'exp_avg' of Step",
    "assert 'exp_avg' in Step([1]).state[0]": "expects the key 'exp_avg' of Step",
    "Step([1]).param_groups[0]['eps']": "expects the key 'eps' of Step",
    "Step([1]).hidden": "reads .hidden of Step",
    "[m.secret for m in nn.ModuleList([module]).modules()]": "reads .secret of something",
}

WITHIN = (
    "assert module.width and module.depth and module.training and module.look().value.shape",
    "module.parts[1](3), module.parts[0].weight.data, module.head.norm.weight.T, module.parts[0].train().weight",
    "assert set(module.state_dict()) >= {'parts.0.weight', 'parts.11.bias'} and 'scale' not in module.state_dict()",
    "module.load_state_dict({'parts.1.weight': 1, 'old.weight': 2})",
    "[getattr(module.parts[0], name) for name in ('weight', 'bias')]",
    "[getattr(module.parts[0], f'{name}ght') for name in ('wei',)]",
    "step = Step([1], lr=3)\n    step.param_groups[0]['lr'], step.state[0]['sum'], step.state_dict(), step.zero_grad()",
    "Layer.shallow(3).width, Layer.__name__",
    "Other().hidden, module.forward(3).hidden, nn.Linear(2, 3).hidden",
    "nn.functional.secret(3), [m.weight.shape for m in nn.ModuleList([module]).modules()]",
)


@pytest.fixture
def planted(house):
    house.write("impl/models/curve.py", STEPPED)
    house.write("spec/helpers.py", HELPERS)

    def plant(body):
        house.write("spec/properties/test_planted.py", SPEC.replace("{body}", f"    {body}"))
        found = unpromised(house.root, promises_of(house.root, CONTRACTS))
        return {(f.where.partition(":")[0], f.what) for f in found}

    plant.house = house
    return plant


@pytest.mark.parametrize("body", BEYOND)
def test_what_is_beyond_the_contract_is_found(planted, body):
    assert planted(body) == {("spec/properties/test_planted.py", BEYOND[body])}


@pytest.mark.parametrize("body", WITHIN)
def test_what_is_within_the_contract_passes(planted, body):
    assert planted(body) == set()


def test_a_convention_of_the_project_may_read_more(planted):
    planted("module.hidden")
    planted.house.edit("spec/properties/test_planted.py", "@EACH", "@pytest.mark.project_convention\n@EACH")
    assert unpromised(planted.house.root, promises_of(planted.house.root, CONTRACTS)) == []
    planted("module.hidden")
    mark = '[pytest.mark.item("double"), pytest.mark.project_convention]'
    planted.house.edit("spec/properties/test_planted.py", 'pytest.mark.item("double")', mark)
    assert unpromised(planted.house.root, promises_of(planted.house.root, CONTRACTS)) == []


def test_without_a_contract_a_class_has_what_its_skeleton_shows(planted):
    planted("module.width, module.parts")
    found = unpromised(planted.house.root, promises_of(planted.house.root))
    assert {f.what for f in found} == {"reads .parts of Layer"}


def test_a_helper_that_is_followed_is_reported_once(planted):
    planted("pass")
    helper = "def width_of(module):\n    return module.secret\n\n\nassert width_of(Layer(3))\n\n\n@EACH"
    planted.house.edit("spec/properties/test_planted.py", "@EACH", helper)
    found = unpromised(planted.house.root, promises_of(planted.house.root, CONTRACTS))
    assert "reads .secret of Layer" in {f.what for f in found}
    assert not {f.where for f in found if "something" in f.what} & {f.where for f in found if "Layer" in f.what}


def test_the_line_is_that_of_the_spec(planted):
    planted("helpers.hidden_of(module)")
    (finding,) = (f for f in lint.findings(planted.house.root) if f.rule == "beyond-contract")
    file, line = finding.where.split(":")
    assert "helpers.hidden_of(module)" in (planted.house.root / file).read_text().splitlines()[int(line) - 1]
    assert re.match(r"reads \.hidden of Layer, which no contract names; promise it there", finding.what)
