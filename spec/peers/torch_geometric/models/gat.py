"""The library's attention, of both kinds. Its GATv2 has biases inside, which are taken out."""

import torch
from torch import nn
from torch_geometric.nn import GATConv as LibraryGATConv
from torch_geometric.nn import GATv2Conv as LibraryGATv2Conv

from ..sharing import Sharing


class _Attention(Sharing):
    def __init__(self, in_features, out_features, heads=1, concat=True, negative_slope=0.2, dropout=0.0, bias=True):
        super().__init__()
        if min(in_features, out_features, heads) < 1 or not abs(negative_slope) < float("inf") or not 0 <= dropout < 1:
            raise ValueError("sizes of 1 or more, a finite slope and a probability below 1 are expected")
        options = {"concat": concat, "negative_slope": negative_slope, "dropout": dropout, "bias": bias}
        self.wrap(in_features, out_features, heads, options)

    def forward(self, x, edge_index):
        return self.run(self.state(), x, edge_index)

    def attention(self, x, edge_index):
        mode = self.training
        found = self.eval().run(self.state(), x, edge_index, return_attention_weights=True)[1]
        self.train(mode)
        return found


class GATConv(_Attention):
    def wrap(self, in_features, out_features, heads, options):
        conv = LibraryGATConv(in_features, out_features, heads, **options)
        sender, receiver = conv.att_src[0], conv.att_dst[0]
        self.hide(conv, weight=conv.lin.weight, attention_sender=sender, attention_receiver=receiver, bias=conv.bias)

    def state(self):
        sender, receiver = self.attention_sender[None], self.attention_receiver[None]
        return {"lin.weight": self.weight, "att_src": sender, "att_dst": receiver, "bias": self.bias}


class GATv2Conv(_Attention):
    def wrap(self, in_features, out_features, heads, options):
        conv = LibraryGATv2Conv(in_features, out_features, heads, **options)
        for linear in (conv.lin_l, conv.lin_r):
            linear.bias = None
        sender, receiver = conv.lin_l.weight, conv.lin_r.weight
        self.hide(conv, weight_sender=sender, weight_receiver=receiver, attention_vector=conv.att[0], bias=conv.bias)

    def state(self):
        state = {"lin_l.weight": self.weight_sender, "lin_r.weight": self.weight_receiver}
        return state | {"att": self.attention_vector[None], "bias": self.bias}


class GAT(nn.Module):
    def __init__(self, in_features, hidden_features, out_features, heads=8, out_heads=1, dropout=0.6):
        super().__init__()
        first = GATConv(in_features, hidden_features, heads, dropout=dropout)
        second = GATConv(heads * hidden_features, out_features, out_heads, concat=False, dropout=dropout)
        self.layers, self.dropout = nn.ModuleList([first, second]), nn.Dropout(dropout)

    def forward(self, x, edge_index):
        first, second = self.layers
        return second(self.dropout(torch.nn.functional.elu(first(self.dropout(x), edge_index))), edge_index)
