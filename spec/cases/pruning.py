"""Cases of pruning by magnitude and of lottery tickets."""

import torch
from torch import nn

from impl.compression.pruning import LotteryTicket, magnitude_masks
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import reseed


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _weights():
    return ({"a": _random(3, 4), "b": _random(5, 2, seed=1)},)


def perceptron():
    reseed(0)
    return nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 5))


def _convolution():
    reseed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, 3))


def pruned(model, *arguments):
    """A ticket after two rounds without training: a third of the weights or so is left."""
    ticket = LotteryTicket(model, *arguments)
    ticket.prune()
    ticket.prune()
    return ticket


def _masks(*arguments, **settings):
    return lambda: magnitude_masks(*_weights(), *arguments, **settings)


def _ticket(*arguments):
    return lambda: LotteryTicket(perceptron(), *arguments)


_BAD_MASKS = {
    "a share that is no number": Bad(call=_masks(float("nan")), mentions=("nan",)),
    "a bad share of one layer": Bad(call=_masks({"a": 0.5, "b": 2.0}), mentions=("2.0", "b")),
    "a layer without a share": Bad(call=_masks({"a": 0.5}), mentions=("['a', 'b']", "['a']")),
    "global, with shares that differ": Bad(call=_masks({"a": 0.5, "b": 0.25}, scope="global"), mentions=("0.25",)),
    "a mask missing": Bad(call=_masks(0.5, {"a": _random(3, 4) > 0}), mentions=("['a']",)),
    "a mask of another shape": Bad(call=_masks(0.5, {"a": _random(3, 4) > 0, "b": _random(2, 5) > 0})),
}
_BAD_TICKET = {
    "an unknown parameter": Bad(call=_ticket({"1.weight": 0.5}), mentions=("1.weight",)),
    "global, with shares that differ": Bad(call=_ticket({"0.weight": 0.5, "2.weight": 0.25}, "global")),
    "nothing to prune": Bad(call=lambda: LotteryTicket(nn.LayerNorm(3)), mentions=("none",)),
    "no name": Bad(call=_ticket({}), mentions=("none",)),
}

_MASKS = {
    "transforms": "how many weights a mask keeps is read from them",
    "gradient_correct": "a mask is no differentiable function; what it does to gradients, the ticket's record checks",
    "compiles": "how many weights are left decides the shapes: it runs once a round, outside of any graph",
    "works_on_meta": "how many weights are left is in the data",
    "batch_independent": "weights, no samples",
    "batch_independent_in_eval": "weights, no samples",
    "inputs_not_mutated": "no gradient to ask for; the properties look at weights and masks",
    "accepts_non_contiguous": "no gradient to ask for; the properties look at transposed weights",
    "keeps_dtype": "masks are boolean; the properties look at every dtype of weights",
}

CASES = [
    Case(
        item="lottery-ticket",
        name="magnitude_masks",
        build=lambda: magnitude_masks,
        inputs=_weights,
        bad=_BAD_MASKS,
        exempt=_MASKS | {"from_scratch": "the ticket of the same file is checked, which has a backward pass"},
        is_function=True,
    ),
    Case(
        item="lottery-ticket",
        name="LotteryTicket",
        build=lambda: pruned(perceptron(), 0.4),
        inputs=lambda: (_random(3, 7),),
        bad=_BAD_TICKET,
    ),
    Case(
        item="lottery-ticket",
        name="LotteryTicket, global, convolution",
        build=lambda: pruned(_convolution(), 0.4, "global"),
        inputs=lambda: (_random(3, 2, 4, 5),),
        exempt={"from_scratch": "the networks are the caller's: this one has torch's own convolution"},
    ),
]


_RANGES = {"amount": "[0, 1]", "scope": "'layer', 'global'"}

CONTRACTS = [
    Contract(
        item="lottery-ticket",
        name="magnitude_masks",
        of=magnitude_masks,
        calls=({"weights": _weights()[0]},),
        ranges=_RANGES,
    ),
    Contract(
        item="lottery-ticket",
        name="LotteryTicket",
        of=LotteryTicket,
        calls=({"model": Fresh(perceptron)},),
        ranges=_RANGES,
        attributes={
            "model": "the network itself, a module of this one",
            "masks": "name → boolean tensor, True where the weight is left; what is written into it counts",
        },
        remembers="the masks and the initialisation, both in the state dict",
    ),
]
