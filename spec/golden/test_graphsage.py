"""Golden values of GraphSAGE.  Hamilton, Ying & Leskovec 2017, arXiv:1706.02216."""

import pytest
import torch

from impl.models.graphsage import GraphSAGE, SAGEConv
from spec.golden import load

pytestmark = pytest.mark.item("graphsage")


def plain(golden, aggregator):
    """A layer without σ and without the division, as the library's."""
    conv = SAGEConv(3, 4, aggregator, activation=False, normalize=False).double().eval()
    weight = golden["weight"][:, :3] if aggregator == "gcn" else golden["weight"]
    state = {"weight": weight, "bias": golden["bias"]}
    if aggregator == "pool":
        state |= {"pool.weight": golden["pool.weight"], "pool.bias": golden["pool.bias"]}
    conv.load_state_dict(state)
    return conv


def test_mean_layer_and_gradient():
    """Outputs of length 1 and their gradient, on a graph with a loop, a repeated edge and an isolated node.

    Source: Hamilton et al. 2017, algorithm 1; values of PyTorch Geometric.
    """
    golden = load("graphsage")
    conv = SAGEConv(3, 4, activation=False).double()
    conv.load_state_dict({"weight": golden["weight"], "bias": golden["bias"]})
    x = golden["x"].requires_grad_()
    y = conv(x, golden["edges"])
    golden.check("mean.y", y)
    (dx,) = torch.autograd.grad((y * golden["cotangent"]).sum(), x)
    golden.check("mean.dx", dx)


@pytest.mark.parametrize("aggregator", ["pool", "gcn"])
def test_other_aggregators(aggregator):
    """Pooling and the mean with the node itself, before σ.

    Source: Hamilton et al. 2017, eq. 2 and 3; values of PyTorch Geometric's maximum and mean.
    """
    golden = load("graphsage")
    golden.check(f"{aggregator}.y", plain(golden, aggregator)(golden["x"], golden["edges"]))


@pytest.mark.project_convention
def test_lstm_aggregator():
    """The LSTM's last output over a node's neighbours in the order of the edges.

    Source: Hamilton et al. 2017, §3.3; values of torch.nn.LSTMCell.
    Convention: one matrix over [x ‖ h], gates in torch's order i, f, g, o.
    """
    golden = load("graphsage")
    conv = SAGEConv(3, 4, "lstm", activation=False, normalize=False).double().eval()
    state = {"weight": golden["weight"], "bias": golden["bias"]}
    state |= {"lstm.gates.weight": golden["lstm.weight"], "lstm.gates.bias": golden["lstm.bias"]}
    conv.load_state_dict(state)
    golden.check("lstm.y", conv(golden["x"], golden["edges"]))


def test_size_for_a_citation_graph():
    """For Cora, 1433 words, 16 hidden and 7 final units, the model has 46,103 numbers.

    2·1433·16 + 16 + 2·16·7 + 7: one matrix for a node and its neighbours side by side.

    Source: Hamilton et al. 2017, algorithm 1; PyTorch Geometric's GraphSAGE has as many.
    """
    with torch.device("meta"):
        sage = GraphSAGE(1433, 16, 7)
    found = sum(p.numel() for p in sage.parameters())
    assert found == 46_103, f"expected 46,103 parameters, found {found}"
