"""Contracts: ranges as text, and each law of contracts with a class that breaks it."""

import math

import pytest
import torch
from torch import nn

from spec import contract, laws, ranges
from spec.contract import Contract


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("int >= 1", (1,), (0,)),
        ("int >= 0 or None", (0, None), (-1,)),
        ("even >= 2", (2,), (0, 3)),
        ("odd >= 1", (1,), (-1, 2)),
        ("int in [2, 16]", (2, 16), (1, 17)),
        ("[0, 1)", (0.0,), (-5e-324, 1.0, math.nan)),
        ("(0, 1]", (1.0,), (0.0, 1 + 2**-52, math.nan)),
        ("[0, inf]", (0.0, math.inf), (-5e-324, math.nan)),
        ("(-inf, inf)", (), (-math.inf, math.inf, math.nan)),
        ("pair of int >= 1", ((1, 0.5), (0.5, 1)), ((0, 0.5), (0.5, 0))),
        ("'zeros', 'same'", ("zeros", "same"), ("no such choice",)),
    ],
)
def test_a_range_has_edges(text, inside, outside):
    assert ranges.parse(text) == ranges.Range(inside, outside)


@pytest.mark.parametrize("text", ["", "positive", "int > 1", "[0, 1", "0 <= x", "'zeros', 3"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="could not convert|expected a range"):
        ranges.parse(text)


class Scale(nn.Module):
    """y = weight · x + level, with every argument checked: what the wrong ones below depart from."""

    def __init__(self, width, level=0.0):
        super().__init__()
        if width < 1 or not 0 <= level <= 1:
            raise ValueError(f"expected width >= 1 and level in [0, 1], got width {width} and level {level}")
        self.weight = nn.Parameter(torch.ones(width))
        self.level = level

    def forward(self, x):
        return self.weight * x + self.level


class RefusesTheBoundary(Scale):
    def __init__(self, width, level=0.0):
        if level == 1:
            raise ValueError("expected level below 1")
        super().__init__(width, level)


class AcceptsWhatIsBeyond(nn.Module):
    def __init__(self, width, level=0.0):
        super().__init__()
        self.weight, self.level = nn.Parameter(torch.ones(width)), level


class RaisesAnotherError(Scale):
    def __init__(self, width, level=0.0):
        assert 0 <= level <= 1
        super().__init__(width, level)


class HasAnotherKey(Scale):
    def __init__(self, width, level=0.0):
        super().__init__(width, level)
        self.gain = self.weight
        del self.weight


class HasAnotherShape(Scale):
    def __init__(self, width, level=0.0):
        super().__init__(width, level)
        self.weight = nn.Parameter(torch.ones(width, 1))


class HidesItsLevel(Scale):
    def __init__(self, width, level=0.0):
        super().__init__(width, level)
        self._level = self.level
        del self.level


def scaled(of) -> Contract:
    return Contract(
        item="double",
        name="Scale",
        of=of,
        calls=({"width": 3, "level": 0.5},),
        ranges={"width": "int >= 1", "level": "[0, 1]"},
        state={"weight": "(width,)"},
        attributes={"level": "what is added"},
    )


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        (contract.boundaries_work, RefusesTheBoundary),
        (contract.beyond_raises, AcceptsWhatIsBeyond),
        (contract.beyond_raises, RaisesAnotherError),
        (contract.state_has_its_keys, HasAnotherKey),
        (contract.state_has_its_keys, HasAnotherShape),
        (contract.attributes_are_there, HidesItsLevel),
    ],
)
def test_a_broken_contract_is_found(law, wrong):
    law(scaled(Scale))
    with pytest.raises(AssertionError):
        law(scaled(wrong))


class Steps(torch.optim.Optimizer):
    """One that checks the rate and the betas of each group: what the wrong ones below depart from."""

    def __init__(self, params, lr=0.1, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    def add_param_group(self, group):
        self.check(self.defaults | group)
        super().add_param_group(group)

    def check(self, settings):
        if not settings["lr"] >= 0 or not all(0 <= beta < 1 for beta in settings["betas"]):
            raise ValueError(f"expected lr >= 0 and betas in [0, 1), got {settings}")


class ChecksTheDefaultsOnly(Steps):
    def check(self, settings):
        super().check(self.defaults)


class ChecksTheFirstGroupOnly(Steps):
    def check(self, settings):
        super().check(self.defaults if self.param_groups else settings)


class ChecksOneBetaOnly(Steps):
    def check(self, settings):
        super().check(settings | {"betas": settings["betas"][:1]})


class LetsNoNumberPass(Steps):
    def check(self, settings):
        super().check({"betas": settings["betas"], "lr": max(settings["lr"], -1) if settings["lr"] < 0 else 0})


@pytest.mark.parametrize("wrong", [ChecksTheDefaultsOnly, ChecksTheFirstGroupOnly, ChecksOneBetaOnly, LetsNoNumberPass])
def test_a_group_that_is_not_held_to_its_range_is_found(wrong):
    def of(made):
        return Contract(
            item="double",
            name="Steps",
            of=made,
            calls=({"params": [contract.parameter()]},),
            ranges={"lr": "[0, inf]", "betas": "pair of [0, 1)"},
        )

    for law in (contract.beyond_raises, contract.groups_keep_to_ranges):
        law(of(Steps))
    with pytest.raises(AssertionError):
        contract.groups_keep_to_ranges(of(wrong))


class LinearWithoutBias(nn.Linear):
    def forward(self, x):
        return x @ self.weight.mT


class LinearOfAnotherName(nn.Linear):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.kernel = self.weight
        del self.weight

    def forward(self, x):
        return x @ self.kernel.mT + self.bias


@pytest.mark.parametrize("wrong", [LinearWithoutBias, LinearOfAnotherName])
def test_a_counterpart_that_disagrees_is_found(wrong):
    def of(made):
        return Contract(
            item="double",
            name="Linear",
            of=made,
            calls=({"in_features": 3, "out_features": 2},),
            library="torch.nn.Linear",
            inputs=lambda arguments: (laws.double(4, 3),),
        )

    contract.agrees_with_library(of(nn.Linear))
    with pytest.raises((AssertionError, RuntimeError)):
        contract.agrees_with_library(of(wrong))


def test_a_contract_in_words():
    assert contract.in_words(scaled(Scale))[:3] == ["width: int >= 1", "level: [0, 1]", "state: weight (width,)"]


def test_what_may_be_loaded_besides_is_said():
    loads = contract.Contract(item="x", name="X", of=object, loads={"old.weight": "ignored"})
    assert contract.in_words(loads) == ["load_state_dict also takes old.weight: ignored"]
