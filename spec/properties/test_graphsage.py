"""Properties of GraphSAGE.  Hamilton, Ying & Leskovec 2017, arXiv:1706.02216."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.graphsage import GraphSAGE, SAGEConv, sample_neighborhood, sample_neighbors, unsupervised_loss
from spec import cost, laws
from spec.cases.gcn import EDGES, nodes
from spec.strategies import graphs, permutations, seeds, sizes

pytestmark = pytest.mark.item("graphsage")

AGGREGATORS = ("mean", "gcn", "pool", "lstm")
EVERY = pytest.mark.parametrize("aggregator", AGGREGATORS)
UNORDERED = pytest.mark.parametrize("aggregator", ["mean", "gcn", "pool"])


def layer(aggregator="mean", seed=0, **options):
    return laws.randomise(SAGEConv(3, 4, aggregator, **options).double(), seed).eval()


def model(seed=0, aggregator="mean", num_layers=2):
    return laws.randomise(GraphSAGE(3, 6, 4, num_layers, aggregator).double(), seed).eval()


def features(n, width=3, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def neighbours(edges, i):
    """Who sends to i, once for each edge, in the order of the edges."""
    return edges[0][edges[1] == i]


def unit(x):
    """Each row divided by its length; zero rows stay."""
    length = x.square().sum(1, keepdim=True).sqrt()
    return torch.where(length > 0, x / torch.where(length > 0, length, 1), 0)


def gathered(conv, aggregator, x, edges):
    """What the product with W is of, node by node with a Python loop."""
    rows = []
    for i in range(len(x)):
        near = x[neighbours(edges, i)]
        if aggregator == "gcn":
            rows.append(torch.cat([near, x[i : i + 1]]).mean(0))
            continue
        if aggregator == "pool":
            state = conv.state_dict()
            near = (near @ state["pool.weight"].T + state["pool.bias"]).relu()
            found = near.amax(0) if len(near) else torch.zeros_like(x[i])
        else:
            found = near.mean(0) if len(near) else torch.zeros_like(x[i])
        rows.append(torch.cat([x[i], found]))
    return torch.stack(rows)


@pytest.mark.states("equivalence")
@UNORDERED
@given(graph=graphs(), seed=seeds())
def test_layer_is_algorithm_one(aggregator, graph, seed):
    """h_v = σ(W [h_v ‖ AGGREGATE(neighbours)] + b), then divided by its length; "gcn" takes one mean with h_v.

    Source: Hamilton et al. 2017, algorithm 1 lines 4-7, eq. 2 and 3.
    Convention: σ is ReLU and comes before the division; PyTorch Geometric's layer has no σ.
    """
    n, edges = graph
    conv, x = layer(aggregator, seed), features(n, seed=seed)
    state = conv.state_dict()
    linear = gathered(conv, aggregator, x, edges) @ state["weight"].T + state["bias"]
    laws.assert_close(conv(x, edges), unit(linear.relu()))


@UNORDERED
@given(graph=graphs(), seed=seeds())
def test_activation_and_length_are_choices(aggregator, graph, seed):
    """activation=False leaves out σ, normalize=False the division, each by itself.

    Source: Hamilton et al. 2017, algorithm 1 lines 5 and 7.
    """
    n, edges = graph
    x = features(n, seed=seed)
    plain = layer(aggregator, seed, activation=False, normalize=False)
    state = plain.state_dict()
    linear = gathered(plain, aggregator, x, edges) @ state["weight"].T + state["bias"]
    laws.assert_close(plain(x, edges), linear)
    laws.assert_close(layer(aggregator, seed, normalize=False)(x, edges), linear.relu())
    laws.assert_close(layer(aggregator, seed, activation=False)(x, edges), unit(linear))


@EVERY
@given(graph=graphs(), seed=seeds())
def test_embeddings_have_length_one(aggregator, graph, seed):
    """‖z_v‖ = 1 for each node of each layer, whatever the features' size.

    Source: Hamilton et al. 2017, algorithm 1 line 7.
    """
    n, edges = graph
    conv = layer(aggregator, seed, activation=False)
    for scale in (1.0, 1e-6, 1e6):
        found = conv(scale * features(n, seed=seed), edges).square().sum(1)
        laws.assert_close(found, torch.ones_like(found))


def test_a_zero_vector_stays_zero():
    """Where σ closes every unit the output is 0 and not 0/0, with finite gradients.

    Source: Hamilton et al. 2017, algorithm 1 line 7.
    Convention: 0/‖0‖ is 0.
    """
    conv = layer()
    conv.load_state_dict({key: -value.abs() for key, value in conv.state_dict().items()})
    x = features(5).abs().requires_grad_()
    output = conv(x, EDGES)
    laws.assert_same(output.detach(), torch.zeros_like(output))
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient.isfinite().all(), f"expected finite gradients, found {gradient}"


@pytest.mark.project_convention
def test_the_length_of_large_numbers_does_not_overflow():
    """Features of 10²⁵, whose squares float32 does not have, are divided by their length as well.

    Source: Hamilton et al. 2017, algorithm 1 line 7.
    Convention: torch.nn.functional.normalize squares first and gives 0.
    """
    large = layer(activation=False).float()(1e25 * features(5).float(), EDGES)
    length = large.double().square().sum(1)
    laws.assert_close(length, torch.ones_like(length), rtol=1e-5, because="float32")


@pytest.mark.states("symmetry")
@EVERY
@given(graph=graphs(), seed=seeds(), data=st.data())
def test_numbering_of_the_nodes_has_no_meaning(aggregator, graph, seed, data):
    """f(P A Pᵀ, P X) = P f(A, X) for every permutation P of the nodes, the edges in their order.

    Source: Hamilton et al. 2017, algorithm 1.
    """
    n, edges = graph
    conv, x, order = layer(aggregator, seed, activation=False), features(n, seed=seed), data.draw(permutations(n))
    laws.assert_close(conv(x[order], order.argsort()[edges]), conv(x, edges)[order])


@UNORDERED
@given(graph=graphs(), seed=seeds(), data=st.data())
def test_neighbours_are_a_set_for_all_but_the_lstm(aggregator, graph, seed, data):
    """Mean, gcn and pool give one output for every order of the edges.

    Source: Hamilton et al. 2017, §3.3: aggregators should be symmetric.
    """
    n, edges = graph
    conv, x, order = layer(aggregator, seed), features(n, seed=seed), data.draw(permutations(edges.shape[1]))
    laws.assert_close(conv(x, edges[:, order]), conv(x, edges))


def test_the_lstm_reads_its_neighbours_in_order():
    """The LSTM's output depends on the order of a node's edges in evaluation, and on no other node's edges.

    In training it reads them in a random order: two runs differ.

    Source: Hamilton et al. 2017, §3.3: "LSTMs are not inherently symmetric"; applied to a random permutation.
    """
    conv, x = layer("lstm", activation=False), features(5)
    one, other = torch.tensor([[1, 2, 3], [0, 0, 0]]), torch.tensor([[3, 2, 1], [0, 0, 0]])
    laws.assert_differs(conv(x, one), conv(x, other), by=1e-4)
    mixed = torch.tensor([[4, 1, 4, 2, 3, 0], [4, 0, 1, 0, 0, 3]])
    laws.assert_close(conv(x, mixed)[0], conv(x, one)[0])
    laws.reseed(0)
    runs = [conv.train()(x, one)[0] for _ in range(8)]
    laws.assert_differs(torch.stack(runs), runs[0].expand(8, -1), by=1e-4)
    found = conv(x, one[:, :1])
    laws.assert_close(found, conv.eval()(x, one[:, :1]))  # of one neighbour there is one order


def test_the_lstm_reads_every_neighbour():
    """Each of a node's neighbours, the first of five included, changes the LSTM's output; each changes only that node.

    Source: Hamilton et al. 2017, §3.3.
    """
    edges = torch.tensor([[1, 2, 3, 4, 5, 0, 2], [0, 0, 0, 0, 0, 3, 3]])
    conv = laws.randomise(SAGEConv(3, 4, "lstm", activation=False).double()).eval()
    for parameter in conv.parameters():
        parameter.data.div_(4)  # no gate is shut
    allowed = torch.eye(6, dtype=torch.bool)
    allowed[edges[1], edges[0]] = True
    laws.depends_only_on(lambda x: conv(x, edges), features(6), allowed.repeat_interleave(4, 0).repeat_interleave(3, 1))


@pytest.mark.states("limiting case")
@EVERY
@given(seed=seeds())
def test_a_node_without_neighbours_has_an_empty_half(aggregator, seed):
    """Without neighbours h_N = 0: the output is that of [h_v ‖ 0], and of h_v for "gcn"; no NaN, no −∞.

    Source: Hamilton et al. 2017, algorithm 1.
    Convention: the mean, the maximum and the LSTM of nothing are 0.
    """
    conv, x = layer(aggregator, seed, activation=False), features(5, seed=seed)
    state = conv.state_dict()
    expected = unit(x @ state["weight"][:, :3].T + state["bias"])
    laws.assert_close(conv(x, EDGES)[4], expected[4])
    laws.assert_close(conv(x, EDGES[:, :0]), expected)
    laws.assert_close(conv(x[:1], EDGES[:, :0]), expected[:1])
    laws.assert_close(conv(x[:0], EDGES[:, :0]), expected[:0])


def test_a_repeated_neighbour_moves_the_mean_and_not_the_maximum():
    """Twice the same edge weighs twice in the mean, and changes nothing in pooling.

    Source: Hamilton et al. 2017, §3.3.
    """
    once, twice = torch.tensor([[1, 2], [0, 0]]), torch.tensor([[1, 1, 2], [0, 0, 0]])
    x = features(3)
    laws.assert_close(layer("pool")(x, twice), layer("pool")(x, once))
    laws.assert_differs(layer(activation=False)(x, twice), layer(activation=False)(x, once), by=1e-3)


@EVERY
def test_messages_follow_the_edge(aggregator):
    """Along an edge (j, i) node i gathers from j, and j gathers nothing.

    Source: Hamilton et al. 2017, algorithm 1; rows of edge_index as in PyTorch Geometric.
    """
    conv, x = layer(aggregator, activation=False), features(2)
    found, alone = conv(x, torch.tensor([[1], [0]])), conv(x, torch.empty(2, 0, dtype=torch.int64))
    laws.assert_close(found[1], alone[1])
    laws.assert_differs(found[0], alone[0], by=1e-4)


@pytest.mark.states("dependence")
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_a_node_sees_as_many_steps_as_there_are_layers(num_layers):
    """An embedding depends exactly on the nodes that reach it along at most K edges, for K layers.

    Source: Hamilton et al. 2017, §3.1: K is the depth of the search.
    """
    n, edges = 6, torch.stack([torch.arange(5), torch.arange(1, 6)])
    sage = model(num_layers=num_layers)
    for parameter in sage.parameters():
        parameter.data.abs_()
    steps = torch.arange(n)[:, None] - torch.arange(n)
    allowed = ((steps >= 0) & (steps <= num_layers)).repeat_interleave(4, 0).repeat_interleave(3, 1)
    laws.depends_only_on(lambda x: sage(x, edges), features(n).abs() + 0.1, allowed)


@pytest.mark.states("equivalence")
@EVERY
@given(graph=graphs(), seed=seeds())
def test_model_is_its_layers_and_the_last_has_no_activation(aggregator, graph, seed):
    """z = layer_K(… layer_1(x)), each output of length 1; entries of the last may be negative, of the others not.

    Source: Hamilton et al. 2017, algorithm 1.
    Convention: no σ in the last layer, as in the authors' code.
    """
    n, edges = graph
    sage, x = model(seed, aggregator, num_layers=3), features(n, seed=seed)
    hidden = x
    for number, conv in enumerate(sage.layers):
        hidden = conv(hidden, edges)
        if number < 2:
            assert (hidden >= 0).all(), f"expected ReLU in layer {number}, found {hidden.min()}"
    laws.assert_close(sage(x, edges), hidden)
    many = model(seed, aggregator)(features(40, seed=seed), torch.arange(40).repeat(2, 1))
    assert (many < 0).any(), "expected an embedding with negative entries, found none"


@given(graph=graphs(), seed=seeds())
def test_a_graph_for_each_layer(graph, seed):
    """With a list of graphs, the k-th layer gathers along the k-th.

    Source: Hamilton et al. 2017, appendix A, algorithm 2: each depth samples neighbours of its own.
    """
    n, edges = graph
    sage, x = model(seed), features(n, seed=seed)
    first, second = edges, edges.flip(0)
    one, other = sage.layers
    laws.assert_close(sage(x, [first, second]), other(one(x, first), second))
    laws.assert_close(sage(x, [edges, edges]), sage(x, edges))


@given(graph=graphs(), extra=graphs(), seed=seeds())
def test_embeddings_do_not_know_the_rest_of_the_graph(graph, extra, seed):
    """A node has the same embedding in a larger graph that adds nothing to its neighbourhood: weights are inductive.

    Source: Hamilton et al. 2017, §3.1: unseen nodes and graphs.
    """
    (n, edges), (m, more) = graph, extra
    sage, x = model(seed), features(n + m, seed=seed)
    laws.assert_close(sage(x, torch.cat([edges, more + n], dim=1))[:n], sage(x[:n], edges))


# ---------------------------------------------------------------------------------------------- sampling


@given(graph=graphs(), count=sizes(1, 5), seed=seeds())
def test_sampled_edges_are_edges_and_as_many_as_asked_for(graph, count, seed):
    """Each node that has neighbours gets exactly `count` of them, one without gets none; nothing else is sampled.

    Distinct where there are enough, all of them where the number is theirs, and with repetitions where there are fewer.

    Source: Hamilton et al. 2017, §3.1: fixed-size, uniform draws.
    Convention: with replacement where a node has fewer neighbours, as in the authors' code.
    """
    n, edges = graph
    wanted = torch.arange(n).flip(0)[: max(1, n - 1)]
    found = sample_neighbors(edges, wanted, count, generator=torch.Generator().manual_seed(seed))
    for i in range(n):
        near, drawn = neighbours(edges, i).tolist(), neighbours(found, i).tolist()
        expected = count if near and i in wanted else 0
        assert len(drawn) == expected, f"expected {expected} neighbours of node {i}, found {drawn} of {near}"
        assert set(drawn) <= set(near), f"expected neighbours of node {i} among {near}, found {drawn}"
        if len(near) >= count:
            assert len(set(drawn)) == len(drawn), f"expected no neighbour of node {i} twice, found {drawn}"


def test_sampling_is_uniform():
    """Every neighbour is drawn with the same probability, with and without replacement, wherever its edge stands.

    4,000 samples of 2 of 4 neighbours, and of 6 of 4.  Each frequency has a standard error of 0.008 and 0.018 at most;
    5 of them are allowed: a false alarm in 1 of 200,000 runs, and the seed is fixed.  Among 60 samples of 4 neighbours
    each occurs, unless in 1 of 8 million runs.

    Source: Hamilton et al. 2017, §3.1.
    """
    edges = torch.tensor([[5, 1, 2, 3, 0, 4], [0, 0, 1, 0, 2, 0]])
    generator = torch.Generator().manual_seed(0)
    for count, slack in ((2, 0.04), (6, 0.09)):
        seen = torch.zeros(6)
        for _ in range(4000):
            seen += torch.bincount(sample_neighbors(edges, torch.tensor([0]), count, generator)[0], minlength=6)
        expected = torch.tensor([0, 1, 0, 1, 1, 1]) * count / 4
        gap = (seen / 4000 - expected).abs().max().item()
        assert gap < slack, f"expected frequencies {expected.tolist()}, found {(seen / 4000).tolist()}"
    many = sample_neighbors(edges, torch.tensor([0]), 60, generator)[0].unique()
    laws.assert_same(many, torch.tensor([1, 3, 4, 5]))


def test_sampled_mean_is_unbiased():
    """Averaged over 4,000 samples, the mean of 2 sampled neighbours is the mean of all 5, before W and σ.

    The standard error is below 0.012; the bound is 5 of them.

    Source: Hamilton et al. 2017, §3.1: uniform draws.
    """
    edges = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    conv = SAGEConv(1, 1, activation=False, normalize=False, bias=False).double()
    conv.load_state_dict({"weight": torch.tensor([[0.0, 1.0]], dtype=torch.float64)})
    x, generator = features(6, width=1), torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = [conv(x, sample_neighbors(edges, torch.tensor([0]), 2, generator))[0, 0] for _ in range(4000)]
    gap = (torch.stack(draws).mean() - x[1:].mean()).abs().item()
    assert gap < 0.06, f"expected {x[1:].mean()}, found a mean that is {gap} away"


def test_sampling_repeats_with_its_generator_and_leaves_the_global_one():
    """The same generator state gives the same edges, and torch's global generator does not move.

    Source: this project: randomness comes from the generator that is given.
    """
    before = torch.get_rng_state()
    found = [
        sample_neighbors(EDGES, torch.tensor([1, 0]), 3, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]
    laws.assert_same(found[0], found[1])
    laws.assert_same(torch.get_rng_state(), before)


@given(graph=graphs(), seed=seeds())
def test_sampling_all_neighbours_gives_the_exact_embeddings(graph, seed):
    """With counts that are everyone's number of neighbours, the wanted embeddings are those of the whole graph.

    Source: Hamilton et al. 2017, appendix A, algorithm 2 equals algorithm 1 on the wanted nodes.
    """
    n, edges = graph
    degree = torch.bincount(edges[1], minlength=n)
    complete = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T  # every node has n neighbours
    for graph_edges, count in ((complete, n), (edges[:, :1], 1)):
        sage, x, wanted = model(seed), features(n, seed=seed), torch.tensor([n - 1, 0])
        ids, graphs_of_layers = sample_neighborhood(
            graph_edges, wanted, [count, count], generator=torch.Generator().manual_seed(seed)
        )
        laws.assert_close(sage(x[ids], graphs_of_layers)[:2], sage(x, graph_edges)[wanted])
    assert degree.sum() == edges.shape[1]


def test_the_last_count_is_that_of_the_wanted_nodes():
    """Of S_1 = 3, S_2 = 2 the wanted nodes have 2 sampled neighbours in the last layer, and those 3 in the first.

    Every node of the graph has 20 neighbours: the first layer's edges end in the wanted nodes and their 2 neighbours
    each, 3 in each.  Wanted nodes come first, and no id stands twice.

    Source: Hamilton et al. 2017, appendix A, algorithm 2 (B^K is the minibatch).
    """
    n, wanted = 500, torch.tensor([7, 3])
    offsets = torch.arange(1, 21)
    edges = torch.stack([(torch.arange(n)[:, None] + offsets).flatten() % n, torch.arange(n).repeat_interleave(20)])
    ids, (first, second) = sample_neighborhood(edges, wanted, [3, 2], generator=torch.Generator().manual_seed(0))
    assert ids[:2].tolist() == [7, 3] and len(ids.unique()) == len(ids), f"expected 7 and 3 first, found {ids}"
    assert second.shape[1] == 4 and set(second[1].tolist()) == {0, 1}, f"expected 2 edges a wanted node, found {second}"
    inner = torch.cat([torch.tensor([0, 1]), second[0]]).unique()
    laws.assert_same(first[1].unique(), inner)
    assert first.shape[1] == 3 * len(inner), f"expected 3 edges into each of {len(inner)} nodes, found {first.shape[1]}"
    for layer_edges in (first, second):  # places in ids, of edges that exist
        away = (ids[layer_edges[0]] - ids[layer_edges[1]]) % n
        assert ((away >= 1) & (away <= 20)).all(), f"expected edges of the graph, found {ids[layer_edges]}"


@pytest.mark.states("cost")
@pytest.mark.parametrize("n", [300, 3000])
def test_a_sampled_neighbourhood_does_not_grow_with_the_graph(n):
    """One embedding needs at most (1 + S_2)(1 + S_1) nodes, whatever the size of the graph.

    Source: Hamilton et al. 2017, §3.1: a fixed budget a batch, O(Π S_i); in algorithm 2 a node is of B^{k−1} as well as
    its neighbours, so the wanted node has sampled neighbours in both layers.
    """
    offsets = torch.arange(1, 101)
    edges = torch.stack([(torch.arange(n)[:, None] + offsets).flatten() % n, torch.arange(n).repeat_interleave(100)])
    ids, graphs_of_layers = sample_neighborhood(
        edges, torch.tensor([5]), [4, 3], generator=torch.Generator().manual_seed(0)
    )
    assert len(ids) <= (1 + 3) * (1 + 4), f"expected at most 20 nodes, found {len(ids)}"
    assert [g.shape[1] for g in graphs_of_layers] == [16, 3], f"expected 16 and 3 edges, found {graphs_of_layers}"


@pytest.mark.states("cost")
def test_memory_grows_with_the_edges():
    """A ring of twice as many nodes takes twice the bytes: no (n, n) matrix.

    n = 1,000 against 2,000: such a matrix of the latter alone would be 16 MB.  Measured: ratio 2.00.

    Source: Hamilton et al. 2017, §3.1.
    """

    def ring(n):
        return torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])

    sage = GraphSAGE(3, 6, 4)

    def run(x, edges):
        sage(x, edges).sum().backward()

    small, large = (cost.peak_bytes(run, nodes(3, n), ring(n)) for n in (1000, 2000))
    assert 1.9 < large / small < 2.1 and large < 8e6, f"expected twice the bytes, found {small} and {large}"


# ---------------------------------------------------------------------------------------------- the loss


@given(seed=seeds(), count=sizes(1, 4))
def test_unsupervised_loss_is_equation_one(seed, count):
    """J = −log σ(z_uᵀ z_v) − Σ_q log σ(−z_uᵀ z_q), a sum over the Q negatives, the mean over the pairs.

    Source: Hamilton et al. 2017, eq. 1: Q · E = the sum of Q samples.
    """
    u, v, far = features(3, seed=seed), features(3, seed=seed + 1), features(3 * count, seed=seed + 2).view(3, count, 3)
    total = 0
    for i in range(3):
        total = total - torch.sigmoid(u[i] @ v[i]).log()
        for q in range(count):
            total = total - torch.sigmoid(-(u[i] @ far[i, q])).log()
    laws.assert_close(unsupervised_loss(u, v, far), total / 3)


def test_unsupervised_loss_of_products_of_hundreds_is_finite():
    """A pair whose product is −900 costs 900, a negative of product 900 costs 900: no log of 0.

    Source: Hamilton et al. 2017, eq. 1; −log σ(s) = softplus(−s).
    """
    u = torch.full((2, 1), 30.0)
    laws.assert_close(unsupervised_loss(u, -u, 0 * u[:, None]), torch.tensor(900 + 0.6931472))
    laws.assert_close(unsupervised_loss(u, u, u[:, None]), torch.tensor(900.0))


@pytest.mark.states("gradient routing")
def test_gradient_reaches_both_halves_of_the_matrix():
    """The loss of some nodes reaches W, b, the aggregator's weights and the neighbours; no node that is apart.

    Source: Hamilton et al. 2017, algorithm 1.
    """
    for aggregator in AGGREGATORS:
        conv = layer(aggregator, activation=False)
        near, apart = features(3).requires_grad_(), features(2, seed=1).requires_grad_()
        edges = torch.cat([EDGES % 3, torch.tensor([[3], [4]])], dim=1)
        loss = conv(torch.cat([near, apart]), edges)[:3, 0].sum()
        laws.gradient_reaches(loss, {"near": near, **dict(conv.named_parameters())}, {"apart": apart})


@pytest.mark.states("second derivative")
@EVERY
def test_layer_has_second_derivatives(aggregator):
    """The gradient of the gradient equals central differences, for nodes and weights.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(layer(aggregator, activation=False), features(5), EDGES, second_order=True)


def test_a_hub_of_hundreds_of_neighbours_is_right_in_half_precision():
    """The mean of 600 neighbours of 1.5 is 1.5 also in bfloat16, whose whole numbers end at 256.

    Source: Hamilton et al. 2017, §3.3.
    Convention: sums over neighbours are in float32 or wider, as torch's own reductions are.
    """
    edges = torch.stack([torch.arange(1, 601), torch.zeros(600, dtype=torch.int64)])
    conv = SAGEConv(1, 1, activation=False, normalize=False, bias=False).bfloat16()
    conv.load_state_dict({"weight": torch.tensor([[0.0, 1.0]])})
    found = conv(torch.full((601, 1), 1.5).bfloat16(), edges)[0].double()
    laws.assert_close(found, torch.tensor([1.5]).double(), rtol=0.02, because="bfloat16: 8 bits")


@pytest.mark.parametrize("edge", [(5, 0), (0, 5)])
@EVERY
def test_an_edge_of_a_node_that_does_not_exist_is_refused(aggregator, edge):
    """An id of n or above raises, as sender and as receiver.

    Source: torch's own indexing raises IndexError.
    """
    conv = layer(aggregator)
    conv(features(5), EDGES)  # what exists is accepted
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        conv(features(5), torch.tensor(edge)[:, None])
