"""Message passing: each node of a graph collects what its neighbours send along the edges.

Gilmer et al. 2017, arXiv:1704.01212, eq. 1. For nodes i with neighbours N(i):

    m_i = Σ_{j ∈ N(i)} message(j, i)

Convention: `edge_index` is (2, E), row 0 the sending node j, row 1 the receiving node i, as in PyTorch Geometric; an
undirected edge stands in it twice, once each way. An edge that is repeated sends twice. Several graphs are one graph
whose parts are not connected. Memory grows with the number of edges: nothing is (n, n).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .numerics import at_least_float32

Edges = Int[Tensor, "2 e"]


def check_graph(x: Tensor, edge_index: Tensor, width: int) -> None:
    """Nodes of shape (n, width), and edges of shape (2, E) of int64."""
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(f"expected nodes of shape (n, {width}), got {tuple(x.shape)}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"expected edges of shape (2, E) and int64, got {tuple(edge_index.shape)} {edge_index.dtype}")


def sum_by_node(messages: Float[Tensor, "e ..."], receiver: Int[Tensor, " e"], n: int) -> Float[Tensor, "n ..."]:
    """The sum of the messages that each of n nodes receives; 0 for one that receives none.

    Half precision is summed in float32: in bfloat16, 256 + 1 = 256.
    """
    wide = at_least_float32(messages)
    return wide.new_zeros(n, *messages.shape[1:]).index_add(0, receiver, wide).to(messages.dtype)


def mean_by_node(messages: Float[Tensor, "e d"], receiver: Int[Tensor, " e"], n: int) -> Float[Tensor, "n d"]:
    """The mean of the messages that each of n nodes receives; 0 for one that receives none."""
    wide = at_least_float32(messages)
    count = sum_by_node(wide.new_ones(len(receiver)), receiver, n)
    return (sum_by_node(wide, receiver, n) / count.clamp(min=1)[:, None]).to(messages.dtype)


def max_by_node(messages: Float[Tensor, "e ..."], receiver: Int[Tensor, " e"], n: int) -> Float[Tensor, "n ..."]:
    """The largest of the messages that each of n nodes receives, place by place; −∞ for one that receives none."""
    index = receiver.view(-1, *[1] * (messages.dim() - 1)).expand_as(messages)
    return messages.new_full((n, *messages.shape[1:]), -torch.inf).scatter_reduce(0, index, messages, "amax")


def softmax_by_node(scores: Float[Tensor, "e ..."], receiver: Int[Tensor, " e"], n: int) -> Float[Tensor, "e ..."]:
    """Softmax of the scores over the edges that end in the same node, where −∞ excludes an edge.

    Every node must have an edge that is not excluded.
    """
    scores = at_least_float32(scores)
    largest = max_by_node(scores.detach(), receiver, n)  # any shift gives the same softmax: this one cannot overflow
    weights = (scores - largest[receiver]).exp()
    return weights / sum_by_node(weights, receiver, n)[receiver]


def with_self_loops(edge_index: Edges, n: int) -> tuple[Int[Tensor, "2 f"], Bool[Tensor, " f"]]:
    """The edges and after them a loop i → i for each of n nodes; and a mask of the loops that were there before."""
    loops = torch.arange(n, device=edge_index.device)
    was_loop = edge_index[0] == edge_index[1]
    return torch.cat([edge_index, loops.expand(2, n)], dim=1), torch.cat([was_loop, was_loop.new_zeros(n)])
