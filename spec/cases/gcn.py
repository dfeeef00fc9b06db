"""Cases of graph convolutions, and the graphs that the specs of all graph networks use."""

import torch

from impl.models.gcn import GCN, GCNConv, normalized_adjacency
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import reseed

# Edges from row 0 to row 1: a repeated one (0 → 1), a loop (2 → 2), one way only (3 → 0), and node 4 has none.
EDGES = torch.tensor([[0, 1, 0, 2, 2, 3, 1, 2], [1, 0, 1, 1, 2, 0, 2, 3]])

# What no layer of a graph can keep: its first input is not a batch.
COUPLED = {
    "batch_independent": "a node's output depends on its neighbours, which is the layer",
    "batch_independent_in_eval": "a node's output depends on its neighbours, which is the layer",
    "empty_batch_is_defined": "edges have two rows also without nodes; each item specifies a graph without nodes",
}


def nodes(width: int, n: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def weights(count: int = EDGES.shape[1], seed: int = 3) -> torch.Tensor:
    return 0.5 + torch.rand(count, generator=torch.Generator().manual_seed(seed))


def _conv(**options):
    reseed(0)
    return GCNConv(3, 4, **options)


def _gcn():
    reseed(0)
    return GCN(3, 6, 4, num_layers=3, dropout=0.2)


_BAD = {
    "nodes of another width": Bad(call=lambda: GCNConv(3, 4)(nodes(2), EDGES), mentions=("3", "(5, 2)")),
    "nodes of three dimensions": Bad(call=lambda: GCNConv(3, 4)(torch.rand(1, 5, 3), EDGES)),
    "edges in rows": Bad(call=lambda: GCNConv(3, 4)(nodes(3), EDGES.T), mentions=("(8, 2)",)),
    "edges of floating point": Bad(call=lambda: GCNConv(3, 4)(nodes(3), EDGES.float())),
    "too few weights": Bad(call=lambda: GCNConv(3, 4)(nodes(3), EDGES, torch.ones(7)), mentions=("8", "7")),
}

CASES = [
    Case(item="gcn", name="GCNConv", build=_conv, inputs=lambda: (nodes(3), EDGES), bad=_BAD, exempt=COUPLED),
    Case(
        item="gcn",
        name="GCNConv, weighted edges, no bias",
        build=lambda: _conv(bias=False),
        inputs=lambda: (nodes(3), EDGES, weights()),
        exempt=COUPLED,
    ),
    Case(
        item="gcn",
        name="GCNConv, A as it is",
        build=lambda: _conv(normalize=False),
        inputs=lambda: (nodes(3), EDGES, weights()),
        exempt=COUPLED,
    ),
    Case(item="gcn", name="GCN", build=_gcn, inputs=lambda: (nodes(3), EDGES), exempt=COUPLED),
]

CONTRACTS = [
    Contract(
        item="gcn",
        name="GCNConv",
        of=GCNConv,
        calls=({"in_features": 3, "out_features": 4}, {"in_features": 2, "out_features": 5, "bias": True}),
        ranges={"in_features": "int >= 1", "out_features": "int >= 1"},
        state={"weight": "(out_features, in_features)", "bias": "(out_features,)"},
    ),
    Contract(
        item="gcn",
        name="GCN",
        of=GCN,
        calls=({"in_features": 3, "hidden_features": 6, "out_features": 4},),
        ranges={
            "in_features": "int >= 1",
            "hidden_features": "int >= 1",
            "out_features": "int >= 1",
            "num_layers": "int >= 1",
            "dropout": "[0, 1)",
        },
        state={
            "layers.0.weight": "(hidden_features, in_features)",
            "layers.0.bias": "(hidden_features,)",
            "layers.1.weight": "(out_features, hidden_features)",
            "layers.1.bias": "(out_features,)",
        },
        attributes={"layers": "the graph convolutions, in order; each may be called by itself"},
    ),
    Contract(
        item="gcn",
        name="normalized_adjacency",
        of=lambda **arguments: normalized_adjacency(EDGES, weights(), 5, **arguments),
    ),
]
