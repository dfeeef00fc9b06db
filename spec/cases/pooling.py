"""Cases of pooling."""

import torch

from impl.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double


def _bad(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _bad_windows(layer):
    return {
        "three sizes": _bad(lambda: layer((2, 2, 2)), "kernel_size", "(2, 2, 2)"),
        "padding above half the window": _bad(lambda: layer((4, 3), padding=2), "padding", "(2, 2)"),
        "3 dimensions": _bad(lambda: layer(2)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
        "smaller than the window": _bad(lambda: layer((2, 3))(torch.randn(2, 3, 4, 2)), "[2, 3]", "(4, 2)"),
        "no pixels": _bad(lambda: layer(2, padding=1)(torch.randn(2, 3, 0, 2)), "(2, 3, 0, 2)"),
    }


def _case(layer, name, *arguments, bad=None, **named):
    return Case(
        item="dilated-conv",
        name=name,
        build=lambda: layer(*arguments, **named),
        inputs=lambda: (torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)),),
        bad=bad or {},
        exempt={"every_parameter_receives_gradient": "it has no parameters"},
    )


CASES = [
    _case(
        MaxPool2d,
        "MaxPool2d",
        (3, 2),
        stride=(1, 2),
        padding=(0, 1),
        dilation=(2, 1),
        bad=_bad_windows(MaxPool2d),
    ),
    _case(AvgPool2d, "AvgPool2d", (3, 2), stride=(1, 2), padding=(1, 0), bad=_bad_windows(AvgPool2d)),
    _case(AvgPool2d, "AvgPool2d, margins do not count", (3, 4), padding=(1, 2), count_include_pad=False),
    _case(
        AdaptiveAvgPool2d,
        "AdaptiveAvgPool2d",
        (4, 3),
        bad={
            "3 dimensions": _bad(lambda: AdaptiveAvgPool2d(2)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
            "no pixels": _bad(lambda: AdaptiveAvgPool2d(2)(torch.randn(2, 3, 5, 0)), "(2, 3, 5, 0)"),
        },
    ),
]


COUNT = "int >= 1"


def _promise(of, name, *calls, **ranges):
    return Contract(
        item="dilated-conv",
        name=name,
        of=of,
        calls=calls,
        ranges=ranges,
        library=f"torch.nn.{name}",
        inputs=lambda arguments: (double(2, 3, 7, 5),),
    )


_WINDOW = {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)}
_RANGES = {"kernel_size": COUNT, "stride": f"{COUNT} or None", "padding": "int >= 0"}

CONTRACTS = [
    _promise(MaxPool2d, "MaxPool2d", {"kernel_size": 3}, _WINDOW | {"dilation": (2, 1)}, dilation=COUNT, **_RANGES),
    _promise(AvgPool2d, "AvgPool2d", {"kernel_size": 3}, _WINDOW | {"count_include_pad": False}, _WINDOW, **_RANGES),
    _promise(AdaptiveAvgPool2d, "AdaptiveAvgPool2d", {"output_size": (4, 3)}, {"output_size": 7}, output_size=COUNT),
]
