"""Cases of Glow."""

from impl.models.glow import ActNorm2d, AffineCoupling2d, Glow, InvertibleConv1x1
from spec.cases import Bad, Case
from spec.cases.realnvp import Inverse, stir
from spec.contract import Contract
from spec.laws import random, reseed


def actnorm():
    reseed(0)
    return stir(ActNorm2d(3))


def conv(lu_decomposed=True, channels=4):
    reseed(0)
    return stir(InvertibleConv1x1(channels, lu_decomposed), size=0.1)


def coupling(channels=4, hidden=3):
    reseed(0)
    return stir(AffineCoupling2d(channels, hidden))


def glow(**options):
    reseed(0)
    settings = {"in_shape": (1, 4, 8), "levels": 2, "steps": 1, "hidden_channels": 5}
    return stir(Glow(**settings | options), size=0.1)


def _sample(n, temperature=1.0):
    return glow().sample(n, temperature)


_BAD = {
    "an odd height": Bad(call=lambda: Glow((1, 3, 4), levels=1), mentions=("3",)),
    "a width not divisible by 4": Bad(call=lambda: Glow((1, 4, 6), levels=2), mentions=("6",)),
    "two dimensions": Bad(call=lambda: Glow((4, 4)), mentions=("(4, 4)",)),
    "no channels": Bad(call=lambda: Glow((0, 4, 4)), mentions=("0",)),
    "images of another shape": Bad(call=lambda: glow()(random(2, 1, 8, 4)), mentions=("(2, 1, 8, 4)",)),
    "z of another width": Bad(call=lambda: glow().inverse(random(2, 31)), mentions=("(2, 31)",)),
    "an odd number of channels": Bad(call=lambda: AffineCoupling2d(3, 2), mentions=("3",)),
    "other channels": Bad(call=lambda: conv()(random(2, 3, 4, 4)), mentions=("4", "(2, 3, 4, 4)")),
    "other channels, actnorm": Bad(call=lambda: actnorm()(random(2, 4, 4, 4)), mentions=("3", "(2, 4, 4, 4)")),
    "other channels, coupling": Bad(call=lambda: coupling()(random(2, 6, 4, 4)), mentions=("4", "(2, 6, 4, 4)")),
}
_OWN = {"from_scratch": "the class that is called is defined here; the record of the flow itself is checked"}
_SOLVE = {
    "keeps_dtype": "torch solves no triangular system in half precision",
    "works_under_autocast": "torch solves no triangular system in half precision",
}
_LARGE = {"gradient_correct": "its layers have records of their own"}

CASES = [
    Case(item="glow", name="ActNorm2d", build=actnorm, inputs=lambda: (random(2, 3, 4, 5),)),
    Case(item="glow", name="InvertibleConv1x1", build=conv, inputs=lambda: (random(2, 4, 3, 5),)),
    Case(item="glow", name="InvertibleConv1x1, dense", build=lambda: conv(False), inputs=lambda: (random(2, 4, 3, 5),)),
    Case(
        item="glow",
        name="AffineCoupling2d",
        build=lambda: coupling(channels=2, hidden=2),
        inputs=lambda: (random(2, 2, 3, 2),),
    ),
    Case(item="glow", name="Glow", build=glow, inputs=lambda: (random(3, 1, 4, 8),), bad=_BAD, exempt=_LARGE),
    Case(
        item="glow",
        name="Glow, reversed channels",
        build=lambda: glow(permutation="reverse", in_shape=(1, 2, 4), levels=1, steps=2),
        inputs=lambda: (random(3, 1, 2, 4),),
        exempt=_LARGE,
    ),
    Case(
        item="glow",
        name="ActNorm2d.inverse",
        build=lambda: Inverse(actnorm()),
        inputs=lambda: (random(2, 3, 4, 5),),
        exempt=_OWN,
    ),
    Case(
        item="glow",
        name="InvertibleConv1x1.inverse",
        build=lambda: Inverse(conv()),
        inputs=lambda: (random(2, 4, 3, 5),),
        exempt=_OWN | _SOLVE,
    ),
    Case(
        item="glow",
        name="AffineCoupling2d.inverse",
        build=lambda: Inverse(coupling(channels=2, hidden=2)),
        inputs=lambda: (random(2, 2, 3, 2),),
        exempt=_OWN,
    ),
]

CONTRACTS = [
    Contract(
        item="glow",
        name="ActNorm2d",
        of=ActNorm2d,
        calls=({"num_channels": 3},),
        ranges={"num_channels": "int >= 1"},
        state={"scale": "(num_channels,)", "bias": "(num_channels,)"},
        attributes={"initialize": "sets scale and bias by a batch", "inverse": "y → x and log|det ∂x/∂y|"},
    ),
    Contract(
        item="glow",
        name="InvertibleConv1x1",
        of=InvertibleConv1x1,
        calls=({"num_channels": 4},),
        ranges={"num_channels": "int >= 1"},
        state={
            "permutation": "(num_channels, num_channels)",
            "sign": "(num_channels,)",
            "lower": "(num_channels, num_channels)",
            "upper": "(num_channels, num_channels)",
            "log_scale": "(num_channels,)",
        },
        attributes={"matrix": "() → W", "inverse": "y → x and log|det ∂x/∂y|"},
    ),
    Contract(
        item="glow",
        name="InvertibleConv1x1, dense",
        of=InvertibleConv1x1,
        calls=({"num_channels": 4, "lu_decomposed": False},),
        state={"weight": "(num_channels, num_channels)"},
    ),
    Contract(
        item="glow",
        name="AffineCoupling2d",
        of=AffineCoupling2d,
        calls=({"num_channels": 4, "hidden_channels": 3},),
        ranges={"num_channels": "even >= 2", "hidden_channels": "int >= 1"},
        state={
            "first.weight": "(hidden_channels, num_channels // 2, 3, 3)",
            "first.bias": "(hidden_channels,)",
            "second.weight": "(hidden_channels, hidden_channels, 1, 1)",
            "second.bias": "(hidden_channels,)",
            "last.weight": "(num_channels, hidden_channels, 3, 3)",
            "last.bias": "(num_channels,)",
        },
        attributes={"inverse": "y → x and log|det ∂x/∂y|"},
    ),
    Contract(
        item="glow",
        name="Glow",
        of=Glow,
        calls=({"in_shape": (1, 4, 8), "levels": 2, "steps": 1, "hidden_channels": 2},),
        ranges={
            "levels": "int >= 1",
            "steps": "int >= 1",
            "hidden_channels": "int >= 1",
            "permutation": "'conv', 'shuffle', 'reverse'",
        },
        attributes={
            "initialize": "sets every actnorm by a batch",
            "inverse": "z → x and log|det ∂x/∂z|",
            "log_prob": "x → log p(x) in nats, one value a sample",
            "sample": "(n, temperature=1.0, generator=None) → n images",
        },
    ),
    Contract(
        item="glow",
        name="Glow.sample",
        of=_sample,
        calls=({"n": 2},),
        ranges={"n": "int >= 1", "temperature": "[0, inf)"},
    ),
]
