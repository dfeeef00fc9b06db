"""Cases of CycleGAN."""

from torch import nn

from impl.models.cyclegan import CycleGAN, ImagePool, PatchGANDiscriminator, ResnetGenerator, linear_decay
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def resnet(in_channels=2, out_channels=3, width=2, num_blocks=1):
    reseed(0)
    return ResnetGenerator(in_channels, out_channels, width, num_blocks)


def patch_gan(in_channels=2, width=1, num_layers=1):
    reseed(1)
    return PatchGANDiscriminator(in_channels, width, num_layers)


def networks():
    """Of X, images (2, 1, 3), and Y, images (2, 1, 3): linear generators, and discriminators of one or two logits."""
    reseed(2)
    to_x, to_y = (nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Unflatten(1, (2, 1, 3))) for _ in range(2))
    judges = (nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, logits)) for logits in (1, 2))
    return to_x, to_y, *judges


def model(**options):
    return CycleGAN(*networks(), **options)


_CENTRED = "a bias before a normalization moves nothing; the released networks have it, the published counts too"

CASES = [
    Case(
        item="cyclegan",
        name="ResnetGenerator",
        build=resnet,
        inputs=lambda: (random(2, 2, 8, 12),),
        bad={
            "images of other channels": Bad(
                call=lambda: resnet()(random(2, 3, 8, 12)), mentions=("2", "(2, 3, 8, 12)")
            ),
            "a height that is no multiple of 4": Bad(
                call=lambda: resnet()(random(2, 2, 10, 12)), mentions=("(2, 2, 10, 12)",)
            ),
            "a width that is no multiple of 4": Bad(
                call=lambda: resnet()(random(2, 2, 8, 11)), mentions=("(2, 2, 8, 11)",)
            ),
            "images too small to reflect": Bad(call=lambda: resnet()(random(2, 2, 4, 12)), mentions=("(2, 2, 4, 12)",)),
            "no batch": Bad(call=lambda: resnet()(random(2, 8, 12)), mentions=("(2, 8, 12)",)),
        },
        exempt={
            "every_parameter_receives_gradient": _CENTRED,
            "gradient_correct": "spec/properties/test_cyclegan.py compares its gradients with those of torch's layers",
            "works_under_autocast": "rounding to bfloat16 moves activations across their kink; the layers are asked",
        },
    ),
    Case(
        item="cyclegan",
        name="PatchGANDiscriminator",
        build=patch_gan,
        inputs=lambda: (random(2, 2, 6, 8),),
        bad={
            "images of other channels": Bad(call=lambda: patch_gan()(random(3, 1, 6, 8)), mentions=("(3, 1, 6, 8)",)),
            "images too small for a logit": Bad(call=lambda: patch_gan()(random(3, 2, 4, 8))),
        },
        exempt={"every_parameter_receives_gradient": _CENTRED},
    ),
    Case(
        item="cyclegan",
        name="CycleGAN, the generators",
        build=model,
        inputs=lambda: (random(2, 2, 1, 3), random(2, 2, 1, 3, seed=1)),
        exempt={
            "every_parameter_receives_gradient": "translations do not depend on the discriminators",
        },
    ),
]


def conv(name, outputs, inputs, kernel):
    return {f"{name}.weight": f"({outputs}, {inputs}, {kernel}, {kernel})", f"{name}.bias": f"({outputs},)"}


def transposed(name, inputs, outputs):
    return {f"{name}.weight": f"({inputs}, {outputs}, 3, 3)", f"{name}.bias": f"({outputs},)"}


_GENERATOR = conv("down.0", "width", "in_channels", 7)
_GENERATOR |= conv("down.1", "2 * width", "width", 3) | conv("down.2", "4 * width", "2 * width", 3)
_GENERATOR |= conv("blocks.0.conv1", "4 * width", "4 * width", 3) | conv("blocks.0.conv2", "4 * width", "4 * width", 3)
_GENERATOR |= transposed("up.0", "4 * width", "2 * width") | transposed("up.1", "2 * width", "width")
_GENERATOR |= conv("last", "out_channels", "width", 7)

_DISCRIMINATOR = conv("layers.0", "width", "in_channels", 4) | conv("layers.1", "2 * width", "width", 4)
_DISCRIMINATOR |= conv("layers.2", "4 * width", "2 * width", 4) | conv("layers.3", "1", "4 * width", 4)

_NETWORK = "the network, as it was given; its state has that prefix"

CONTRACTS = [
    Contract(
        item="cyclegan",
        name="ResnetGenerator",
        of=ResnetGenerator,
        calls=({"in_channels": 2, "out_channels": 3, "width": 4, "num_blocks": 1},),
        ranges=dict.fromkeys(("in_channels", "out_channels", "width", "num_blocks"), "int >= 1"),
        state=_GENERATOR,
    ),
    Contract(
        item="cyclegan",
        name="PatchGANDiscriminator",
        of=PatchGANDiscriminator,
        calls=({"in_channels": 2, "width": 3, "num_layers": 2},),
        ranges=dict.fromkeys(("in_channels", "width", "num_layers"), "int >= 1"),
        state=_DISCRIMINATOR,
    ),
    Contract(
        item="cyclegan",
        name="ImagePool",
        of=ImagePool,
        ranges={"pool_size": "int >= 0"},
        remembers="the kept images; they are a part of the state",
    ),
    Contract(
        item="cyclegan",
        name="CycleGAN",
        of=CycleGAN,
        calls=(
            {
                "to_x": Fresh(lambda: nn.Linear(4, 3)),
                "to_y": Fresh(lambda: nn.Linear(3, 4)),
                "discriminator_x": Fresh(lambda: nn.Linear(3, 1)),
                "discriminator_y": Fresh(lambda: nn.Linear(4, 1)),
            },
        ),
        ranges={"cycle_weight": "[0, inf)", "identity_weight": "[0, inf)", "pool_size": "int >= 0"},
        attributes=dict.fromkeys(("to_x", "to_y", "discriminator_x", "discriminator_y"), _NETWORK),
        remembers="the kept images of both pools; they are a part of the state",
    ),
    Contract(
        item="cyclegan",
        name="linear_decay",
        of=linear_decay,
        calls=({"epoch": 3},),
        ranges={"epoch": "[0, inf)", "constant": "int >= 0", "decay": "int >= 1"},
    ),
]
