"""Cases of GraphSAGE."""

import torch

from impl.models.graphsage import GraphSAGE, SAGEConv, sample_neighborhood, sample_neighbors, unsupervised_loss
from spec.cases import Bad, Case
from spec.cases.gcn import COUPLED, EDGES, nodes
from spec.contract import Contract
from spec.laws import reseed


def _conv(aggregator, **options):
    reseed(0)
    return SAGEConv(3, 4, aggregator, **options)


def _sage():
    reseed(0)
    return GraphSAGE(3, 6, 4, num_layers=3)


def _pairs():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, generator=draw), torch.randn(2, 3, generator=draw), torch.randn(2, 4, 3, generator=draw)


_BAD = {
    "nodes of another width": Bad(call=lambda: SAGEConv(3, 4)(nodes(2), EDGES), mentions=("3", "(5, 2)")),
    "edges in rows": Bad(call=lambda: SAGEConv(3, 4)(nodes(3), EDGES.T), mentions=("(8, 2)",)),
    "edges of floating point": Bad(call=lambda: SAGEConv(3, 4)(nodes(3), EDGES.float())),
    "as many graphs as there are not layers": Bad(call=lambda: GraphSAGE(3, 6, 4)(nodes(3), [EDGES]), mentions=("2",)),
    "a negative of another width": Bad(call=lambda: unsupervised_loss(nodes(3), nodes(3), torch.rand(5, 2, 4))),
    "negatives without a dimension of their own": Bad(call=lambda: unsupervised_loss(*[nodes(3)] * 3)),
}

_RAGGED = COUPLED | {
    "works_on_meta": "how many steps the LSTM takes is the largest number of neighbours, which is data",
    "compiles": "how many steps the LSTM takes is the largest number of neighbours, which is data",
    "transforms": "how many steps the LSTM takes is the largest number of neighbours, which is data",
}

CASES = [
    Case(
        item="graphsage",
        name="SAGEConv, mean",
        build=lambda: _conv("mean"),
        inputs=lambda: (nodes(3), EDGES),
        bad=_BAD,
        exempt=COUPLED,
    ),
    Case(
        item="graphsage",
        name="SAGEConv, gcn, no bias, lengths as they are",
        build=lambda: _conv("gcn", bias=False, normalize=False),
        inputs=lambda: (nodes(3), EDGES),
        exempt=COUPLED,
    ),
    Case(
        item="graphsage",
        name="SAGEConv, pool, linear",
        build=lambda: _conv("pool", activation=False),
        inputs=lambda: (nodes(3), EDGES),
        exempt=COUPLED,
    ),
    Case(
        item="graphsage",
        name="SAGEConv, lstm, linear",
        build=lambda: _conv("lstm", activation=False),
        inputs=lambda: (nodes(3), EDGES),
        exempt=_RAGGED,
    ),
    Case(item="graphsage", name="GraphSAGE", build=_sage, inputs=lambda: (nodes(3), EDGES), exempt=COUPLED),
    Case(
        item="graphsage",
        name="unsupervised_loss",
        build=lambda: unsupervised_loss,
        inputs=_pairs,
        is_function=True,
        exempt={
            "batch_independent": "a mean over the batch",
            "batch_independent_in_eval": "a mean over the batch",
            "empty_batch_is_defined": "the mean over no pairs is not a number",
        },
    ),
]


def _neighbors(**arguments):
    return sample_neighbors(EDGES, torch.tensor([1, 0]), **arguments)


CONTRACTS = [
    Contract(
        item="graphsage",
        name="SAGEConv",
        of=SAGEConv,
        calls=({"in_features": 3, "out_features": 4}, {"in_features": 2, "out_features": 5}),
        ranges={
            "in_features": "int >= 1",
            "out_features": "int >= 1",
            "aggregator": "'mean', 'gcn', 'pool', 'lstm'",
        },
        state={"weight": "(out_features, 2 * in_features)", "bias": "(out_features,)"},
    ),
    Contract(
        item="graphsage",
        name="SAGEConv, gcn",
        of=SAGEConv,
        calls=({"in_features": 3, "out_features": 4, "aggregator": "gcn"},),
        state={"weight": "(out_features, in_features)", "bias": "(out_features,)"},
    ),
    Contract(
        item="graphsage",
        name="SAGEConv, pool",
        of=SAGEConv,
        calls=({"in_features": 3, "out_features": 4, "aggregator": "pool"},),
        state={
            "weight": "(out_features, 2 * in_features)",
            "bias": "(out_features,)",
            "pool.weight": "(in_features, in_features)",
            "pool.bias": "(in_features,)",
        },
    ),
    Contract(
        item="graphsage",
        name="GraphSAGE",
        of=GraphSAGE,
        calls=({"in_features": 3, "hidden_features": 6, "out_features": 4},),
        ranges={
            "in_features": "int >= 1",
            "hidden_features": "int >= 1",
            "out_features": "int >= 1",
            "num_layers": "int >= 1",
            "aggregator": "'mean', 'gcn', 'pool', 'lstm'",
        },
        attributes={"layers": "the `SAGEConv`, in order; each may be called by itself"},
    ),
    Contract(
        item="graphsage",
        name="sample_neighbors",
        of=_neighbors,
        calls=({"count": 2},),
        ranges={"count": "int >= 1"},
    ),
    Contract(
        item="graphsage",
        name="sample_neighborhood",
        of=lambda **arguments: sample_neighborhood(EDGES, torch.tensor([1, 0]), **arguments),
        calls=({"counts": (2, 3)},),
    ),
]
