"""Graph networks next to PyTorch Geometric's, on 2,000 nodes with 16 edges each."""

import torch

from impl.models.gat import GATConv, GATv2Conv
from impl.models.gcn import GCNConv
from impl.models.graphsage import SAGEConv
from tools.bench import Pair

NODES = 2000


def _graph():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NODES, 64), torch.randint(NODES, (2, 16 * NODES), generator=generator)


def _library(name, *arguments, **options):
    def make():
        import torch_geometric.nn

        return getattr(torch_geometric.nn, name)(*arguments, **options)

    return make


PAIRS = [
    Pair(item="gcn", name="GCNConv", ours=lambda: GCNConv(64, 64), theirs=_library("GCNConv", 64, 64), inputs=_graph),
    Pair(
        item="gat",
        name="GATConv, 8 heads",
        ours=lambda: GATConv(64, 8, heads=8),
        theirs=_library("GATConv", 64, 8, heads=8),
        inputs=_graph,
    ),
    Pair(
        item="gat",
        name="GATv2Conv, 8 heads",
        ours=lambda: GATv2Conv(64, 8, heads=8),
        theirs=_library("GATv2Conv", 64, 8, heads=8),
        inputs=_graph,
    ),
    Pair(
        item="graphsage",
        name="SAGEConv, mean",
        ours=lambda: SAGEConv(64, 64, activation=False),
        theirs=_library("SAGEConv", 64, 64, normalize=True),
        inputs=_graph,
    ),
]
