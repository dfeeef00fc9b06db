"""One record for every public class or function: how to build it, sample inputs, bad inputs.

`spec/properties/test_laws.py` runs the laws of every module on every record. A module of this package holds the records
of one topic in a list `CASES`.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The ids of the items that a run asks for, all if empty: one item costs the import of its own topic.
wanted: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A call that must raise ValueError or TypeError.

    Attributes:
        call: makes the bad call.
        mentions: words the message must contain as well as "expected": the value that came, say.
    """

    call: Callable[[], object]
    mentions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A public class or function in one configuration whose sizes all differ.

    Attributes:
        item: the roadmap id.
        name: the public name, with what is special about this configuration: "BatchNorm2d, no affine".
        build: makes a fresh module, or returns the function.
        inputs: makes sample inputs in float32 (N = 2 or 3, no two sizes equal), the same at every call.
        bad: what is wrong → the bad call.
        exempt: name of a law → why it does not apply.
        is_function: no module, so the laws of state do not apply.
    """

    item: str
    name: str
    build: Callable[[], Callable]
    inputs: Callable[[], tuple]
    bad: Mapping[str, Bad] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)
    is_function: bool = False


@dataclass(frozen=True, kw_only=True)
class OptimizerCase:
    """A public optimizer in one configuration: every setting differs from its default and none is zero.

    Attributes:
        item: the roadmap id.
        name: the public name, with what is special about this configuration: "AdamW, amsgrad".
        build: makes a fresh optimizer for a list of parameters or of groups.
        library: makes torch's counterpart with the same settings, where torch.optim has one.
        bad: what is wrong → the bad call.
        exempt: name of a law → why it does not apply.
    """

    item: str
    name: str
    build: Callable[[list], object]
    library: Callable[[list], object] | None = None
    bad: Mapping[str, Bad] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)


def without_counterpart(why: str) -> dict[str, str]:
    """The exemptions of an optimizer that torch.optim does not have."""
    laws = ("agrees_with_torch", "defaults_are_torchs", "zero_is_a_setting", "trades_states_with_torch")
    return dict.fromkeys(laws, why)


def all_cases() -> list:
    """The records of every topic, in the order of the topics' names, or of the wanted items' only."""
    return [case for module in _topics() for case in module.CASES]


def all_optimizer_cases() -> list:
    """The optimizers of every topic that has a list `OPTIMIZER_CASES`."""
    return [case for module in _topics() for case in getattr(module, "OPTIMIZER_CASES", [])]


def all_contracts() -> list:
    """The contracts of every topic that has a list `CONTRACTS`."""
    return [contract for module in _topics() for contract in getattr(module, "CONTRACTS", [])]


def _topics() -> list:
    files = sorted(f for f in Path(__file__).parent.glob("*.py") if f.stem != "__init__")
    return [importlib.import_module(f"{__name__}.{f.stem}") for f in files if not wanted or _mentions_wanted(f)]


def _mentions_wanted(file: Path) -> bool:
    text = file.read_text(encoding="utf-8")
    return any(f'"{item}"' in text for item in wanted)
