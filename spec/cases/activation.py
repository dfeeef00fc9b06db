"""Cases of the activation functions."""

import torch

from impl.layers.activation import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, SiLU, Swish
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double

NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}


def _images():
    """(2, 3, 5, 4), on both sides of every kink and never on one."""
    return (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 3,)


def _features():
    """(3, 4)."""
    return (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)) * 3,)


def _plain(item, name, build, **more):
    return Case(item=item, name=name, build=build, inputs=_images, exempt=NO_PARAMETERS, **more)


CASES = [
    _plain(
        "leaky-relu",
        "LeakyReLU",
        lambda: LeakyReLU(0.2),
        bad={
            "a slope of NaN": Bad(call=lambda: LeakyReLU(float("nan")), mentions=("negative_slope", "nan")),
        },
    ),
    _plain("leaky-relu", "LeakyReLU, slope above 1", lambda: LeakyReLU(1.5)),
    _plain("leaky-relu", "LeakyReLU, negative slope", lambda: LeakyReLU(-0.5)),
    Case(
        item="prelu",
        name="PReLU, images",
        build=lambda: PReLU(3, init=0.4),
        inputs=_images,
        bad={
            "other channels": Bad(call=lambda: PReLU(3)(torch.ones(2, 4, 3)), mentions=("3", "(2, 4, 3)")),
            "three channels for two": Bad(call=lambda: PReLU(2)(torch.ones(2, 3)), mentions=("2", "(2, 3)")),
            "no channels": Bad(call=lambda: PReLU(3)(torch.ones(3)), mentions=("3", "(3,)")),
        },
    ),
    Case(item="prelu", name="PReLU, features", build=lambda: PReLU(4), inputs=_features),
    Case(item="prelu", name="PReLU, one for all", build=lambda: PReLU(init=-0.3), inputs=_images),
    _plain(
        "elu",
        "ELU",
        lambda: ELU(1.7),
    ),
    _plain("elu", "ELU, alpha below 1", lambda: ELU(0.6)),
    _plain(
        "gelu",
        "GELU",
        GELU,
    ),
    _plain("gelu", "GELU, tanh", lambda: GELU("tanh")),
    _plain("silu", "SiLU", SiLU),
    _plain(
        "silu",
        "Swish",
        lambda: Swish(1.5),
    ),
    Case(item="silu", name="Swish, trainable", build=lambda: Swish(0.75, trainable=True), inputs=_images),
    _plain("mish", "Mish", Mish),
    _plain("hard-sigmoid", "Hardsigmoid", Hardsigmoid),
    _plain("hard-swish", "Hardswish", Hardswish),
]


def _promise(item, of, name, *calls, library=True, state=None, **ranges):
    return Contract(
        item=item,
        name=name,
        of=of,
        calls=calls or ({},),
        ranges=ranges,
        state=state or {},
        library=f"torch.nn.{name}" if library else "",
        inputs=lambda arguments: (3 * double(2, 4, 3),),
    )


CONTRACTS = [
    _promise("leaky-relu", LeakyReLU, "LeakyReLU", {"negative_slope": 0.3}, negative_slope="(-inf, inf)"),
    _promise(
        "prelu",
        PReLU,
        "PReLU",
        {"num_parameters": 4, "init": 0.3},
        {"num_parameters": 1},
        state={"weight": "(num_parameters,)"},
        num_parameters="int >= 1",
        init="(-inf, inf)",
    ),
    _promise("elu", ELU, "ELU", {"alpha": 1.3}, alpha="[0, inf)"),
    _promise("gelu", GELU, "GELU", {"approximate": "none"}, {"approximate": "tanh"}, approximate="'none', 'tanh'"),
    _promise("silu", SiLU, "SiLU"),
    _promise(
        "silu",
        Swish,
        "Swish",
        {"beta": 1.3, "trainable": True},
        library=False,
        state={"beta": "()"},
        beta="(-inf, inf)",
    ),
    _promise("mish", Mish, "Mish"),
    _promise("hard-sigmoid", Hardsigmoid, "Hardsigmoid", library=False),  # torch's backward pass has 1/6 in float32
    _promise("hard-swish", Hardswish, "Hardswish"),
]
