"""Contracts: what the specs may ask of any implementation of a public class, as data; and the laws that ask it.

A stranger reads a contract in `python -m tools show ITEM` and in the skeleton; nothing else may be asked of their code.
`spec/cases/<topic>.py` holds the contracts of a topic in a list `CONTRACTS`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from spec import laws
from spec.ranges import parse, wrong_part


@dataclass(frozen=True)
class Fresh:
    """An argument that is made anew for each call: one that the call changes, or that the subject itself makes."""

    make: Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What is promised of one public class or function, beyond its signature and docstring.

    Attributes:
        item: the roadmap id.
        name: the public name.
        of: the class or function of that name.
        calls: argument sets that work; ranges vary one argument of the first.
        ranges: argument → its range, as in `spec.ranges`; inside it works, outside it raises ValueError or TypeError.
        state: key of the state dict → shape, an expression in the arguments: {"weight": "(num_features,)"}. A
            submodule with a weight, "out_proj" of "out_proj.weight", is one that may be called by itself.
        attributes: name → what it is, for attributes of an instance that no signature shows.
        loads: key that `load_state_dict` takes besides those of the state → what it does with it.
        remembers: what is kept between calls; empty if nothing is.
        library: dotted name of a counterpart that takes the same arguments; states trade with it and outputs agree.
        inputs: sample inputs of a call, in float64, for the comparison with the library.
    """

    item: str
    name: str
    of: Callable
    calls: Sequence[Mapping] = ({},)
    ranges: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, str] = field(default_factory=dict)
    remembers: str = ""
    library: str = ""
    inputs: Callable[[Mapping], tuple] | None = None
    exempt: Mapping[str, str] = field(default_factory=dict)

    def build(self, **changed):
        """Make one with the first argument set, some arguments changed; a function is called."""
        arguments = dict(self.calls[0]) | changed
        return self.of(**{k: value.make() if isinstance(value, Fresh) else value for k, value in arguments.items()})

    @property
    def has_groups(self) -> bool:
        """It is an optimizer, whose parameter groups may have settings of their own."""
        return "params" in self.calls[0]

    def counterpart(self, arguments: Mapping):
        module, _, name = self.library.rpartition(".")
        return getattr(importlib.import_module(module), name)(**arguments)

    def shapes(self, arguments: Mapping) -> dict[str, tuple[int, ...]]:
        """State key → shape, for one argument set."""
        bound = inspect.signature(self.of).bind(**arguments)
        bound.apply_defaults()
        return {key: tuple(eval(shape, {}, dict(bound.arguments))) for key, shape in self.state.items()}


OF_CONTRACTS: dict[str, laws.Law] = {}


@laws.law(
    "An argument at the boundary of its range works.",
    source="the contract's ranges",
    among=OF_CONTRACTS,
    needs="ranges",
    own_code=True,
)
def boundaries_work(contract: Contract):
    contract.build()
    for name, text in contract.ranges.items():
        for value in parse(text).inside:
            try:
                contract.build(**{name: value})
            except (ValueError, TypeError) as error:
                found = f"{contract.name}({name}={value!r}) raised {type(error).__name__}: {error}"
                raise AssertionError(f"expected {name} in {text} to work, found {found}") from error


@laws.law(
    "An argument beyond its range raises ValueError or TypeError.",
    source="the contract's ranges",
    among=OF_CONTRACTS,
    needs="ranges",
    own_code=True,
)
def beyond_raises(contract: Contract):
    contract.build()  # refusing everything is no answer
    for name, text in contract.ranges.items():
        for value in parse(text).outside:
            shown = f"{contract.name}({name}={value!r}), where {name} is in {text}"
            # What came is in the message; an inner layer that checks it may have another name for the argument.
            laws.rejects(lambda name=name, value=value: contract.build(**{name: value}), (wrong_part(value),), shown)


@laws.law(
    "A setting of a parameter group beyond its range raises ValueError or TypeError, also in the last group.",
    source="the contract's ranges; torch.optim's parameter groups",
    among=OF_CONTRACTS,
    needs="has_groups",
    own_code=True,
)
def groups_keep_to_ranges(contract: Contract):
    settings = contract.build().param_groups[0]
    for name, text in contract.ranges.items():
        for value in parse(text).outside if name in settings else ():
            for before in ([], [{"params": [parameter()]}]):
                groups = [*before, {"params": [parameter()], name: value}]
                shown = f"{contract.name} with {name}={value!r} in group {len(before)}, where {name} is in {text}"
                laws.rejects(lambda groups=groups: contract.build(params=groups), (wrong_part(value),), shown)


@laws.law(
    "The state dict has the keys and shapes of the contract.",
    source="the contract's state",
    among=OF_CONTRACTS,
    needs="state",
)
def state_has_its_keys(contract: Contract):
    arguments = contract.calls[0]
    found = {key: tuple(value.shape) for key, value in contract.of(**arguments).state_dict().items()}
    if found != contract.shapes(arguments):
        raise AssertionError(f"expected the state {contract.shapes(arguments)}, found {found}")


@laws.law(
    "The attributes that the contract promises are there.",
    source="the contract's attributes",
    among=OF_CONTRACTS,
    needs="attributes",
)
def attributes_are_there(contract: Contract):
    built = contract.build()
    absent = [name for name in contract.attributes if not hasattr(built, name)]
    if absent:
        raise AssertionError(f"expected {contract.name} to have {', '.join(absent)}, found no such attribute")


@laws.law(
    "The library's counterpart with the same weights gives the same outputs, gradients and next state, and its state "
    "dict loads in both directions.",
    source="the library's documentation; weights that were trained there are used here",
    among=OF_CONTRACTS,
    needs="library",
)
def agrees_with_library(contract: Contract):
    for arguments in contract.calls:
        ours, theirs = contract.of(**arguments).double(), contract.counterpart(arguments).double()
        laws.randomise(ours)
        theirs.load_state_dict(ours.state_dict())
        again = contract.of(**arguments).double()
        again.load_state_dict(theirs.state_dict())
        inputs = contract.inputs(arguments)
        for train in (True, False):
            for one in (ours, again):
                theirs.load_state_dict(one.state_dict())
                laws.gradients_match(one.train(train), theirs.train(train), *inputs)
                laws.assert_all_close(_statistics(one), _statistics(theirs))


def _statistics(module) -> dict:
    """The state but for counters, which are bookkeeping, in the order of the names."""
    return {key: value for key, value in sorted(module.state_dict().items()) if value.is_floating_point()}


def in_words(contract: Contract) -> list[str]:
    """The contract as lines for a reader."""
    lines = [f"{name}: {text}" for name, text in contract.ranges.items()]
    if contract.state:
        lines.append("state: " + ", ".join(f"{key} {shape}" for key, shape in contract.state.items()))
    if any(key.endswith(".weight") for key in contract.state):
        lines.append("what precedes .weight in a key is a submodule that may be called by itself")
    lines += [f"load_state_dict also takes {key}: {what}" for key, what in contract.loads.items()]
    lines += [f".{name}: {what}" for name, what in contract.attributes.items()]
    if contract.remembers:
        lines.append(f"between calls: {contract.remembers}")
    if contract.library:
        lines.append(f"counterpart: {contract.library}, same arguments; states trade both ways, outputs agree")
    return lines


def parameter() -> torch.nn.Parameter:
    """One for an optimizer."""
    return torch.nn.Parameter(torch.ones(2, 3))


def linear(name: str, rows: str, columns: str, bias: bool = True) -> dict[str, str]:
    """State of a linear layer of that name, laid out as torch.nn.Linear's; rows and columns are expressions."""
    return {f"{name}.weight": f"({rows}, {columns})"} | ({f"{name}.bias": f"({rows},)"} if bias else {})


def affine(name: str, width: str) -> dict[str, str]:
    """State of a norm of that name: weight and bias."""
    return {f"{name}.weight": f"({width},)", f"{name}.bias": f"({width},)"}


def masked_language_model(projections: Sequence[str], positions: str) -> dict[str, str]:
    """State of BERT's kind: three tables and their norm, one layer of an attention with these projections, a head."""
    state = {"words.weight": "(vocab_size, embed_dim)", "positions.weight": f"({positions}, embed_dim)"}
    state |= {"types.weight": "(num_types, embed_dim)"} | affine("norm", "embed_dim")
    for name in projections:
        state |= linear(f"layers.0.self_attn.{name}", "embed_dim", "embed_dim")
    state |= linear("layers.0.feed_forward.linear1", "dim_feedforward", "embed_dim")
    state |= linear("layers.0.feed_forward.linear2", "embed_dim", "dim_feedforward")
    state |= affine("layers.0.norm1", "embed_dim") | affine("layers.0.norm2", "embed_dim")
    state |= {"head.bias": "(vocab_size,)"} | linear("head.dense", "embed_dim", "embed_dim")
    return state | affine("head.norm", "embed_dim")
