"""Graph attention network: a node weighs its neighbours by what they and it are.

Veličković et al. 2017, arXiv:1710.10903; GATv2: Brody, Alon & Yahav 2021, arXiv:2105.14491. For a node i and j in
N(i) ∪ {i}, in each head:

    GAT     e_ij = LeakyReLU(aᵀ [W h_i ‖ W h_j]) = LeakyReLU(a_tᵀ W h_i + a_sᵀ W h_j)      eq. 3
    GATv2   e_ij = aᵀ LeakyReLU(W_t h_i + W_s h_j)                                         Brody et al., eq. 7
    α_ij = exp(e_ij) / Σ_k exp(e_ik),   h′_i = Σ_j α_ij W h_j                              eq. 2 and 4

GAT's ranking of the j is the same for every i ("static attention"): LeakyReLU is monotone and a_tᵀ W h_i does not know
j. GATv2 puts the nonlinearity between a and W, and each i may rank as it needs.

Convention: the heads' outputs are concatenated, or averaged in a last layer (eq. 5 and 6). A loop that is there already
counts once. Dropout is on α as well.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...layers.activation import ELU, rectify
from ...layers.checks import check_finite, check_fractions, check_sizes
from ...layers.dropout import Dropout
from ...layers.initialisers import xavier_uniform_
from ...layers.message_passing import Edges, check_graph, softmax_by_node, sum_by_node, with_self_loops


class GATConv(nn.Module):
    """Attention of each node to its neighbours and itself, several heads side by side.

    Args:
        in_features: width of a node before.
        out_features: width of a node after, of each head.
        heads: number of heads.
        concat: if True, the heads' outputs are concatenated; otherwise averaged.
        negative_slope: of LeakyReLU.
        dropout: probability to drop an attention weight α in training; those kept are scaled by 1/(1 − p).
        bias: if True, one is added at the end.

    Raises:
        ValueError: a size below 1, a slope that is not finite, a probability outside of [0, 1); nodes of another
            width, edges that are not (2, E) of int64.
        IndexError: an edge of a node that does not exist.

    Source: Veličković et al. 2017, arXiv:1710.10903, §2.1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, heads=heads)
        check_finite(negative_slope=negative_slope)
        check_fractions(dropout=dropout)
        self.in_features, self.heads, self.concat = in_features, heads, concat
        self.negative_slope = negative_slope
        self.dropout = Dropout(dropout)
        self.add_weights(out_features)
        self.bias = nn.Parameter(torch.zeros(heads * out_features if concat else out_features)) if bias else None

    def add_weights(self, out_features: int) -> None:
        """W, all heads' one below the other, and the halves of a that meet the sender and the receiver."""
        self.weight = nn.Parameter(xavier_uniform_(torch.empty(self.heads * out_features, self.in_features)))
        self.attention_sender = nn.Parameter(xavier_uniform_(torch.empty(self.heads, out_features)))
        self.attention_receiver = nn.Parameter(xavier_uniform_(torch.empty(self.heads, out_features)))

    def scores(
        self, x: Float[Tensor, "n d_in"], sender: Tensor, receiver: Tensor
    ) -> tuple[Float[Tensor, "e h"], Float[Tensor, "n h d"]]:
        """e_ij of each edge and head, and what a node sends, W h."""
        sent = (x @ self.weight.T).unflatten(1, (self.heads, -1))
        of_sender, of_receiver = ((sent * a).sum(-1) for a in (self.attention_sender, self.attention_receiver))
        return rectify(of_sender[sender] + of_receiver[receiver], self.negative_slope), sent

    def attention(
        self, x: Float[Tensor, "n d_in"], edge_index: Edges
    ) -> tuple[Int[Tensor, "2 f"], Float[Tensor, "f h"]]:
        """The edges (2, F), a loop for each node among them, and α of each edge and head, before any dropout.

        Where the same edge stands twice, or a loop was there before, α of the pair is the sum over its edges.
        """
        return self.weigh(x, edge_index)[:2]

    def weigh(
        self, x: Float[Tensor, "n d_in"], edge_index: Edges
    ) -> tuple[Int[Tensor, "2 f"], Float[Tensor, "f h"], Float[Tensor, "n h d"]]:
        """`attention`, and W h of each node; a loop that was there before stays in its place with α = 0."""
        check_graph(x, edge_index, self.in_features)
        edges, was_loop = with_self_loops(edge_index, len(x))
        scores, sent = self.scores(x, *edges)
        scores = scores.masked_fill(was_loop[:, None], -torch.inf)
        return edges, softmax_by_node(scores, edges[1], len(x)).to(sent.dtype), sent

    def forward(self, x: Float[Tensor, "n d_in"], edge_index: Edges) -> Float[Tensor, "n d_out"]:
        """Each node's new features: width heads · out_features, or out_features if the heads are averaged."""
        (sender, receiver), weights, sent = self.weigh(x, edge_index)
        x = sum_by_node(self.dropout(weights)[:, :, None] * sent.index_select(0, sender), receiver, len(x))
        x = x.flatten(1) if self.concat else x.mean(1)
        return x if self.bias is None else x + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, heads={self.heads}, concat={self.concat}, negative_slope={self.negative_slope}"


class GATv2Conv(GATConv):
    """`GATConv` with the nonlinearity before a: each node may rank its neighbours in its own way.

    Arguments and errors as those of `GATConv`.

    Source: Brody, Alon & Yahav 2021, arXiv:2105.14491, eq. 7.
    Convention: W is two matrices, one for the sending, one for the receiving node.
    """

    def add_weights(self, out_features: int) -> None:
        """W_s, W_t and a."""
        shape = self.heads * out_features, self.in_features
        self.weight_sender = nn.Parameter(xavier_uniform_(torch.empty(shape)))
        self.weight_receiver = nn.Parameter(xavier_uniform_(torch.empty(shape)))
        self.attention_vector = nn.Parameter(xavier_uniform_(torch.empty(self.heads, out_features)))

    def scores(
        self, x: Float[Tensor, "n d_in"], sender: Tensor, receiver: Tensor
    ) -> tuple[Float[Tensor, "e h"], Float[Tensor, "n h d"]]:
        """e_ij of each edge and head, and what a node sends, W_s h."""
        sent, asked = ((x @ w.T).unflatten(1, (self.heads, -1)) for w in (self.weight_sender, self.weight_receiver))
        hidden = rectify(sent[sender] + asked[receiver], self.negative_slope)
        return (hidden * self.attention_vector).sum(-1), sent


class GAT(nn.Module):
    """Two attention layers with ELU between them: logits of each node's class.

    Args:
        in_features, hidden_features, out_features: width of a node at the start, of each head between, at the end.
        heads: number of heads of the first layer, which are concatenated.
        out_heads: number of heads of the second, which are averaged.
        dropout: probability to drop an input of a layer, and an attention weight, in training.

    Raises:
        ValueError: a size below 1, a probability outside of [0, 1); a graph that `GATConv` refuses.

    Source: Veličković et al. 2017, arXiv:1710.10903, §3.3.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        heads: int = 8,
        out_heads: int = 1,
        dropout: float = 0.6,
    ):
        super().__init__()
        check_sizes(hidden_features=hidden_features, out_features=out_features, out_heads=out_heads)
        self.layers = nn.ModuleList(
            [
                GATConv(in_features, hidden_features, heads, dropout=dropout),
                GATConv(heads * hidden_features, out_features, out_heads, concat=False, dropout=dropout),
            ]
        )
        self.dropout, self.activation = Dropout(dropout), ELU()

    def forward(self, x: Float[Tensor, "n d_in"], edge_index: Edges) -> Float[Tensor, "n d_out"]:
        first, second = self.layers
        return second(self.dropout(self.activation(first(self.dropout(x), edge_index))), edge_index)
