"""Cases of deformable convolution: taps that land between pixels, where the derivative to the offsets exists."""

import torch

from impl.layers.deformable_convolution import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from spec.cases import Bad, Case
from spec.contract import Contract

WEIGHTS = "its weights are inputs, which have no samples; the module's record asks"


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def between(*shape, seed=0):
    """Offsets of up to two pixels either way whose fraction stays in [0.1, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-2, 2, shape, generator=generator)
    return whole + 0.1 + 0.8 * torch.rand(shape, generator=generator)


def moved(layer, *arguments, **named):
    """A layer whose offsets are small fractions of a pixel, and not the zeros of its initialisation."""
    module = layer(*arguments, **named)
    head = module.conv_offset
    head.weight.data.copy_(0.02 * _random(*head.weight.shape))
    head.bias.data.copy_(0.3 + 0.4 * torch.rand(head.bias.shape, generator=torch.Generator().manual_seed(1)))
    return module


def _arguments():
    """Input, offset, weight, bias, stride, padding, dilation, mask: two groups of offsets, two of channels."""
    offset, weight = between(2, 8, 3, 5), _random(4, 1, 2, 1, seed=1)
    mask = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(2))
    return _random(2, 2, 4, 5), offset, weight, _random(4, seed=3), (2, 1), (1, 0), (1, 3), mask


def _bad(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _bad_call(**changed):
    """The call of `_arguments` with some of them replaced."""
    names = ("input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask")
    return deform_conv2d(**(dict(zip(names, _arguments())) | changed))


def _layer(layer, name, **more):
    how = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 3), "groups": 2, "offset_groups": 2}
    return Case(
        item="deformable-conv",
        name=name,
        build=lambda: moved(layer, 2, 4, (1, 2), **how),
        inputs=lambda: (_random(3, 2, 1, 6),),
        bad={
            "offset groups that do not divide": _bad(lambda: layer(4, 2, 3, offset_groups=3), "4", "3"),
            "padding by a word": _bad(lambda: layer(4, 2, 3, padding="same"), "padding", "same"),
            "another number of channels": _bad(lambda: layer(4, 2, 3)(torch.randn(2, 3, 5, 5)), "4", "(2, 3, 5, 5)"),
            "3 dimensions": _bad(lambda: layer(4, 2, 3)(torch.randn(4, 5, 5)), "4", "(4, 5, 5)"),
            "smaller than the kernel": _bad(lambda: layer(4, 2, 3)(torch.randn(2, 4, 5, 2)), "[3, 3]", "(5, 2)"),
        },
    )


CASES = [
    Case(
        item="deformable-conv",
        name="deform_conv2d",
        build=lambda: deform_conv2d,
        inputs=_arguments,
        is_function=True,
        bad={
            "3 dimensions": _bad(lambda: _bad_call(input=torch.randn(2, 4, 5)), "4", "(2, 4, 5)"),
            "weights of other channels": _bad(lambda: _bad_call(weight=torch.randn(4, 3, 2, 1)), "2", "(4, 3, 2, 1)"),
            "outputs that groups do not share": _bad(
                lambda: _bad_call(weight=torch.randn(3, 1, 2, 1)), "2", "(3, 1, 2, 1)"
            ),
            "two offsets for all taps": _bad(lambda: _bad_call(offset=torch.randn(2, 2, 3, 5)), "(2, 2, 3, 5)"),
            "an odd number of offsets": _bad(lambda: _bad_call(offset=torch.randn(2, 9, 3, 5)), "(2, 9, 3, 5)"),
            "offsets of another size": _bad(lambda: _bad_call(offset=torch.randn(2, 8, 4, 5)), "(2, 8, 4, 5)", "3"),
            "offsets for three groups of channels": _bad(
                lambda: _bad_call(offset=torch.randn(2, 12, 3, 5)), "(2, 12, 3, 5)"
            ),
            "a mask for one group": _bad(
                lambda: _bad_call(mask=torch.randn(2, 2, 3, 5)), "(2, 2, 3, 5)", "(2, 4, 3, 5)"
            ),
            "no stride": _bad(lambda: _bad_call(stride=0), "stride", "0"),
            "negative padding": _bad(lambda: _bad_call(padding=(1, -1)), "padding", "(1, -1)"),
            "no dilation": _bad(lambda: _bad_call(dilation=0), "dilation", "0"),
            "smaller than the kernel": _bad(lambda: _bad_call(dilation=(6, 1)), "[7, 1]", "(6, 5)"),
        },
        exempt={"batch_independent": WEIGHTS, "batch_independent_in_eval": WEIGHTS, "empty_batch_is_defined": WEIGHTS},
    ),
    _layer(DeformConv2d, "DeformConv2d"),
    _layer(ModulatedDeformConv2d, "ModulatedDeformConv2d"),
]


COUNT = "int >= 1"


def _promise(of, name, predicted):
    """`predicted` numbers for each tap come from the convolution `conv_offset`."""
    of_offsets = f"{predicted} * kernel_size[0] * kernel_size[1] * offset_groups"
    sizes = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "offset_groups")
    return Contract(
        item="deformable-conv",
        name=name,
        of=of,
        calls=({"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2)},),
        ranges=dict.fromkeys(sizes, COUNT) | {"padding": "int >= 0"},
        state={
            "weight": "(out_channels, in_channels // groups, *kernel_size)",
            "bias": "(out_channels,)",
            "conv_offset.weight": f"({of_offsets}, in_channels, *kernel_size)",
            "conv_offset.bias": f"({of_offsets},)",
        },
        attributes={"conv_offset": "the convolution that predicts the offsets, its weight and bias initialised to 0"},
    )


CONTRACTS = [
    Contract(
        item="deformable-conv",
        name="deform_conv2d",
        of=deform_conv2d,
        calls=(
            {
                "input": _random(2, 2, 4, 5),
                "offset": _random(2, 4, 4, 5),
                "weight": _random(3, 2, 1, 2),
                "padding": (0, 1),
                "dilation": (1, 2),
            },
        ),
    ),
    _promise(DeformConv2d, "DeformConv2d", 2),
    _promise(ModulatedDeformConv2d, "ModulatedDeformConv2d", 3),
]
