"""Golden values of graph convolutions.  Kipf & Welling 2016, arXiv:1609.02907."""

import pytest
import torch

from impl.models.gcn import GCN, GCNConv, normalized_adjacency
from spec import laws
from spec.data import karate_club
from spec.golden import load

pytestmark = pytest.mark.item("gcn")


def test_layer_and_gradients():
    """Output, and gradients to nodes, weights of edges, W and b, with a loop, a repeated edge and an isolated node.

    Source: Kipf & Welling 2016, eq. 2; values of PyTorch Geometric.
    """
    golden = load("gcn")
    conv = GCNConv(3, 4).double()
    conv.load_state_dict({"weight": golden["weight"], "bias": golden["bias"]})
    x, strength = golden["x"].requires_grad_(), golden["strength"].requires_grad_()
    y = conv(x, golden["edges"], strength)
    golden.check("y", y)
    leaves = [x, strength, conv.weight, conv.bias]
    for name, found in zip(
        ("dx", "dstrength", "dweight", "dbias"), torch.autograd.grad((y * golden["cotangent"]).sum(), leaves)
    ):
        golden.check(name, found)


def test_renormalized_adjacency_of_the_karate_club():
    """Â of 34 members and 78 friendships without weights: every entry, and the ends of its spectrum.

    Â_00 = 1/17, the trace is 8.0346, the eigenvalues go from −0.4201 to 1, the second largest is 0.8961.

    Source: Kipf & Welling 2016, §2.2 and appendix A.
    """
    golden = load("gcn")
    edges, _ = karate_club()
    (sender, receiver), strength = normalized_adjacency(edges, torch.ones(edges.shape[1], dtype=torch.float64), 34)
    matrix = torch.zeros(34, 34, dtype=torch.float64).index_put((receiver, sender), strength, accumulate=True)
    golden.check("karate.normal", matrix)
    values = torch.linalg.eigvalsh(matrix)
    for name, found in {
        "smallest": values[0],
        "second": values[-2],
        "largest": values[-1],
        "trace": matrix.trace(),
    }.items():
        golden.check(f"karate.{name}", found)
    laws.assert_close(matrix[0, 0], torch.tensor(1 / 17, dtype=torch.float64))


@pytest.mark.parametrize(("bias", "expected"), [(False, 23_040), (True, 23_063)])
def test_published_sizes_for_citation_graphs(bias, expected):
    """For Cora, 1433 words, 16 hidden units and 7 classes, W⁰ and W¹ have 23,040 numbers, with biases 23,063.

    Source: Kipf & Welling 2016, §5.2 and table 1; counted by hand: 1433·16 + 16·7 (+ 16 + 7).
    """
    with torch.device("meta"):
        gcn = GCN(1433, 16, 7, bias=bias)
    found = sum(p.numel() for p in gcn.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
