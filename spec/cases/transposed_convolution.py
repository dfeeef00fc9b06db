"""Cases of the transposed convolution."""

import torch

from impl.layers.transposed_convolution import ConvTranspose2d
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double


def _inputs():
    return (torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)),)


def _bad(call, *mentions):
    return Bad(call=call, mentions=mentions)


CASES = [
    Case(
        item="dilated-conv",
        name="ConvTranspose2d",
        build=lambda: ConvTranspose2d(
            4, 6, (3, 2), stride=(2, 3), padding=(2, 1), output_padding=(0, 2), groups=2, dilation=(1, 4)
        ),
        inputs=_inputs,
        bad={
            "groups that do not divide": _bad(lambda: ConvTranspose2d(4, 3, 3, groups=2), "2", "4", "3"),
            "output padding of a stride": _bad(
                lambda: ConvTranspose2d(2, 3, 3, stride=(3, 2), output_padding=2), "output_padding", "(2, 2)"
            ),
            "3 dimensions": _bad(lambda: ConvTranspose2d(2, 3, 3)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
            "another number of channels": _bad(
                lambda: ConvTranspose2d(2, 3, 3)(torch.randn(2, 4, 5, 5)), "2", "(2, 4, 5, 5)"
            ),
            "nothing left": _bad(lambda: ConvTranspose2d(2, 3, 3, padding=2)(torch.randn(2, 2, 2, 5)), "(2, 2, 2, 5)"),
        },
    ),
    Case(
        item="dilated-conv",
        name="ConvTranspose2d, no bias",
        build=lambda: ConvTranspose2d(4, 3, (2, 3), stride=(2, 1), bias=False),
        inputs=_inputs,
    ),
]


_WHAT = {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2)}
_HOW = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "groups": 2, "dilation": (1, 2)}

CONTRACTS = [
    Contract(
        item="dilated-conv",
        name="ConvTranspose2d",
        of=ConvTranspose2d,
        calls=(_WHAT, _WHAT | _HOW, _WHAT | _HOW | {"bias": False}),
        ranges=dict.fromkeys(("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"), "int >= 1")
        | dict.fromkeys(("padding", "output_padding"), "int >= 0"),
        state={"weight": "(in_channels, out_channels // groups, *kernel_size)", "bias": "(out_channels,)"},
        library="torch.nn.ConvTranspose2d",
        inputs=lambda arguments: (double(2, 4, 3, 5),),
    ),
]
