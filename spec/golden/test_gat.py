"""Golden values of graph attention.  Veličković et al. 2017, arXiv:1710.10903; Brody et al. 2021, arXiv:2105.14491."""

import pytest
import torch

from impl.models.gat import GAT, GATConv, GATv2Conv
from spec.golden import load

pytestmark = pytest.mark.item("gat")


@pytest.mark.parametrize(
    ("name", "of", "concat"), [("gat", GATConv, True), ("mean", GATConv, False), ("gatv2", GATv2Conv, True)]
)
def test_layer_and_gradient(name, of, concat):
    """Output and gradient on a graph with a loop, a repeated edge and an isolated node, two heads, slope 0.3.

    Source: Veličković et al. 2017, eq. 3-6; Brody et al. 2021, eq. 7; values of PyTorch Geometric.
    """
    golden = load("gat")
    conv = of(3, 4, heads=2, concat=concat, negative_slope=0.3).double()
    conv.load_state_dict({key: golden[f"{name}.{key}"] for key in conv.state_dict()})
    x = golden[f"{name}.x"].requires_grad_()
    y = conv(x, golden["edges"])
    golden.check(f"{name}.y", y)
    (dx,) = torch.autograd.grad((y * golden[f"{name}.cotangent"]).sum(), x)
    golden.check(f"{name}.dx", dx)


@pytest.mark.parametrize(
    ("features", "classes", "out_heads", "expected"), [(1433, 7, 1, 92_373), (3703, 6, 1, 237_586), (500, 3, 8, 33_779)]
)
def test_published_sizes_for_citation_graphs(features, classes, out_heads, expected):
    """Of Cora, Citeseer and Pubmed the models have 92,373, 237,586 and 33,779 numbers.

    64·d + 2·64 + 64 in the first layer of 8 heads of 8; k·C·64 + 2·k·C + C in the second of k heads of C.

    Source: Veličković et al. 2017, §3.3 (8 output heads for Pubmed); counted by hand.
    """
    with torch.device("meta"):
        gat = GAT(features, 8, classes, heads=8, out_heads=out_heads)
    found = sum(p.numel() for p in gat.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
