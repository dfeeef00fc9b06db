"""Properties of graph convolutions.  Kipf & Welling 2016, arXiv:1609.02907."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.gcn import GCN, GCNConv, normalized_adjacency
from spec import cost, laws
from spec.cases.gcn import EDGES, nodes, weights
from spec.strategies import graphs, permutations, seeds, sizes

pytestmark = pytest.mark.item("gcn")


def dense(edge_index, edge_weight, n):
    """The matrix whose entry (i, j) is the sum of the weights of the edges from j to i."""
    matrix = torch.zeros(n, n, dtype=edge_weight.dtype)
    return matrix.index_put((edge_index[1], edge_index[0]), edge_weight, accumulate=True)


def renormalized(matrix):
    """D̃^−½ Ã D̃^−½ by matrix products, for a matrix whose diagonal has its loops already."""
    scale = torch.diag(matrix.sum(1) ** -0.5)
    return scale @ matrix @ scale


def layer(in_features=3, out_features=4, seed=0, **options):
    return laws.randomise(GCNConv(in_features, out_features, **options).double(), seed)


def model(seed=0, **options):
    return laws.randomise(GCN(3, 6, 4, **options).double(), seed).eval()


def features(n, width=3, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def path(n):
    """0 − 1 − 2 − …, both ways."""
    one_way = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    return torch.cat([one_way, one_way.flip(0)], dim=1)


def ring(n):
    one_way = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    return torch.cat([one_way, one_way.flip(0)], dim=1)


@pytest.mark.states("equivalence")
@given(graph=graphs(), seed=seeds())
def test_layer_is_the_product_with_the_renormalized_adjacency(graph, seed):
    """GCNConv computes D̃^−½ (A + I) D̃^−½ X Wᵀ + b, where A has the edges' weights and D̃ sums what a node receives.

    Source: Kipf & Welling 2016, eq. 2.
    Convention: Wᵀ is the paper's W; A_ij is the edge from j to i, as in PyTorch Geometric.
    """
    n, edges = graph
    strength, x, conv = weights(edges.shape[1], seed).double(), features(n, seed=seed), layer(seed=seed)
    matrix = renormalized(dense(edges, strength, n) + torch.eye(n, dtype=torch.float64))

    def reference(x, strength):
        matrix = renormalized(dense(edges, strength, n) + torch.eye(n, dtype=torch.float64))
        return matrix @ x @ conv.weight.T + conv.bias

    laws.assert_close(conv(x, edges, strength), matrix @ x @ conv.weight.T + conv.bias)
    laws.gradients_match(lambda x, strength: conv(x, edges, strength), reference, x, strength)


@given(graph=graphs(), seed=seeds())
def test_edges_without_weights_have_the_weight_one(graph, seed):
    """GCNConv(X, edges) = GCNConv(X, edges, 1).

    Source: Kipf & Welling 2016, §2: a binary or weighted adjacency.
    """
    n, edges = graph
    x, conv = features(n, seed=seed), layer(seed=seed)
    laws.assert_close(conv(x, edges), conv(x, edges, torch.ones(edges.shape[1], dtype=torch.float64)))


@pytest.mark.states("symmetry")
@given(graph=graphs(), seed=seeds(), data=st.data())
def test_numbering_of_the_nodes_has_no_meaning(graph, seed, data):
    """f(P A Pᵀ, P X) = P f(A, X) for every permutation P of the nodes, for the layer and the model.

    Source: Kipf & Welling 2016, eq. 2: sums over neighbours.
    """
    n, edges = graph
    order = data.draw(permutations(n))
    moved = order.argsort()[edges]  # the node that was order[k] is now k
    for function in (layer(seed=seed), model(seed)):
        x = features(n, seed=seed)
        laws.assert_close(function(x[order], moved), function(x, edges)[order])


@given(graph=graphs(), seed=seeds(), data=st.data())
def test_order_of_the_edges_has_no_meaning(graph, seed, data):
    """Edges in another order, each with its weight, give the same output.

    Source: Kipf & Welling 2016, eq. 2: a sum.
    """
    n, edges = graph
    order = data.draw(permutations(edges.shape[1]))
    strength, x, conv = weights(edges.shape[1], seed).double(), features(n, seed=seed), layer(seed=seed)
    laws.assert_close(conv(x, edges[:, order], strength[order]), conv(x, edges, strength))


@pytest.mark.states("dependence")
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_a_node_sees_as_many_steps_as_there_are_layers(num_layers):
    """∂Z_i/∂X_j ≠ 0 exactly where j reaches i along at most K edges, for K layers, along a directed path.

    Source: Kipf & Welling 2016, §2.2: K layers are a filter of the K-th-order neighbourhood.
    """
    n, edges = 6, torch.stack([torch.arange(5), torch.arange(1, 6)])
    gcn = model(num_layers=num_layers)
    for parameter in gcn.parameters():
        parameter.data.abs_()  # with positive weights and inputs no ReLU is closed
    x = features(n).abs()
    steps = torch.arange(n)[:, None] - torch.arange(n)
    allowed = ((steps >= 0) & (steps <= num_layers)).repeat_interleave(4, 0).repeat_interleave(3, 1)
    laws.depends_only_on(lambda x: gcn(x, edges), x, allowed)


def test_messages_go_from_the_first_row_to_the_second():
    """An edge (j, i) adds x_j to node i, and nothing to node j.

    Source: Kipf & Welling 2016, eq. 2; the convention of PyTorch Geometric.
    """
    conv, x = layer(2, 2, bias=False, normalize=False), torch.tensor([[1.0, 2.0], [10.0, 20.0]], dtype=torch.float64)
    found = conv(x, torch.tensor([[1], [0]]))
    laws.assert_close(found, torch.stack([x[1] @ conv.weight.T, torch.zeros(2, dtype=torch.float64)]))


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_a_node_without_neighbours_is_a_linear_layer(seed):
    """An isolated node has Â_ii = 1: its output is W x_i + b; so has each node of a graph without edges.

    Source: Kipf & Welling 2016, §2.2: D̃ counts the loop.
    """
    conv, x = layer(seed=seed), features(5, seed=seed)
    expected = x @ conv.weight.T + conv.bias
    laws.assert_close(conv(x, EDGES)[4], expected[4])
    laws.assert_close(conv(x, EDGES[:, :0]), expected)
    laws.assert_close(conv(x[:1], EDGES[:, :0]), expected[:1])


def test_a_graph_without_nodes_has_no_outputs():
    """No nodes and no edges give outputs of shape (0, d′).

    Source: torch's convention for zero-size batches.
    """
    for function in (layer(), model()):
        laws.assert_close(function(features(0), EDGES[:, :0]), torch.zeros(0, 4, dtype=torch.float64))


@given(weight=st.floats(0.25, 4))
def test_a_loop_keeps_its_weight_and_gets_no_second_one(weight):
    """A node with a loop of weight w has Ã_ii = w, not w + 1; the other nodes have Ã_ii = 1.

    Source: Kipf & Welling 2016, §2.2, where A has no loops.
    Convention: PyTorch Geometric's; Ã = A + I taken literally would give w + 1.
    """
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 1, 0]])
    strength = torch.tensor([1.0, 2.0, weight, 0.5], dtype=torch.float64)
    matrix = torch.tensor([[1.0, 2.0, 0.5], [1.0, weight, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    conv, x = layer(), features(3)
    laws.assert_close(conv(x, edges, strength), renormalized(matrix) @ x @ conv.weight.T + conv.bias)


@given(graph=graphs(), seed=seeds())
def test_a_repeated_edge_counts_twice(graph, seed):
    """An edge that stands twice is an edge of twice the weight.

    Source: Kipf & Welling 2016, §2: A_ij is the sum of what joins i and j.
    """
    n, edges = graph
    x, conv = features(n, seed=seed), layer(seed=seed)
    strength = torch.ones(edges.shape[1], dtype=torch.float64)
    strength[0] = 2
    laws.assert_close(conv(x, torch.cat([edges, edges[:, :1]], dim=1)), conv(x, edges, strength))


@given(graph=graphs(), seed=seeds())
def test_an_edge_of_weight_zero_is_no_edge(graph, seed):
    """Edges of weight 0 change nothing.

    Source: Kipf & Welling 2016, eq. 2.
    """
    n, edges = graph
    x, conv = features(n, seed=seed), layer(seed=seed)
    twice = torch.cat([edges, edges.flip(0)], dim=1)
    strength = torch.cat([torch.ones(edges.shape[1]), torch.zeros(edges.shape[1])]).double()
    laws.assert_close(conv(x, twice, strength), conv(x, edges))


@given(first=graphs(), second=graphs(), seed=seeds())
def test_graphs_side_by_side_do_not_meet(first, second, seed):
    """A batch of graphs is one graph without edges between them: the outputs are those of each graph alone.

    Source: Kipf & Welling 2016, appendix A: a block-diagonal adjacency.
    """
    (n, one), (m, other) = first, second
    x, gcn = features(n + m, seed=seed), model(seed)
    expected = torch.cat([gcn(x[:n], one), gcn(x[n:], other)])
    laws.assert_close(gcn(x, torch.cat([one, other + n], dim=1)), expected)


@given(n=sizes(3, 7), seed=seeds())
def test_renormalization_bounds_the_spectrum_by_one(n, seed):
    """Of an undirected graph Â has eigenvalues in (−1, 1], and D̃^½ 1 is the eigenvector of 1.

    Without the loops in D̃, I + D^−½ A D^−½ has eigenvalues up to 2, and repeated layers explode.

    Source: Kipf & Welling 2016, §2.2.
    """
    strength = weights(n, seed).double()
    edges = ring(n)
    found = normalized_adjacency(edges, torch.cat([strength, strength]), n)
    matrix = dense(*found, n)
    root = (1 + strength + strength.roll(1)).sqrt()
    laws.assert_close(matrix @ root, root)
    laws.assert_close(matrix, matrix.T)
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] > -1 and values[-1] < 1 + 1e-10, f"expected eigenvalues in (−1, 1], found {values.tolist()}"


def test_neighbours_of_a_star_are_weighted_by_both_degrees():
    """In a star of three leaves Â(centre, leaf) = 1/√(4 · 2) both ways; the random walk would have 1/4 and 1/2.

    Source: Kipf & Welling 2016, §2.2.
    """
    one_way = torch.tensor([[0, 0, 0], [1, 2, 3]])
    edges = torch.cat([one_way, one_way.flip(0)], dim=1)
    matrix = dense(*normalized_adjacency(edges, torch.ones(6, dtype=torch.float64), 4), 4)
    expected = torch.diag(torch.tensor([1 / 4, 1 / 2, 1 / 2, 1 / 2], dtype=torch.float64))
    expected[0, 1:] = expected[1:, 0] = 8**-0.5
    laws.assert_close(matrix, expected)


@given(n=sizes(3, 6), seed=seeds())
def test_on_a_regular_graph_the_layer_is_a_mean(n, seed):
    """Where all nodes have one degree, Â X is the mean of a node and its neighbours.

    Source: Kipf & Welling 2016, §2.2: D̃ is a multiple of I.
    """
    conv, x = layer(seed=seed), features(n, seed=seed)
    mean = (x + x.roll(1, 0) + x.roll(-1, 0)) / 3
    laws.assert_close(conv(x, ring(n)), mean @ conv.weight.T + conv.bias)


@given(graph=graphs(), seed=seeds())
def test_without_normalization_the_layer_sums_over_neighbours(graph, seed):
    """normalize=False gives A X Wᵀ + b: no loops, no degrees.

    Source: Kipf & Welling 2016, §2 (the sum rule that eq. 2 normalises).
    """
    n, edges = graph
    strength, x = weights(edges.shape[1], seed).double(), features(n, seed=seed)
    conv = layer(seed=seed, normalize=False)
    laws.assert_close(conv(x, edges, strength), dense(edges, strength, n) @ x @ conv.weight.T + conv.bias)


@given(seed=seeds())
def test_without_loops_a_node_that_receives_nothing_gets_the_bias(seed):
    """With add_self_loops=False a node of degree 0 has a row of zeros in Â, not 0/0, and sends nothing.

    Source: Kipf & Welling 2016, §2.2 with Ã = A.
    Convention: 1/√0 counts as 0, as in PyTorch Geometric.
    """
    edges = torch.tensor([[0, 1, 2], [1, 0, 0]])  # nothing ends in 2
    conv, x = layer(seed=seed, add_self_loops=False), features(4, seed=seed).requires_grad_()
    output = conv(x, edges)
    mixed = x @ conv.weight.T
    expected = torch.stack([mixed[1] * 2**-0.5, mixed[0] * 2**-0.5, 0 * mixed[2], 0 * mixed[3]])
    laws.assert_close(output, expected + conv.bias)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.isfinite().all(), f"expected a finite gradient, found {gradient}"


@pytest.mark.states("equivalence")
@given(graph=graphs(), seed=seeds())
def test_model_is_equation_nine(graph, seed):
    """Two layers give Â ReLU(Â X W⁰ + b⁰) W¹ + b¹: no ReLU, no softmax at the end.

    Source: Kipf & Welling 2016, eq. 9; the softmax is the loss's.
    """
    n, edges = graph
    gcn, x = model(seed), features(n, seed=seed)
    matrix = renormalized(dense(edges, torch.ones(edges.shape[1], dtype=torch.float64), n) + torch.eye(n))
    state = gcn.state_dict()
    hidden = (matrix @ x @ state["layers.0.weight"].T + state["layers.0.bias"]).relu()
    laws.assert_close(gcn(x, edges), matrix @ hidden @ state["layers.1.weight"].T + state["layers.1.bias"])


@given(graph=graphs(), seed=seeds())
def test_model_uses_the_edges_weights_in_each_layer(graph, seed):
    """The model's output is that of its layers with the same weights of edges in each.

    Source: Kipf & Welling 2016, eq. 9: one Â for all layers.
    """
    n, edges = graph
    strength, gcn, x = weights(edges.shape[1], seed).double(), model(seed, num_layers=3), features(n, seed=seed)
    first, second, third = gcn.layers
    hidden = second(first(x, edges, strength).relu(), edges, strength).relu()
    laws.assert_close(gcn(x, edges, strength), third(hidden, edges, strength))


def test_dropout_is_before_each_layer_in_training():
    """In training a share of p of each layer's inputs is zero and the rest scaled by 1/(1 − p); in evaluation none is.

    The model has an identity for W and no edges, so that outputs show what was dropped: a number reaches the end where
    both layers keep it, with probability (1 − p)².  100,000 numbers: the share is within 5 standard errors of 0.5625
    in 1 of 2 million runs.

    Source: Kipf & Welling 2016, §5.2.
    """
    gcn = GCN(50, 50, 50, dropout=0.25).double().train()
    for parameter in gcn.parameters():
        parameter.data.copy_(torch.eye(50) if parameter.dim() == 2 else torch.zeros(50))
    laws.reseed(0)
    output = gcn(torch.ones(2000, 50, dtype=torch.float64), EDGES[:, :0])
    kept = output != 0
    laws.assert_close(output[kept], torch.full((int(kept.sum()),), 1 / 0.75**2, dtype=torch.float64))
    share = kept.double().mean().item()
    assert abs(share - 0.5625) < 0.008, f"expected a share of 0.5625 that is kept, found {share}"
    laws.assert_close(gcn.eval()(torch.ones(3, 50, dtype=torch.float64), EDGES[:, :0]), torch.ones(3, 50).double())


@pytest.mark.states("gradient routing")
def test_weights_of_edges_learn():
    """The gradient reaches nodes, weights of edges, W and b; not the nodes without a path to the node in the loss.

    Source: Kipf & Welling 2016, eq. 2.
    """
    gcn, x = model(), features(5)
    apart = features(2, seed=1).requires_grad_()
    near, strength = x[:3].requires_grad_(), weights().double().requires_grad_()
    edges = torch.cat([EDGES % 3, torch.tensor([[3], [4]])], dim=1)
    output = gcn(torch.cat([near, apart]), edges, torch.cat([strength, strength.new_ones(1)]))
    laws.gradient_reaches(
        output[:3].square().sum(),
        {"nodes": near, "weights": strength, **dict(gcn.named_parameters())},
        {"apart": apart},
    )


@pytest.mark.states("second derivative")
def test_layer_has_second_derivatives():
    """The gradient of the gradient equals central differences, for nodes, weights of edges, W and b.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(layer(), features(5), EDGES, weights().double(), second_order=True)


@pytest.mark.states("cost")
def test_memory_grows_with_the_edges_and_not_with_the_square_of_the_nodes():
    """A ring of twice as many nodes takes twice the memory, forward and backward: no (n, n) matrix exists.

    n = 2,000 against 4,000: one dense float32 matrix of 4,000 nodes would be 64 MB.  Measured: 1.6 and 3.3 MB, ratio
    2.00; a dense Â gives 4.0.

    Source: Kipf & Welling 2016, §2: O(|E| F C).
    """
    gcn = GCN(3, 6, 4).eval()

    def run(x, edges):
        gcn(x, edges).sum().backward()

    small, large = (cost.peak_bytes(run, nodes(3, n), ring(n)) for n in (2000, 4000))
    assert 1.9 < large / small < 2.1, f"expected twice the bytes, found {small} and {large}"
    assert large < 16e6, f"expected bytes of the edges, found {large}"


@pytest.mark.states("cost")
def test_features_are_mixed_once_a_node():
    """W multiplies each node once, 2 n d d′ operations, however many edges there are.

    Source: Kipf & Welling 2016, eq. 2.
    """
    conv = GCNConv(3, 4)
    for edges in (ring(20), ring(20).repeat(1, 5)):
        found = cost.flops(conv, nodes(3, 20), edges)
        assert found == 2 * 20 * 3 * 4, f"expected {2 * 20 * 3 * 4} operations, found {found}"


def test_a_hub_of_hundreds_of_neighbours_is_right_in_half_precision():
    """A node with 600 neighbours has degree 601 also in bfloat16, whose whole numbers end at 256.

    Source: Kipf & Welling 2016, §2.2.
    Convention: sums over neighbours are in float32 or wider, as torch's own reductions are.
    """
    n = 601
    edges = torch.stack([torch.arange(1, n), torch.zeros(n - 1, dtype=torch.int64)])
    conv, x = layer().bfloat16(), (1 + features(n).abs()).bfloat16()
    exact = layer()
    exact.load_state_dict(conv.state_dict())
    expected = exact(x.double(), edges)
    found = conv(x, edges)
    assert found.dtype == torch.bfloat16, f"expected bfloat16, found {found.dtype}"
    laws.assert_close(found.double()[:1], expected[:1], rtol=0.03, atol=0.03, because="bfloat16 has 8 bits")


def test_published_initial_weights():
    """W is drawn uniformly in ±√(6/(d + d′)), and b starts at 0.

    40,000 numbers: the largest is beyond 0.999 of the bound unless with probability 1e−17.

    Source: Kipf & Welling 2016, §5.2: Glorot & Bengio 2010.
    """
    laws.reseed(0)
    conv = GCNConv(100, 400)
    bound = (6 / 500) ** 0.5
    largest = conv.weight.detach().abs().max().item()
    assert 0.999 * bound < largest <= bound * (1 + 1e-6), f"expected at most {bound}, found {largest}"
    spread = conv.weight.detach().std().item()
    assert abs(spread / (bound / 3**0.5) - 1) < 0.02, f"expected a spread of {bound / 3**0.5}, found {spread}"
    laws.assert_same(conv.bias.detach(), torch.zeros(400))


@pytest.mark.parametrize("edge", [(5, 0), (0, 5)])
def test_an_edge_of_a_node_that_does_not_exist_is_refused(edge):
    """An id of n or above raises, as sender and as receiver, instead of reading or writing elsewhere.

    Source: torch's own indexing raises IndexError.
    """
    conv = layer()
    conv(features(5), EDGES)  # what exists is accepted
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        conv(features(5), torch.tensor(edge)[:, None])


@pytest.mark.project_convention
@pytest.mark.parametrize("edge", [(-1, 0), (0, -1)])
def test_a_negative_id_is_refused(edge):
    """An id of −1 raises and does not stand for the last node.

    Source: Kipf & Welling 2016, §2: nodes count from 0.
    """
    conv = layer()
    conv(features(5), EDGES)  # what exists is accepted
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        conv(features(5), torch.tensor(edge)[:, None])
