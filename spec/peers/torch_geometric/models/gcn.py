"""The library's graph convolution and normalisation."""

import torch
from torch import nn
from torch_geometric.nn import GCNConv as LibraryGCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from ..sharing import Sharing


class GCNConv(Sharing):
    def __init__(self, in_features, out_features, bias=True, normalize=True, add_self_loops=True):
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ValueError("sizes of 1 or more are expected")
        loops = add_self_loops and normalize
        conv = LibraryGCNConv(in_features, out_features, bias=bias, normalize=normalize, add_self_loops=loops)
        self.hide(conv, weight=conv.lin.weight, bias=conv.bias)

    def forward(self, x, edge_index, edge_weight=None):
        return self.run({"lin.weight": self.weight, "bias": self.bias}, x, edge_index, edge_weight)


class GCN(nn.Module):
    def __init__(self, in_features, hidden_features, out_features, num_layers=2, dropout=0.5, bias=True):
        super().__init__()
        if num_layers < 1 or not 0 <= dropout < 1:
            raise ValueError("a layer or more, and a probability below 1, are expected")
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        if min(widths) < 1 or hidden_features < 1:
            raise ValueError("sizes of 1 or more are expected")
        self.layers = nn.ModuleList(GCNConv(a, b, bias) for a, b in zip(widths, widths[1:]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, edge_index, edge_weight=None):
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x.relu() if number else x), edge_index, edge_weight)
        return x


def normalized_adjacency(edge_index, edge_weight, n, add_self_loops=True):
    return gcn_norm(edge_index, edge_weight, n, add_self_loops=add_self_loops, dtype=torch.float64)
