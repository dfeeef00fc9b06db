"""Cases of the gated linear units."""

import torch

from impl.layers.gated import GEGLU, GLU, SwiGLU
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double

NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}


def _normal(*shape):
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


def _bad_inputs(layer):
    return {
        "input of another width": Bad(call=lambda: layer(6)(torch.ones(2, 7)), mentions=("6", "7")),
    }


CASES = [
    Case(
        item="glu",
        name="GLU",
        build=GLU,
        inputs=_normal(2, 3, 8),
        bad={
            "an odd size": Bad(call=lambda: GLU()(torch.ones(2, 7)), mentions=("even", "7")),
            "no such dimension": Bad(call=lambda: GLU(2)(torch.ones(3, 4)), mentions=("2", "(3, 4)")),
            "no dimension far above": Bad(call=lambda: GLU(5)(torch.ones(3, 4)), mentions=("5", "(3, 4)")),
            "no such negative dimension": Bad(call=lambda: GLU(-3)(torch.ones(3, 4)), mentions=("-3", "(3, 4)")),
            "a scalar": Bad(call=lambda: GLU()(torch.tensor(1.0)), mentions=("-1", "()")),
        },
        exempt=NO_PARAMETERS,
    ),
    Case(item="glu", name="GLU, channels", build=lambda: GLU(1), inputs=_normal(2, 6, 5, 3), exempt=NO_PARAMETERS),
    Case(item="glu", name="GLU, dim=-2", build=lambda: GLU(-2), inputs=_normal(3, 4, 5), exempt=NO_PARAMETERS),
    Case(item="swiglu", name="SwiGLU", build=lambda: SwiGLU(6), inputs=_normal(2, 3, 6), bad=_bad_inputs(SwiGLU)),
    Case(item="swiglu", name="SwiGLU, bias", build=lambda: SwiGLU(5, 7, 4, bias=True), inputs=_normal(3, 5)),
    Case(
        item="swiglu",
        name="SwiGLU, multiple of 10",
        build=lambda: SwiGLU(7, out_features=3, multiple_of=10),
        inputs=_normal(2, 4, 5, 7),
    ),
    Case(
        item="geglu",
        name="GEGLU",
        build=lambda: GEGLU(6),
        inputs=_normal(2, 3, 6),
        bad=_bad_inputs(GEGLU),
    ),
    Case(item="geglu", name="GEGLU, bias", build=lambda: GEGLU(5, 7, 4, bias=True), inputs=_normal(3, 5)),
    Case(
        item="geglu",
        name="GEGLU, tanh",
        build=lambda: GEGLU(7, out_features=3, multiple_of=10, approximate="tanh"),
        inputs=_normal(2, 4, 5, 7),
    ),
]


def _projected(item, of, name, **ranges):
    """Two projections into the hidden width and one out of it; the weights lie as in torch.nn.Linear."""
    into, out = "(hidden_features, in_features)", "(out_features, hidden_features)"
    return Contract(
        item=item,
        name=name,
        of=of,
        calls=({"in_features": 3, "hidden_features": 5, "out_features": 4, "bias": True},),
        ranges={
            "in_features": "int >= 1",
            "hidden_features": "int >= 1 or None",
            "out_features": "int >= 1 or None",
            "multiple_of": "int >= 1",
        }
        | ranges,
        state={
            "gate_proj.weight": into,
            "gate_proj.bias": "(hidden_features,)",
            "up_proj.weight": into,
            "up_proj.bias": "(hidden_features,)",
            "down_proj.weight": out,
            "down_proj.bias": "(out_features,)",
        },
    )


CONTRACTS = [
    Contract(
        item="glu",
        name="GLU",
        of=GLU,
        calls=({"dim": -1}, {"dim": 1}, {"dim": 0}, {"dim": -3}),
        library="torch.nn.GLU",
        inputs=lambda arguments: (double(2, 6, 4),),
    ),
    _projected("swiglu", SwiGLU, "SwiGLU"),
    _projected("geglu", GEGLU, "GEGLU", approximate="'none', 'tanh'"),
]
