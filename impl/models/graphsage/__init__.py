"""GraphSAGE: embeddings of nodes by sampling and aggregating neighbours, for nodes and graphs never seen in training.

Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, algorithm 1. For layers k = 1 … K, from h⁰ = x:

    h_N(v) = AGGREGATE_k({h_u : u ∈ N(v)})
    h_v ← σ(W_k [h_v ‖ h_N(v)]),   h_v ← h_v / ‖h_v‖₂

    mean   Σ_u h_u / |N(v)|                                  pool   max_u σ(W_pool h_u + b)                  eq. 3
    gcn    σ(W · mean({h_v} ∪ {h_u})), no concatenation      lstm   an LSTM over the neighbours' vectors     eq. 2; §3.3

Convention: σ is ReLU; the last layer has none, as in the authors' code. A node without neighbours has h_N = 0, and a
zero vector stays zero. The LSTM sees the neighbours in the order of the edges, in training in a random one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.initialisers import xavier_uniform_
from ...layers.linear import Linear
from ...layers.message_passing import Edges, check_graph, max_by_node, mean_by_node
from ...layers.numerics import at_least_float32, softplus

Nodes = Int[Tensor, " b"]
Graph = Int[Tensor, "2 _"]  # one of several, each with its own number of edges


class SAGEConv(nn.Module):
    """One layer: each node's features and what it gathers from its neighbours, mixed by W.

    Args:
        in_features, out_features: width of a node before and after.
        aggregator: "mean", "gcn", "pool" or "lstm".
        activation: if True, ReLU follows W.
        normalize: if True, each output has length 1, or is 0.
        bias: if True, one is added to the product with W.

    Raises:
        ValueError: a size below 1, another aggregator; nodes of another width, edges that are not (2, E) of int64.
        IndexError: an edge of a node that does not exist.

    Source: Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, algorithm 1 and §3.3.
    Convention: W is (out_features, 2·in_features), the node's own half first; for "gcn" (out_features, in_features).
        Both kinds of vector that "pool" and "lstm" compute are of width in_features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        aggregator: str = "mean",
        activation: bool = True,
        normalize: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        if aggregator not in ("mean", "gcn", "pool", "lstm"):
            raise ValueError(f"expected aggregator 'mean', 'gcn', 'pool' or 'lstm', got {aggregator!r}")
        self.in_features, self.aggregator = in_features, aggregator
        self.activation, self.normalize = activation, normalize
        width = in_features if aggregator == "gcn" else 2 * in_features
        self.weight = nn.Parameter(xavier_uniform_(torch.empty(out_features, width)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        if aggregator == "pool":
            self.pool = Linear(in_features, in_features)
        if aggregator == "lstm":
            self.lstm = LSTMCell(in_features)

    def aggregate(self, x: Float[Tensor, "n d"], edge_index: Edges) -> Float[Tensor, "n d"]:
        """h_N of each node."""
        sender, receiver = edge_index
        if self.aggregator == "pool":
            pooled = max_by_node(self.pool(x).relu().index_select(0, sender), receiver, len(x))
            return torch.where(pooled == -torch.inf, 0, pooled)
        if self.aggregator == "lstm":
            return self.read_neighbors(x, sender, receiver)
        return mean_by_node(x.index_select(0, sender), receiver, len(x))

    def read_neighbors(self, x: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """The LSTM's output after the last neighbour of each node; all nodes' k-th neighbours are read at once."""
        n = len(x)
        if self.training:
            order = torch.randperm(len(sender), device=sender.device)
            sender, receiver = sender[order], receiver[order]
        receiver, order = receiver.sort(stable=True)
        sender = sender[order]
        count = torch.bincount(receiver, minlength=n)
        start = count.cumsum(0) - count
        output, cell = x.new_zeros(2, n, self.in_features)
        for k in range(int(count.max()) if n else 0):
            has = (count > k).nonzero()[:, 0]
            read = self.lstm(x[sender[start[has] + k]], output[has], cell[has])
            output, cell = (old.index_copy(0, has, new) for old, new in zip((output, cell), read))
        return output

    def forward(self, x: Float[Tensor, "n d_in"], edge_index: Edges) -> Float[Tensor, "n d_out"]:
        check_graph(x, edge_index, self.in_features)
        if self.aggregator == "gcn":  # the mean over the node and its neighbours
            loops = torch.arange(len(x), device=x.device).expand(2, -1)
            x = self.aggregate(x, torch.cat([edge_index, loops], dim=1))
        else:
            x = torch.cat([x, self.aggregate(x, edge_index)], dim=1)
        x = x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias
        x = x.relu() if self.activation else x
        return unit_length(x) if self.normalize else x

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.weight.shape[0]}, aggregator={self.aggregator!r}"


class LSTMCell(nn.Module):
    """One step of an LSTM: c′ = σ(f) c + σ(i) tanh(g), h′ = σ(o) tanh(c′), where [i, f, g, o] = W [x ‖ h] + b.

    Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000.
    """

    def __init__(self, width: int):
        super().__init__()
        self.gates = Linear(2 * width, 4 * width)

    def forward(self, x: Tensor, output: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, output], dim=1)).chunk(4, dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


def unit_length(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """x / ‖x‖₂, row by row; 0, with a gradient of 0, where x is 0."""
    wide = at_least_float32(x)
    largest = wide.detach().abs().amax(1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1)  # so that no square overflows
    squared = scaled.square().sum(1, keepdim=True)
    return (scaled * torch.where(squared > 0, squared, 1).rsqrt()).to(x.dtype)


class GraphSAGE(nn.Module):
    """Layers of `SAGEConv`: an embedding of length 1 of each node.

    Args:
        in_features, hidden_features, out_features: width of a node at the start, between layers, at the end.
        num_layers: number of layers, K.
        aggregator: of each layer, as in `SAGEConv`.

    Raises:
        ValueError: a size below 1, another aggregator; a graph that `SAGEConv` refuses, or another number of graphs
            than layers.

    Source: Hamilton, Ying & Leskovec 2017, arXiv:1706.02216, algorithm 1.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        num_layers: int = 2,
        aggregator: str = "mean",
    ):
        super().__init__()
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
        check_sizes(num_layers=num_layers)
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        last = num_layers - 1
        self.layers = nn.ModuleList(
            SAGEConv(a, b, aggregator, activation=k < last) for k, (a, b) in enumerate(zip(widths, widths[1:]))
        )

    def forward(self, x: Float[Tensor, "n d_in"], edge_index: Graph | Sequence[Graph]) -> Float[Tensor, "n d_out"]:
        """Embeddings of all nodes.

        Args:
            edge_index: one graph for all layers, or one for each, as `sample_neighborhood` gives.
        """
        graphs = [edge_index] * len(self.layers) if isinstance(edge_index, Tensor) else list(edge_index)
        if len(graphs) != len(self.layers):
            raise ValueError(f"expected {len(self.layers)} graphs, one for each layer, got {len(graphs)}")
        for layer, edges in zip(self.layers, graphs):
            x = layer(x, edges)
        return x


def sample_neighbors(edge_index: Edges, nodes: Nodes, count: int, generator: Generator | None = None) -> Graph:
    """`count` edges into each of the nodes, uniformly: without replacement, or with it where there are fewer.

    Args:
        edge_index: the whole graph.
        nodes: receivers, each once.
        count: number of neighbours to sample; a node without neighbours gets none.

    Raises:
        ValueError: a count below 1, edges that are not (2, E) of int64.

    Source: Hamilton, Ying & Leskovec 2017, §3.1 and appendix A.
    """
    check_sizes(count=count)
    check_graph(torch.empty(0, 0), edge_index, 0)
    shuffled = edge_index[:, torch.randperm(edge_index.shape[1], generator=generator).to(edge_index.device)]
    sender, receiver = shuffled[:, shuffled[1].sort(stable=True).indices]  # each node's edges together, in random order
    start, end = (torch.searchsorted(receiver, nodes, right=side) for side in (False, True))
    degree = (end - start)[:, None]
    place = torch.arange(count, device=nodes.device).expand(len(nodes), -1)
    again = (torch.rand(place.shape, generator=generator).to(nodes.device) * degree).long()
    place = start[:, None] + torch.where(degree >= count, place, again)
    has = (degree > 0).expand_as(place)
    return torch.stack([sender[place[has]], nodes[:, None].expand_as(place)[has]])


def sample_neighborhood(
    edge_index: Edges, nodes: Nodes, counts: Sequence[int], generator: Generator | None = None
) -> tuple[Int[Tensor, " n"], list[Graph]]:
    """The nodes that the embeddings of some nodes are computed from, and the edges for each layer.

    Args:
        edge_index: the whole graph.
        nodes: whose embeddings are wanted, each once.
        counts: sampled neighbours S_1 … S_K for each layer; the last is that of the wanted nodes.

    Returns:
        ids of the nodes needed, the wanted ones first: x[ids] is the model's input; and the edges of each layer
        between places in ids. At most (1 + S_K) … (1 + S_1) nodes a wanted one, however large the graph.

    Raises:
        ValueError: as `sample_neighbors`.

    Source: Hamilton, Ying & Leskovec 2017, appendix A, algorithm 2.
    """
    graphs = []
    for count in reversed(counts):
        graphs.insert(0, sample_neighbors(edge_index, nodes, count, generator))
        fresh = graphs[0][0].unique()
        nodes = torch.cat([nodes, fresh[~torch.isin(fresh, nodes)]])
    ordered, order = nodes.sort()
    return nodes, [order[torch.searchsorted(ordered, edges)] for edges in graphs]


def unsupervised_loss(
    u: Float[Tensor, "b d"], v: Float[Tensor, "b d"], negatives: Float[Tensor, "b q d"]
) -> Float[Tensor, ""]:
    """−log σ(z_uᵀ z_v) − Q E_{v_n ~ P_n} log σ(−z_uᵀ z_{v_n}), averaged over the pairs.

    Args:
        u, v: embeddings of nodes that are near one another, on a random walk.
        negatives: embeddings of Q nodes sampled for each pair: the expectation times Q is their sum.

    Raises:
        ValueError: shapes that do not fit together.

    Source: Hamilton, Ying & Leskovec 2017, eq. 1.
    """
    if u.shape != v.shape or negatives.dim() != 3 or (negatives.shape[0], negatives.shape[2]) != tuple(u.shape):
        found = f"{tuple(u.shape)}, {tuple(v.shape)} and {tuple(negatives.shape)}"
        raise ValueError(f"expected shapes (b, d), (b, d) and (b, Q, d), got {found}")
    near, far = (u * v).sum(1), (u[:, None] * negatives).sum(2)
    return (softplus(-near) + softplus(far).sum(1)).mean()  # −log σ(s) = softplus(−s)
