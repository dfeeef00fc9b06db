"""Cases of the transposed convolution."""

import torch

from impl.layers.transposed_convolution import ConvTranspose2d
from spec.cases import Bad, Case


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
            "no input channels": _bad(lambda: ConvTranspose2d(0, 2, 3), "in_channels", "0"),
            "groups that do not divide": _bad(lambda: ConvTranspose2d(4, 3, 3, groups=2), "2", "4", "3"),
            "an empty kernel": _bad(lambda: ConvTranspose2d(2, 3, (0, 3)), "kernel_size", "(0, 3)"),
            "no stride": _bad(lambda: ConvTranspose2d(2, 3, 3, stride=0), "stride", "0"),
            "no dilation": _bad(lambda: ConvTranspose2d(2, 3, 3, dilation=0), "dilation", "0"),
            "negative padding": _bad(lambda: ConvTranspose2d(2, 3, 3, padding=-1), "padding", "-1"),
            "negative output padding": _bad(lambda: ConvTranspose2d(2, 3, 3, output_padding=-1), "-1"),
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
