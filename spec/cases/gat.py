"""Cases of graph attention."""

from impl.models.gat import GAT, GATConv, GATv2Conv
from spec.cases import Bad, Case
from spec.cases.gcn import COUPLED, EDGES, nodes
from spec.contract import Contract
from spec.laws import reseed


def _conv(of, **options):
    reseed(128)  # no score is near 0, where LeakyReLU has a kink and half precision may stand on its other side
    return of(3, 4, heads=2, negative_slope=0.3, **options)


def _gat():
    reseed(0)
    return GAT(3, 5, 4, heads=2, out_heads=3, dropout=0.2)


_BAD = {
    "nodes of another width": Bad(call=lambda: GATConv(3, 4)(nodes(2), EDGES), mentions=("3", "(5, 2)")),
    "edges in rows": Bad(call=lambda: GATConv(3, 4)(nodes(3), EDGES.T), mentions=("(8, 2)",)),
    "edges of floating point": Bad(call=lambda: GATConv(3, 4)(nodes(3), EDGES.float())),
}

CASES = [
    Case(
        item="gat",
        name="GATConv",
        build=lambda: _conv(GATConv),
        inputs=lambda: (nodes(3), EDGES),
        bad=_BAD,
        exempt=COUPLED,
    ),
    Case(
        item="gat",
        name="GATConv, heads averaged, dropout, no bias",
        build=lambda: _conv(GATConv, concat=False, dropout=0.3, bias=False),
        inputs=lambda: (nodes(3), EDGES),
        exempt=COUPLED,
    ),
    Case(
        item="gat",
        name="GATv2Conv",
        build=lambda: _conv(GATv2Conv),
        inputs=lambda: (nodes(3), EDGES),
        exempt=COUPLED,
    ),
    Case(item="gat", name="GAT", build=_gat, inputs=lambda: (nodes(3), EDGES), exempt=COUPLED),
]

_RANGES = {
    "in_features": "int >= 1",
    "out_features": "int >= 1",
    "heads": "int >= 1",
    "negative_slope": "(-inf, inf)",
    "dropout": "[0, 1)",
}
_BIAS = {"bias": "(heads * out_features if concat else out_features,)"}
_CALLS = (
    {"in_features": 3, "out_features": 4},
    {"in_features": 2, "out_features": 5, "heads": 3, "concat": False},
)
_MATRIX, _VECTOR = "(heads * out_features, in_features)", "(heads, out_features)"

CONTRACTS = [
    Contract(
        item="gat",
        name="GATConv",
        of=GATConv,
        calls=_CALLS,
        ranges=_RANGES,
        state={"weight": _MATRIX, "attention_sender": _VECTOR, "attention_receiver": _VECTOR} | _BIAS,
    ),
    Contract(
        item="gat",
        name="GATv2Conv",
        of=GATv2Conv,
        calls=_CALLS,
        ranges=_RANGES,
        state={"weight_sender": _MATRIX, "weight_receiver": _MATRIX, "attention_vector": _VECTOR} | _BIAS,
    ),
    Contract(
        item="gat",
        name="GAT",
        of=GAT,
        calls=({"in_features": 3, "hidden_features": 5, "out_features": 4},),
        ranges={
            "in_features": "int >= 1",
            "hidden_features": "int >= 1",
            "out_features": "int >= 1",
            "heads": "int >= 1",
            "out_heads": "int >= 1",
            "dropout": "[0, 1)",
        },
        attributes={"layers": "the two `GATConv`, in order; each may be called by itself"},
    ),
]
