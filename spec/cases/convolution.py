"""Cases of convolutions: every argument differs between height and width, and every size from every other."""

import torch

from impl.layers.convolution import ContextModule, Conv1d, Conv2d, DepthwiseSeparableConv2d
from spec.cases import Bad, Case


def _inputs(*shape):
    return lambda: (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


def _bad(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _case(item, layer, name, shape, *arguments, bad=None, **named):
    def build():
        return layer(shape[1], *arguments, **named)

    return Case(item=item, name=name, build=build, inputs=_inputs(*shape), bad=bad or {})


def positive_context():
    """Positive weights: as the identity the module is at the kinks of its ReLUs, which have no derivative."""
    module = ContextModule(1)
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.data.uniform_(0.1, 0.6, generator=generator)
    return module


CONV2D_BAD = {
    "no input channels": _bad(lambda: Conv2d(0, 2, 3), "in_channels", "0"),
    "no output channels": _bad(lambda: Conv2d(2, 0, 3), "out_channels", "0"),
    "no groups": _bad(lambda: Conv2d(2, 2, 3, groups=0), "groups", "0"),
    "groups that do not divide the inputs": _bad(lambda: Conv2d(3, 4, 3, groups=2), "2", "3", "4"),
    "groups that do not divide the outputs": _bad(lambda: Conv2d(4, 3, 3, groups=2), "2", "3", "4"),
    "an empty kernel": _bad(lambda: Conv2d(2, 3, 0), "kernel_size", "0"),
    "half an empty kernel": _bad(lambda: Conv2d(2, 3, (3, 0)), "kernel_size", "(3, 0)"),
    "a fractional kernel": _bad(lambda: Conv2d(2, 3, (3, 2.5)), "kernel_size", "2.5"),
    "three kernel sizes": _bad(lambda: Conv2d(2, 3, (3, 3, 3)), "kernel_size", "(3, 3, 3)"),
    "no stride": _bad(lambda: Conv2d(2, 3, 3, stride=0), "stride", "0"),
    "no dilation": _bad(lambda: Conv2d(2, 3, 3, dilation=0), "dilation", "0"),
    "negative padding": _bad(lambda: Conv2d(2, 3, 3, padding=-1), "padding", "-1"),
    "a negative margin": _bad(lambda: Conv2d(2, 3, 3, padding=((1, -2), (0, 1))), "padding", "-2"),
    "three sides": _bad(lambda: Conv2d(2, 3, 3, padding=((1, 2, 3), (0, 1))), "padding", "(1, 2, 3)"),
    "margins of one dimension": _bad(lambda: Conv2d(2, 3, 3, padding=((1, 2),)), "padding", "2 dimensions"),
    "another word for padding": _bad(lambda: Conv2d(2, 3, 3, padding="full"), "padding", "full"),
    "same size at stride 2": _bad(lambda: Conv2d(2, 3, 3, stride=(1, 2), padding="same"), "stride", "(1, 2)"),
    "another padding mode": _bad(lambda: Conv2d(2, 3, 3, padding_mode="mirror"), "padding_mode", "mirror"),
    "3 dimensions": _bad(lambda: Conv2d(2, 3, 3)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
    "5 dimensions": _bad(lambda: Conv2d(2, 3, 3)(torch.randn(2, 2, 5, 5, 5)), "4", "(2, 2, 5, 5, 5)"),
    "another number of channels": _bad(lambda: Conv2d(2, 3, 3)(torch.randn(2, 4, 5, 5)), "2", "(2, 4, 5, 5)"),
    "no pixels": _bad(lambda: Conv2d(2, 3, 3, padding=2)(torch.randn(2, 2, 0, 5)), "(2, 2, 0, 5)"),
    "lower than the kernel": _bad(lambda: Conv2d(2, 3, (4, 3))(torch.randn(2, 2, 3, 5)), "[4, 3]", "(3, 5)"),
    "narrower than the dilated kernel": _bad(
        lambda: Conv2d(2, 3, (3, 2), padding=1, dilation=(1, 5))(torch.randn(2, 2, 4, 3)), "[3, 6]", "(6, 5)"
    ),
    "a mirror image that is too short": _bad(
        lambda: Conv2d(2, 3, 3, padding=4, padding_mode="reflect")(torch.randn(2, 2, 5, 4)), "3", "(4, 4)"
    ),
    "a period that is too short": _bad(
        lambda: Conv2d(2, 3, 3, padding=5, padding_mode="circular")(torch.randn(2, 2, 5, 4)), "4", "(5, 5)"
    ),
}

CASES = [
    _case(
        "dilated-conv",
        Conv2d,
        "Conv2d",
        (2, 4, 5, 6),
        6,
        (3, 2),
        bad=CONV2D_BAD,
        stride=(1, 2),
        padding=(1, 2),
        dilation=(2, 3),
        groups=2,
    ),
    _case("dilated-conv", Conv2d, "Conv2d, same, no bias", (3, 2, 4, 5), 1, (1, 3), padding="same", bias=False),
    _case("dilated-conv", Conv2d, "Conv2d, mirrored", (2, 3, 4, 5), 2, 3, padding=(2, 1), padding_mode="reflect"),
    _case(
        "dilated-conv",
        Conv1d,
        "Conv1d",
        (2, 3, 8),
        4,
        3,
        stride=2,
        padding=1,
        dilation=2,
        bad={
            "two kernel sizes": _bad(lambda: Conv1d(2, 3, (3, 3)), "kernel_size", "(3, 3)"),
            "4 dimensions": _bad(lambda: Conv1d(2, 3, 3)(torch.randn(2, 2, 5, 5)), "3", "(2, 2, 5, 5)"),
            "another number of channels": _bad(lambda: Conv1d(2, 3, 3)(torch.randn(2, 4, 5)), "2", "(2, 4, 5)"),
            "shorter than the kernel": _bad(lambda: Conv1d(2, 3, 3, dilation=3)(torch.randn(2, 2, 6)), "[7]", "(6,)"),
        },
    ),
    Case(
        item="dilated-conv",
        name="ContextModule",
        build=positive_context,
        inputs=lambda: (_inputs(2, 1, 4, 3)()[0].abs(),),
        bad={
            "no channels": _bad(lambda: ContextModule(0), "channels", "0"),
            "another number of channels": _bad(lambda: ContextModule(2)(torch.randn(2, 3, 4, 4)), "2", "(2, 3, 4, 4)"),
        },
        exempt={"every_parameter_receives_gradient": "weights of size 1 close its ReLUs; it has a spec of its own"},
    ),
    _case(
        "depthwise-separable-conv",
        DepthwiseSeparableConv2d,
        "DepthwiseSeparableConv2d",
        (2, 3, 5, 4),
        5,
        (3, 2),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 3),
        depth_multiplier=2,
        bias=True,
        bad={
            "no input channels": _bad(lambda: DepthwiseSeparableConv2d(0, 2, 3), "in_channels", "0"),
            "no output channels": _bad(lambda: DepthwiseSeparableConv2d(2, 0, 3), "out_channels", "0"),
            "no kernel for a channel": _bad(
                lambda: DepthwiseSeparableConv2d(2, 3, 3, depth_multiplier=0), "depth_multiplier", "0"
            ),
            "an empty kernel": _bad(lambda: DepthwiseSeparableConv2d(2, 3, 0), "kernel_size", "0"),
            "no stride": _bad(lambda: DepthwiseSeparableConv2d(2, 3, 3, stride=0), "stride", "0"),
            "negative padding": _bad(lambda: DepthwiseSeparableConv2d(2, 3, 3, padding=-2), "padding", "-2"),
            "no dilation": _bad(lambda: DepthwiseSeparableConv2d(2, 3, 3, dilation=0), "dilation", "0"),
            "another number of channels": _bad(
                lambda: DepthwiseSeparableConv2d(2, 3, 3)(torch.randn(2, 4, 5, 5)), "2", "(2, 4, 5, 5)"
            ),
            "3 dimensions": _bad(lambda: DepthwiseSeparableConv2d(2, 3, 3)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
            "smaller than the kernel": _bad(
                lambda: DepthwiseSeparableConv2d(2, 3, 3)(torch.randn(2, 2, 2, 5)), "[3, 3]", "(2, 5)"
            ),
        },
    ),
    _case("depthwise-separable-conv", DepthwiseSeparableConv2d, "DepthwiseSeparableConv2d, plain", (3, 4, 5, 6), 2, 3),
]
