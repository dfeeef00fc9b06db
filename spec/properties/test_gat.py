"""Properties of graph attention.  Veličković et al. 2017, arXiv:1710.10903; Brody et al. 2021, arXiv:2105.14491."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.gat import GAT, GATConv, GATv2Conv
from spec import cost, laws
from spec.cases.gcn import EDGES, nodes
from spec.strategies import graphs, permutations, seeds

pytestmark = pytest.mark.item("gat")

BOTH = pytest.mark.parametrize("of", [GATConv, GATv2Conv])


def layer(of=GATConv, seed=0, **options):
    """Two heads of width 4 on nodes of width 3, every number random."""
    settings = {"heads": 2, "negative_slope": 0.3} | options
    return laws.randomise(of(3, 4, **settings).double(), seed).eval()


def features(n, width=3, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaky(x, slope):
    return torch.where(x > 0, x, slope * x)


def original_scores(conv, x, slope):
    """GAT's e_ij of every pair and head, (n, n, heads), by concatenation; and what j sends, (n, heads, d)."""
    n, state = len(x), conv.state_dict()
    a = torch.cat([state["attention_receiver"], state["attention_sender"]], dim=1)  # (heads, 2d)
    sent = (x @ state["weight"].T).unflatten(1, (len(a), -1))
    pairs = torch.cat([sent[:, None].expand(n, n, -1, -1), sent[None].expand(n, n, -1, -1)], dim=3)
    return leaky((pairs * a).sum(-1), slope), sent


def later_scores(conv, x, slope):
    """The same of GATv2, whose nonlinearity comes before a."""
    n, state = len(x), conv.state_dict()
    a = state["attention_vector"]
    joint = torch.cat([state["weight_receiver"], state["weight_sender"]], dim=1)
    pairs = torch.cat([x[:, None].expand(n, n, -1), x[None].expand(n, n, -1)], dim=2)  # i, j
    hidden = (pairs @ joint.T).unflatten(2, a.shape)
    return (leaky(hidden, slope) * a).sum(-1), (x @ state["weight_sender"].T).unflatten(1, a.shape)


SCORES = {GATConv: original_scores, GATv2Conv: later_scores}


def counts(edge_index, n):
    """How many edges go from j to i, (n, n), one loop for each node."""
    found = torch.zeros(n, n, dtype=torch.float64)
    found.index_put_((edge_index[1], edge_index[0]), torch.ones(edge_index.shape[1]).double(), accumulate=True)
    return found.fill_diagonal_(1)


def reference(conv, x, edge_index, slope=0.3):
    """All heads' outputs, (n, heads, d), by dense matrices; and α, (n, n, heads)."""
    scores, sent = SCORES[type(conv)](conv, x, slope)
    weights = counts(edge_index, len(x))[..., None] * scores.exp()
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("ijh,jhd->ihd", weights, sent), weights


def matrix(edges, weights, n):
    """α as the layer tells it, summed over the edges of each pair: (n, n, heads)."""
    found = torch.zeros(n, n, weights.shape[1], dtype=weights.dtype)
    return found.index_put((edges[1], edges[0]), weights, accumulate=True)


@pytest.mark.states("equivalence")
@BOTH
@given(graph=graphs(), seed=seeds())
def test_layer_is_masked_softmax_attention_of_concatenated_pairs(of, graph, seed):
    """h′_i = Σ_j α_ij W h_j with α the softmax over N(i) ∪ {i} of e_ij; heads concatenated, then the bias.

    e_ij = LeakyReLU(aᵀ [W h_i ‖ W h_j]) for GAT, aᵀ LeakyReLU(W [h_i ‖ h_j]) for GATv2.

    Source: Veličković et al. 2017, eq. 3-5; Brody et al. 2021, eq. 7.
    Convention: the first half of a, `attention_receiver`, meets the node i that attends.
    """
    n, edges = graph
    conv, x = layer(of, seed), features(n, seed=seed)

    def expected(x):
        return reference(conv, x, edges)[0].flatten(1) + conv.state_dict()["bias"]

    laws.assert_close(conv(x, edges), expected(x))
    found, wanted = (laws.gradients(f, [x])[1] for f in (lambda x: conv(x, edges), expected))
    laws.assert_close(found[0], wanted[0])


@BOTH
@given(graph=graphs(), seed=seeds())
def test_averaged_heads(of, graph, seed):
    """With concat=False the heads' outputs are averaged, and the bias, of one head's width, comes after.

    Source: Veličković et al. 2017, eq. 6.
    """
    n, edges = graph
    conv, x = layer(of, seed, concat=False, heads=3), features(n, seed=seed)
    laws.assert_close(conv(x, edges), reference(conv, x, edges)[0].mean(1) + conv.state_dict()["bias"])


@BOTH
@given(graph=graphs(), seed=seeds())
def test_attention_is_a_distribution_over_the_neighbours_and_oneself(of, graph, seed):
    """α_ij >= 0, Σ_j α_ij = 1 over N(i) ∪ {i}, and α_ij = 0 elsewhere; `attention` tells it.

    Source: Veličković et al. 2017, eq. 2 and 3.
    """
    n, edges = graph
    conv, x = layer(of, seed), features(n, seed=seed)
    found = matrix(*conv.attention(x, edges), n)
    laws.assert_close(found.sum(1), torch.ones(n, 2, dtype=torch.float64))
    outside = counts(edges, n) == 0
    laws.assert_same(found[outside], torch.zeros_like(found[outside]))
    laws.assert_close(found, reference(conv, x, edges)[1])


@BOTH
def test_a_loop_that_is_there_counts_once_and_a_repeated_edge_twice(of):
    """A graph with a loop i → i has the outputs of the graph without; an edge that stands twice weighs twice.

    Source: Veličković et al. 2017, §2.1: N_i includes i, a set.
    Convention: PyTorch Geometric's for both.
    """
    conv, x = layer(of), features(5)
    loops = torch.arange(3).expand(2, -1)
    laws.assert_close(conv(x, torch.cat([loops, EDGES, loops], dim=1)), conv(x, EDGES))
    laws.assert_close(conv(x, EDGES), reference(conv, x, EDGES)[0].flatten(1) + conv.state_dict()["bias"])


@pytest.mark.states("limiting case")
@BOTH
@given(graph=graphs(), seed=seeds())
def test_without_scores_attention_is_the_mean(of, graph, seed):
    """With a = 0 all α_ij are equal: the layer is the mean of W h over N(i) ∪ {i}.

    Source: Veličković et al. 2017, §2.2: GCN's averaging is attention without a preference.
    """
    n, edges = graph
    conv, x = layer(of, seed, bias=False), features(n, seed=seed)
    state = conv.state_dict()
    for name in state:
        if name.startswith("attention"):
            state[name] = torch.zeros_like(state[name])
    conv.load_state_dict(state)
    share = counts(edges, n) / counts(edges, n).sum(1, keepdim=True)
    weight = state["weight" if of is GATConv else "weight_sender"]
    laws.assert_close(conv(x, edges), share @ x @ weight.T)


@BOTH
def test_a_node_without_neighbours_attends_to_itself(of):
    """An isolated node has α_ii = 1 and the output W h_i + b; a graph without edges is a linear layer.

    Source: Veličković et al. 2017, §2.1: i is in N_i.
    """
    conv, x = layer(of), features(5)
    state = conv.state_dict()
    expected = x @ state["weight" if of is GATConv else "weight_sender"].T + state["bias"]
    laws.assert_close(conv(x, EDGES)[4], expected[4])
    laws.assert_close(conv(x, EDGES[:, :0]), expected)
    laws.assert_close(conv(x[:1], EDGES[:, :0]), expected[:1])
    laws.assert_close(conv(x[:0], EDGES[:, :0]), expected[:0])


@BOTH
@given(seed=seeds())
def test_messages_and_scores_follow_the_edge(of, seed):
    """Along an edge (j, i) node i attends to j; j, which receives nothing, keeps its own output.

    Source: Veličković et al. 2017, eq. 3; rows of edge_index as in PyTorch Geometric.
    """
    conv, x = layer(of, seed), features(2, seed=seed)
    found, alone = conv(x, torch.tensor([[1], [0]])), conv(x, torch.empty(2, 0, dtype=torch.int64))
    laws.assert_close(found[1], alone[1])
    laws.assert_differs(found[0], alone[0], by=1e-6)


@pytest.mark.states("symmetry")
@BOTH
@given(graph=graphs(), seed=seeds(), data=st.data())
def test_numbering_of_nodes_and_order_of_edges_have_no_meaning(of, graph, seed, data):
    """f(P A Pᵀ, P X) = P f(A, X) for every permutation P of the nodes, the edges in any order.

    Source: Veličković et al. 2017, §2.1: a softmax and a sum over a set.
    """
    n, edges = graph
    conv, x = layer(of, seed), features(n, seed=seed)
    order, shuffled = data.draw(permutations(n)), data.draw(permutations(edges.shape[1]))
    laws.assert_close(conv(x[order], order.argsort()[edges[:, shuffled]]), conv(x, edges)[order])


@pytest.mark.states("dependence")
@BOTH
def test_a_node_depends_on_its_neighbours_and_itself_alone(of):
    """∂h′_i/∂h_j ≠ 0 exactly for j in N(i) ∪ {i}.

    Source: Veličković et al. 2017, §2.1: masked attention.
    """
    conv, x = layer(of), features(5)
    allowed = (counts(EDGES, 5) > 0).repeat_interleave(8, 0).repeat_interleave(3, 1)
    laws.depends_only_on(lambda x: conv(x, EDGES), x, allowed)


@given(seed=seeds())
def test_original_attention_is_static(seed):
    """Every node of a complete graph ranks all nodes alike: α_ij > α_ik for one i is so for all i.

    Source: Brody et al. 2021, theorem 1: LeakyReLU is monotone and the share of i in e_ij does not depend on j.
    """
    n = 5
    edges = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    conv, x = layer(GATConv, seed), features(n, seed=seed)
    found = matrix(*conv.attention(x, edges), n)
    state = conv.state_dict()
    sent = (x @ state["weight"].T).unflatten(1, (2, -1))
    ranked = (sent * state["attention_sender"]).sum(-1)  # the share of j in e_ij, (n, heads)
    for head in range(2):
        ordered = found[:, ranked[:, head].argsort(), head]
        fallen = (ordered.diff(dim=1) < -1e-12).any()
        assert not fallen, f"expected α to rise with the share of j for each i, found {ordered}"


def test_later_attention_is_dynamic():
    """GATv2 gives each node of a complete graph another favourite: e_ij = aᵀ LeakyReLU(W_t h_i + W_s h_j).

    One feature, h = −2, −1, 0, 1, 2; two units, h_j − h_i and h_i − h_j, of which a takes −1: the score is least
    negative for j = i.

    Source: Brody et al. 2021, theorem 2: no ranking that is the same for all can do that.
    """
    n = 5
    conv = GATv2Conv(1, 2, negative_slope=0.0, bias=False).double()
    send = torch.tensor([[8.0], [-8.0]], dtype=torch.float64)
    vector = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    conv.load_state_dict({"weight_sender": send, "weight_receiver": -send, "attention_vector": vector})
    edges = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    x = torch.arange(-2.0, 3.0, dtype=torch.float64)[:, None]
    found = matrix(*conv.attention(x, edges), n)[..., 0]
    laws.assert_same(found.argmax(1), torch.arange(n))


@BOTH
def test_scores_of_thousands_give_no_nan(of):
    """With inputs a thousand times as large the softmax is that of the largest score, finite in value and gradient.

    Source: softmax is unchanged by a shift of all scores of a node.
    """
    conv, x = layer(of), (1000 * features(5)).requires_grad_()
    found = matrix(*conv.attention(x, EDGES), 5)
    laws.assert_close(found.sum(1), torch.ones(5, 2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(conv(x, EDGES).sum(), x)
    assert gradient.isfinite().all(), f"expected finite gradients, found {gradient}"


@BOTH
@given(first=graphs(), second=graphs(), seed=seeds())
def test_graphs_side_by_side_do_not_meet(of, first, second, seed):
    """Two graphs in one give the outputs of each alone, also where one has scores hundreds of times the other's.

    Source: Veličković et al. 2017, §2.1: the softmax is over one node's neighbours.
    """
    (n, one), (m, other) = first, second
    conv, x = layer(of, seed), features(n + m, seed=seed)
    x = torch.cat([300 * x[:n], x[n:]])
    laws.assert_close(conv(x, torch.cat([one, other + n], dim=1)), torch.cat([conv(x[:n], one), conv(x[n:], other)]))


def test_dropout_is_on_the_attention_weights():
    """In training a share p of the α is 0 and the rest 1/(1 − p) times as large; `attention` tells them undropped.

    Isolated nodes have α = 1: an output is 0 or 1/(1 − p) times the node.  20,000 heads: the share is within 5
    standard errors of 0.3 unless in 1 of 2 million runs.

    Source: Veličković et al. 2017, §3.3.
    """
    conv = GATConv(1, 1, heads=2, dropout=0.3, bias=False).double()
    conv.load_state_dict(conv.state_dict() | {"weight": torch.ones(2, 1, dtype=torch.float64)})
    x, none = torch.ones(10_000, 1, dtype=torch.float64), EDGES[:, :0]
    laws.reseed(0)
    output = conv.train()(x, none)
    kept = output[output != 0]
    laws.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    share = (output == 0).double().mean().item()
    assert abs(share - 0.3) < 0.0162, f"expected 0.3 of the weights dropped, found {share}"
    laws.assert_close(conv.eval()(x[:3], none), torch.ones(3, 2, dtype=torch.float64))
    conv, x = layer(dropout=0.5), features(5)
    laws.assert_close(conv.train().attention(x, EDGES)[1], conv.eval().attention(x, EDGES)[1])


@pytest.mark.states("equivalence")
@given(graph=graphs(), seed=seeds())
def test_model_is_two_layers_with_elu_between(graph, seed):
    """GAT is GATConv, concatenated, ELU, GATConv, averaged; the logits get no further nonlinearity.

    Source: Veličković et al. 2017, §3.3; the softmax is the loss's.
    """
    n, edges = graph
    gat, x = laws.randomise(GAT(3, 5, 4, heads=2, out_heads=3).double(), seed).eval(), features(n, seed=seed)
    first, second = gat.layers
    hidden = first(x, edges)
    assert hidden.shape == (n, 10), f"expected heads side by side, ({n}, 10), found {tuple(hidden.shape)}"
    hidden = torch.where(hidden > 0, hidden, hidden.clamp(max=0).expm1())
    laws.assert_close(gat(x, edges), second(hidden, edges))
    laws.assert_close(
        second(hidden, edges),
        reference(second, hidden, edges, slope=0.2)[0].mean(1) + second.state_dict()["bias"],
    )


def test_model_drops_inputs_and_hidden_units_in_training():
    """Both layers' inputs, and both layers' α, are dropped with probability p: 1 number in (1 − p)⁴ survives all.

    Identity matrices, no edges, so that α = 1 and ELU changes nothing.  100,000 numbers, 2,000 nodes; the share has a
    standard error below 0.005, as α is drawn once a node.

    Source: Veličković et al. 2017, §3.3: dropout on both layers' inputs and on the attention coefficients.
    """
    gat = GAT(50, 50, 50, heads=1, dropout=0.2).double().train()
    for parameter in gat.parameters():
        shape = parameter.shape
        parameter.data.copy_(torch.eye(50) if shape == (50, 50) else torch.zeros(shape))
    laws.reseed(0)
    output = gat(torch.ones(8000, 50, dtype=torch.float64), EDGES[:, :0])
    kept = output[output != 0]
    laws.assert_close(kept, torch.full_like(kept, 0.8**-4))
    share = (output != 0).double().mean().item()
    assert abs(share - 0.8**4) < 0.025, f"expected a share of {0.8**4:.3f} that is kept, found {share}"


@pytest.mark.states("gradient routing")
@BOTH
def test_gradient_reaches_the_neighbourhood(of):
    """The loss of one node reaches W, both halves of a and its neighbours; not a node without an edge to it.

    Source: Veličković et al. 2017, eq. 3 and 4.
    """
    conv = layer(of)
    near, apart = features(3).requires_grad_(), features(2, seed=1).requires_grad_()
    edges = torch.cat([EDGES % 3, torch.tensor([[3], [4]])], dim=1)
    loss = conv(torch.cat([near, apart]), edges)[:3].square().sum()
    laws.gradient_reaches(loss, {"near": near, **dict(conv.named_parameters())}, {"apart": apart})


@pytest.mark.states("second derivative")
@BOTH
def test_layer_has_second_derivatives(of):
    """The gradient of the gradient equals central differences, for nodes and all weights.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(layer(of), features(5), EDGES, second_order=True)


@pytest.mark.states("cost")
@BOTH
def test_memory_grows_with_the_edges(of):
    """A ring of twice as many nodes takes twice the bytes, forward and backward: no (n, n) table of scores.

    n = 1,000 against 2,000; such a table of the latter alone would be 32 MB.  Measured: ratio 2.00.

    Source: Veličković et al. 2017, §2.2: O(V F F′ + E F′).
    """

    def ring(n):
        one_way = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
        return torch.cat([one_way, one_way.flip(0)], dim=1)

    conv = of(3, 4, heads=2)

    def run(x, edges):
        conv(x, edges).sum().backward()

    small, large = (cost.peak_bytes(run, nodes(3, n), ring(n)) for n in (1000, 2000))
    assert 1.9 < large / small < 2.1 and large < 8e6, f"expected twice the bytes, found {small} and {large}"


def test_a_hub_of_hundreds_of_neighbours_is_right_in_half_precision():
    """A node with 600 neighbours of equal score is their mean also in bfloat16: α = 1/601, and their sum is 1.

    Source: Veličković et al. 2017, eq. 4.
    Convention: softmax and sums are in float32 or wider inside, as torch's own are.
    """
    n = 601
    edges = torch.stack([torch.arange(1, n), torch.zeros(n - 1, dtype=torch.int64)])
    conv, x = GATConv(1, 1, bias=False).bfloat16(), torch.full((n, 1), 1.5).bfloat16()
    conv.load_state_dict(conv.state_dict() | {"weight": torch.ones(1, 1)})
    laws.assert_close(conv(x, edges)[0].double(), torch.tensor([1.5]).double(), rtol=0.02, because="bfloat16: 8 bits")


@pytest.mark.parametrize("edge", [(5, 0), (0, 5)])
@BOTH
def test_an_edge_of_a_node_that_does_not_exist_is_refused(of, edge):
    """An id of n or above raises, as sender and as receiver.

    Source: torch's own indexing raises IndexError.
    """
    conv = layer(of)
    conv(features(5), EDGES)  # what exists is accepted
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        conv(features(5), torch.tensor(edge)[:, None])
