"""Masks next to torch.nn.utils.prune's; a masked network next to one that it has pruned."""

import torch
from torch import nn
from torch.nn.utils import prune

from impl.compression.pruning import LotteryTicket, magnitude_masks
from tools.bench import Pair

SHARE = 0.2


def _layers():
    """LeNet-300-100's three matrices."""
    return tuple(torch.randn(shape) for shape in ((300, 784), (100, 300), (10, 100)))


def _masked(scope: str):
    def run(*weights):
        named = {str(n): w for n, w in enumerate(weights)}
        masks = magnitude_masks(named, SHARE, scope=scope)
        return tuple(w * masks[name] for name, w in named.items())

    return run


def _library_layers(*weights):
    method = prune.L1Unstructured(SHARE)
    return tuple(w * method.compute_mask(w.detach(), torch.ones_like(w)) for w in weights)


def _library_global(*weights):
    flat = nn.utils.parameters_to_vector([w.detach() for w in weights])
    parts = prune.L1Unstructured(SHARE).compute_mask(flat, torch.ones_like(flat)).split([w.numel() for w in weights])
    return tuple(w * part.view_as(w) for w, part in zip(weights, parts))


def _lenet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def _ticket():
    ticket = LotteryTicket(_lenet(), SHARE)
    ticket.prune()
    return ticket


def _library_ticket():
    net = _lenet()
    for layer in net[::2]:
        prune.l1_unstructured(layer, "weight", SHARE)
    return net


PAIRS = [
    Pair(
        item="lottery-ticket",
        name="masks, layer by layer",
        ours=lambda: _masked("layer"),
        theirs=lambda: _library_layers,
        inputs=_layers,
    ),
    Pair(
        item="lottery-ticket",
        name="masks, global",
        ours=lambda: _masked("global"),
        theirs=lambda: _library_global,
        inputs=_layers,
    ),
    Pair(
        item="lottery-ticket",
        name="a step of a pruned LeNet",
        ours=_ticket,
        theirs=_library_ticket,
        inputs=lambda: (torch.randn(60, 784),),
    ),
]
