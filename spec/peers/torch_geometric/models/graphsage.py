"""The library's layers with the mean and the maximum, and its division by the length; the σ between is ours.

No LSTM and no pooling with a matrix: the library's are other layers. No samplers: its need compiled extensions.
"""

import torch
from torch import nn
from torch_geometric.nn import SAGEConv as LibrarySAGEConv

from ..sharing import Sharing


class SAGEConv(Sharing):
    def __init__(self, in_features, out_features, aggregator="mean", activation=True, normalize=True, bias=True):
        super().__init__()
        if min(in_features, out_features) < 1 or aggregator not in ("mean", "gcn", "pool", "lstm"):
            raise ValueError("sizes of 1 or more and an aggregator of the paper are expected")
        if aggregator in ("pool", "lstm"):
            raise NotImplementedError
        self.aggregator, self.activation, self.normalize = aggregator, activation, normalize
        conv = LibrarySAGEConv(in_features, out_features, root_weight=aggregator == "mean", bias=bias)
        halves = [conv.lin_r.weight, conv.lin_l.weight] if aggregator == "mean" else [conv.lin_l.weight]
        self.hide(conv, weight=torch.cat(halves, dim=1), bias=conv.lin_l.bias)

    def forward(self, x, edge_index):
        near, state = self.weight, {"lin_l.bias": self.bias}
        if self.aggregator == "mean":
            own, near = self.weight.chunk(2, dim=1)
            state |= {"lin_r.weight": own}
        else:
            edge_index = torch.cat([edge_index, torch.arange(len(x)).expand(2, -1)], dim=1)
        x = self.run(state | {"lin_l.weight": near}, x, edge_index)
        x = x.relu() if self.activation else x
        return nn.functional.normalize(x) if self.normalize else x


class GraphSAGE(nn.Module):
    def __init__(self, in_features, hidden_features, out_features, num_layers=2, aggregator="mean"):
        super().__init__()
        if num_layers < 1 or hidden_features < 1:
            raise ValueError("sizes of 1 or more are expected")
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(
            SAGEConv(a, b, aggregator, activation=k < num_layers) for k, (a, b) in enumerate(zip(widths, widths[1:]), 1)
        )

    def forward(self, x, edge_index):
        graphs = [edge_index] * len(self.layers) if isinstance(edge_index, torch.Tensor) else edge_index
        for layer, edges in zip(self.layers, graphs, strict=True):
            x = layer(x, edges)
        return x
