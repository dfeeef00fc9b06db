"""Cases of convolutions: every argument differs between height and width, and every size from every other."""

import torch

from impl.layers.convolution import ContextModule, Conv1d, Conv2d, DepthwiseSeparableConv2d
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double


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
    "groups that do not divide the inputs": _bad(lambda: Conv2d(3, 4, 3, groups=2), "2", "3", "4"),
    "groups that do not divide the outputs": _bad(lambda: Conv2d(4, 3, 3, groups=2), "2", "3", "4"),
    "half an empty kernel": _bad(lambda: Conv2d(2, 3, (3, 0)), "kernel_size", "(3, 0)"),
    "a fractional kernel": _bad(lambda: Conv2d(2, 3, (3, 2.5)), "kernel_size", "2.5"),
    "three kernel sizes": _bad(lambda: Conv2d(2, 3, (3, 3, 3)), "kernel_size", "(3, 3, 3)"),
    "a negative margin": _bad(lambda: Conv2d(2, 3, 3, padding=((1, -2), (0, 1))), "padding", "-2"),
    "three sides": _bad(lambda: Conv2d(2, 3, 3, padding=((1, 2, 3), (0, 1))), "padding", "(1, 2, 3)"),
    "margins of one dimension": _bad(lambda: Conv2d(2, 3, 3, padding=((1, 2),)), "padding", "2 dimensions"),
    "same size at stride 2": _bad(lambda: Conv2d(2, 3, 3, stride=(1, 2), padding="same"), "stride", "(1, 2)"),
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
    _case("dilated-conv", Conv2d, "Conv2d, same, no bias", (3, 4, 4, 5), 1, (1, 3), padding="same", bias=False),
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


COUNT, AT_LEAST_0 = "int >= 1", "int >= 0"
GEOMETRY = {"in_channels": COUNT, "out_channels": COUNT, "kernel_size": COUNT, "stride": COUNT, "dilation": COUNT}
PADDING = {"padding": f"{AT_LEAST_0} or 'same', 'valid'"}
MODES = ("zeros", "reflect", "replicate", "circular")


def _convolution(of, name, kernel, *space):
    """The first call has the least groups and strides, so that every argument may be varied."""
    one = {"in_channels": 2, "out_channels": 3, "kernel_size": kernel, "padding": 1}
    two = {"in_channels": 4, "out_channels": 6, "kernel_size": kernel, "groups": 2}
    steps = {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3)}
    steps = {argument: pair[: len(space)] for argument, pair in steps.items()}
    return Contract(
        item="dilated-conv",
        name=name,
        of=of,
        calls=(
            one,
            *(two | steps | {"bias": mode != "zeros", "padding_mode": mode} for mode in MODES),
            two | {"padding": "same", "dilation": 2},
        ),
        ranges=GEOMETRY | PADDING | {"groups": COUNT, "padding_mode": repr(MODES)[1:-1]},
        state={"weight": "(out_channels, in_channels // groups, *kernel_size)", "bias": "(out_channels,)"},
        library=f"torch.nn.{name}",
        inputs=lambda arguments: (double(2, arguments["in_channels"], *space),),
    )


CONTRACTS = [
    _convolution(Conv1d, "Conv1d", (3,), 8),
    _convolution(Conv2d, "Conv2d", (3, 2), 6, 7),
    Contract(
        item="dilated-conv",
        name="ContextModule",
        of=ContextModule,
        calls=({"channels": 2},),
        ranges={"channels": COUNT},
        state={
            f"layers.{n}.{name}": shape
            for n, side in enumerate((3,) * 7 + (1,))
            for name, shape in (("weight", f"(channels, channels, {side}, {side})"), ("bias", "(channels,)"))
        },
        attributes={"layers": "the eight convolutions in their order, a torch.nn.ModuleList"},
    ),
    Contract(
        item="depthwise-separable-conv",
        name="DepthwiseSeparableConv2d",
        of=DepthwiseSeparableConv2d,
        calls=({"in_channels": 3, "out_channels": 5, "kernel_size": (3, 2), "depth_multiplier": 2, "bias": True},),
        ranges=GEOMETRY | PADDING | {"depth_multiplier": COUNT},
        state={
            "depthwise.weight": "(in_channels * depth_multiplier, 1, *kernel_size)",
            "depthwise.bias": "(in_channels * depth_multiplier,)",
            "pointwise.weight": "(out_channels, in_channels * depth_multiplier, 1, 1)",
            "pointwise.bias": "(out_channels,)",
        },
        attributes={"depthwise": "the module of the first convolution", "pointwise": "that of the 1×1 convolution"},
    ),
]
