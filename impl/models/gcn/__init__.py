"""Graph convolutional network: each layer averages a node with its neighbours, then mixes features.

Kipf & Welling 2016, arXiv:1609.02907. With the adjacency A of n nodes and features X (n, d):

    Ã = A + I,   D̃_ii = Σ_j Ã_ij,   Â = D̃^−½ Ã D̃^−½                 the renormalisation trick, §2.2
    H′ = σ(Â H W)                                                    eq. 2
    Z = softmax(Â ReLU(Â X W⁰) W¹)                                   eq. 9

Convention: A_ij is the weight of the edge from j to i, and D̃ counts what a node receives; a node that has a loop keeps
its weight and gets no second one; a bias is added after Â, as in PyTorch Geometric. The softmax belongs to the loss:
the model gives logits.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...layers.checks import check_fractions, check_sizes
from ...layers.dropout import Dropout
from ...layers.initialisers import xavier_uniform_
from ...layers.message_passing import Edges, check_graph, sum_by_node, with_self_loops


def normalized_adjacency(
    edge_index: Edges, edge_weight: Float[Tensor, " e"], n: int, add_self_loops: bool = True
) -> tuple[Int[Tensor, "2 f"], Float[Tensor, " f"]]:
    """Â as edges and their weights Â_ij = Ã_ij / √(D̃_ii D̃_jj).

    Args:
        edge_index: (2, E), senders and receivers.
        edge_weight: A_ij of each edge, at least 0.
        n: number of nodes.
        add_self_loops: if True, Ã = A + I, otherwise Ã = A; a node of degree 0 then has weights of 0.

    Source: Kipf & Welling 2016, §2.2.
    """
    if add_self_loops:
        edge_index, was_loop = with_self_loops(edge_index, n)
        given = torch.cat([edge_weight, edge_weight.new_zeros(n)])
        loops = sum_by_node(given * was_loop, edge_index[1], n)
        found = sum_by_node(was_loop.to(given.dtype), edge_index[1], n) > 0
        edge_weight = torch.cat([edge_weight * ~was_loop[: len(edge_weight)], torch.where(found, loops, 1)])
    sender, receiver = edge_index
    degree = sum_by_node(edge_weight, receiver, n)
    scale = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
    return edge_index, scale[receiver] * edge_weight * scale[sender]


class GCNConv(nn.Module):
    """Â X W + b: each node's features mixed by W, then averaged with its neighbours'.

    Args:
        in_features, out_features: width of a node before and after.
        bias: if True, b is added.
        normalize: if True, neighbours are weighted by Â; otherwise by A as it is, and no loop is added.
        add_self_loops: if True, Â is made of A + I, otherwise of A.

    Raises:
        ValueError: a size below 1; nodes of another width, edges that are not (2, E) of int64, weights that are not
            one for each edge.
        IndexError: an edge of a node that does not exist.

    Source: Kipf & Welling 2016, arXiv:1609.02907, eq. 2 and 8.
    Convention: W is (out_features, in_features) as in torch.nn.Linear, initialised uniformly as by Glorot & Bengio
    2010, b as 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        normalize: bool = True,
        add_self_loops: bool = True,
    ):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        self.normalize, self.add_self_loops = normalize, add_self_loops
        self.weight = nn.Parameter(xavier_uniform_(torch.empty(out_features, in_features)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(
        self, x: Float[Tensor, "n d_in"], edge_index: Edges, edge_weight: Float[Tensor, " e"] | None = None
    ) -> Float[Tensor, "n d_out"]:
        """Each node's new features.

        Args:
            edge_weight: A_ij of each edge, at least 0; None for 1.
        """
        check_graph(x, edge_index, self.weight.shape[1])
        n = len(x)
        if edge_weight is None:
            edge_weight = x.new_ones(edge_index.shape[1])
        if edge_weight.shape != edge_index.shape[1:]:
            raise ValueError(f"expected {edge_index.shape[1]} weights of edges, got {tuple(edge_weight.shape)}")
        if self.normalize:
            edge_index, edge_weight = normalized_adjacency(edge_index, edge_weight, n, self.add_self_loops)
        sender, receiver = edge_index
        x = x @ self.weight.T  # before the sum over neighbours: one product a node, not one an edge
        x = sum_by_node(edge_weight[:, None] * x.index_select(0, sender), receiver, n)
        return x if self.bias is None else x + self.bias

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class GCN(nn.Module):
    """Graph convolutions with ReLU between them: logits of each node's class.

    Args:
        in_features, hidden_features, out_features: width of a node at the start, between layers, at the end.
        num_layers: number of graph convolutions, K: a node sees the nodes up to K edges away.
        dropout: probability to drop an input of a layer in training.
        bias: if True, each layer adds one.

    Raises:
        ValueError: a size below 1, a probability outside of [0, 1); a graph that `GCNConv` refuses.

    Source: Kipf & Welling 2016, arXiv:1609.02907, eq. 9, and §5.2 for dropout before each layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_layers: int = 2,
        dropout: float = 0.5,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        check_sizes(num_layers=num_layers)
        check_fractions(dropout=dropout)
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(GCNConv(a, b, bias) for a, b in zip(widths, widths[1:]))
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "n d_in"], edge_index: Edges, edge_weight: Float[Tensor, " e"] | None = None
    ) -> Float[Tensor, "n d_out"]:
        """Logits; arguments as those of `GCNConv`."""
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x if number == 0 else x.relu()), edge_index, edge_weight)
        return x
