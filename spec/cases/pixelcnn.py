"""Cases of PixelCNN."""

import torch

from impl.models.pixelcnn import GatedPixelCNNLayer, MaskedConv2d, PixelCNN
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import random, reseed


def levels(*shape, most: int, seed: int = 0):
    """Levels 0 … most − 1, int64."""
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(seed))


def masked(mask_type: str):
    reseed(0)
    return MaskedConv2d(4, 6, (5, 3), mask_type, num_groups=2)


def layer(mask_type: str, condition_features: int | None = None):
    """Two colours; the first layer sees two channels, a later one four."""
    reseed(0)
    inputs = 2 if mask_type == "A" else 4
    return GatedPixelCNNLayer(4, 3, mask_type, inputs, num_groups=2, condition_features=condition_features)


def model(condition_features: int | None = None, num_layers: int = 2):
    """Two colours of three levels."""
    reseed(0)
    return PixelCNN(2, 3, 2, num_layers, first_kernel_size=5, condition_features=condition_features)


_BAD_MASK = {
    "an image of other channels": Bad(call=lambda: masked("A")(random(2, 3, 5, 6)), mentions=("4", "(2, 3, 5, 6)")),
    "no batch": Bad(call=lambda: masked("A")(random(4, 5, 6))),
    "inputs that the colours do not share": Bad(call=lambda: MaskedConv2d(4, 6, 3, "A", num_groups=3), mentions=("3",)),
    "outputs that the colours do not share": Bad(call=lambda: MaskedConv2d(4, 6, 3, "A", num_groups=4)),
    "an even height": Bad(call=lambda: MaskedConv2d(4, 6, (4, 3)), mentions=("odd",)),
    "an even width": Bad(call=lambda: MaskedConv2d(4, 6, (3, 2))),
}
_BAD_LAYER = {
    "other widths after the first layer": Bad(call=lambda: GatedPixelCNNLayer(4, 3, "B", in_channels=2)),
    "two shapes": Bad(call=lambda: layer("B")(random(2, 4, 5, 6), random(2, 4, 5, 5))),
    "other channels": Bad(call=lambda: layer("B")(random(2, 3, 5, 6), random(2, 3, 5, 6))),
    "a condition that nothing expects": Bad(call=lambda: layer("B")(*2 * [random(2, 4, 5, 6)], random(2, 3))),
    "no condition": Bad(call=lambda: layer("B", 3)(*2 * [random(2, 4, 5, 6)])),
    "a condition of other features": Bad(call=lambda: layer("B", 3)(*2 * [random(2, 4, 5, 6)], random(2, 4))),
    "a condition of another batch": Bad(call=lambda: layer("B", 3)(*2 * [random(2, 4, 5, 6)], random(1, 3))),
    "a condition of another size": Bad(call=lambda: layer("B", 3)(*2 * [random(2, 4, 5, 6)], random(2, 3, 5, 5))),
}
_BAD_MODEL = {
    "an image of other colours": Bad(call=lambda: model()(levels(2, 3, 4, 5, most=3))),
    "a condition that nothing expects": Bad(call=lambda: model()(levels(2, 2, 4, 5, most=3), random(2, 3))),
    "no condition": Bad(call=lambda: model(3)(levels(2, 2, 4, 5, most=3))),
    "a level too high": Bad(call=lambda: model().log_prob(torch.full((2, 2, 4, 5), 3)), mentions=("3",)),
    "a negative level": Bad(call=lambda: model().log_prob(torch.full((2, 2, 4, 5), -1)), mentions=("-1",)),
    "half a level": Bad(call=lambda: model().log_prob(torch.full((2, 2, 4, 5), 0.5)), mentions=("0.5",)),
    "channels that the colours do not share": Bad(call=lambda: PixelCNN(3, 256, channels=8)),
    "a sample of no height": Bad(call=lambda: model().sample(2, (0, 3))),
    "a sample without its condition": Bad(call=lambda: model(3).sample(2, 3)),
}


def _maps():
    return (random(2, 4, 5, 6),)


def _image():
    """Levels as floats, so that the laws of floating inputs can be asked."""
    return (levels(2, 2, 2, 3, most=3).float(),)


_DIFFERENCES = {
    "gradient_correct": "seconds of central differences: its parts are checked, all gradients of a layer by torch"
}

CASES = [
    Case(item="pixelcnn", name="MaskedConv2d, A", build=lambda: masked("A"), inputs=_maps, bad=_BAD_MASK),
    Case(item="pixelcnn", name="MaskedConv2d, B", build=lambda: masked("B"), inputs=_maps),
    Case(
        item="pixelcnn",
        name="GatedPixelCNNLayer, A",
        build=lambda: layer("A"),
        inputs=lambda: (random(3, 2, 2, 4), random(3, 2, 2, 4, seed=1)),
        bad=_BAD_LAYER,
    ),
    Case(
        item="pixelcnn",
        name="GatedPixelCNNLayer, B, a condition of each pixel",
        build=lambda: layer("B", 3),
        inputs=lambda: (random(2, 4, 2, 3), random(2, 4, 2, 3, seed=1), random(2, 3, 2, 3, seed=2)),
        exempt=_DIFFERENCES,
    ),
    Case(item="pixelcnn", name="PixelCNN", build=model, inputs=_image, bad=_BAD_MODEL, exempt=_DIFFERENCES),
    Case(
        item="pixelcnn",
        name="PixelCNN, a condition",
        build=lambda: model(3),
        inputs=lambda: (*_image(), random(2, 3)),
        exempt=_DIFFERENCES,
    ),
    Case(
        item="pixelcnn",
        name="PixelCNN, integers",
        build=lambda: model(3),
        inputs=lambda: (levels(3, 2, 2, 5, most=3), random(3, 3)),
        exempt={"keeps_dtype": "levels are integers here: the weights' dtype comes out"} | _DIFFERENCES,
    ),
]


def _layer_state(features: str = "") -> dict[str, str]:
    rows = "(kernel_size // 2 + (mask_type == 'B'))"
    state = {
        "vertical.weight": f"(2 * channels, in_channels or channels, {rows}, kernel_size)",
        "vertical.bias": "(2 * channels,)",
        "to_horizontal.weight": "(2 * channels, 2 * channels, 1, 1)",
        "to_horizontal.bias": "(2 * channels,)",
        "horizontal.weight": "(2 * channels, in_channels or channels, 1, kernel_size)",
        "horizontal.bias": "(2 * channels,)",
        "output.weight": "(channels, channels, 1, 1)",
        "output.bias": "(channels,)",
    }
    if features:
        state |= {
            f"condition_{name}.weight": f"(2 * channels, {features}, 1, 1)" for name in ("vertical", "horizontal")
        }
    return state


def _model_state() -> dict[str, str]:
    """Of a model of two layers without a condition."""
    values = {"A": ("in_channels", "first_kernel_size", "0"), "B": ("channels", "kernel_size", "1")}
    state = {}
    for n, (inputs, kernel, own) in enumerate(values.values()):
        state |= {
            f"layers.{n}.vertical.weight": f"(2 * channels, {inputs}, {kernel} // 2 + {own}, {kernel})",
            f"layers.{n}.vertical.bias": "(2 * channels,)",
            f"layers.{n}.to_horizontal.weight": "(2 * channels, 2 * channels, 1, 1)",
            f"layers.{n}.to_horizontal.bias": "(2 * channels,)",
            f"layers.{n}.horizontal.weight": f"(2 * channels, {inputs}, 1, {kernel})",
            f"layers.{n}.horizontal.bias": "(2 * channels,)",
            f"layers.{n}.output.weight": "(channels, channels, 1, 1)",
            f"layers.{n}.output.bias": "(channels,)",
        }
    state |= {"hidden.weight": "(channels, channels, 1, 1)", "hidden.bias": "(channels,)"}
    outputs = "in_channels * num_levels"
    return state | {"logits.weight": f"({outputs}, channels, 1, 1)", "logits.bias": f"({outputs},)"}


_LAYER_RANGES = {
    "channels": "int >= 1",
    "kernel_size": "odd >= 3",
    "mask_type": "'A', 'B'",
    "num_groups": "int >= 1",
    "condition_features": "int >= 1 or None",
}


def _sample(**arguments):
    return model().sample(**arguments)


CONTRACTS = [
    Contract(
        item="pixelcnn",
        name="MaskedConv2d",
        of=MaskedConv2d,
        calls=({"in_channels": 4, "out_channels": 6, "kernel_size": 5, "mask_type": "A"},),
        ranges={
            "in_channels": "int >= 1",
            "out_channels": "int >= 1",
            "kernel_size": "odd >= 1",
            "mask_type": "'A', 'B'",
            "num_groups": "int >= 1",
        },
        state={"weight": "(out_channels, in_channels, kernel_size, kernel_size)", "bias": "(out_channels,)"},
    ),
    Contract(
        item="pixelcnn",
        name="GatedPixelCNNLayer",
        of=GatedPixelCNNLayer,
        calls=({"channels": 4, "kernel_size": 5},),
        ranges=_LAYER_RANGES,
        state=_layer_state(),
    ),
    Contract(
        item="pixelcnn",
        name="GatedPixelCNNLayer, the first, with a condition",
        of=GatedPixelCNNLayer,
        calls=({"channels": 4, "kernel_size": 5, "mask_type": "A", "in_channels": 3, "condition_features": 2},),
        ranges={"in_channels": "int >= 1 or None"},
        state=_layer_state("condition_features"),
    ),
    Contract(
        item="pixelcnn",
        name="PixelCNN",
        of=PixelCNN,
        calls=({"in_channels": 2, "num_levels": 3, "channels": 4, "num_layers": 2},),
        ranges={
            "in_channels": "int >= 1",
            "num_levels": "int >= 2",
            "num_layers": "int >= 1",
            "kernel_size": "odd >= 3",
            "first_kernel_size": "odd >= 3",
            "condition_features": "int >= 1 or None",
        },
        state=_model_state(),
        attributes={
            "log_prob": "log_prob(x, condition=None): log p(x) of each image in nats, (B,)",
            "sample": "sample(n, size, condition=None, generator=None): n images of levels, int64",
        },
    ),
    Contract(
        item="pixelcnn",
        name="PixelCNN.sample",
        of=_sample,
        calls=({"n": 2, "size": 2},),
        ranges={"n": "int >= 1", "size": "int >= 1"},
    ),
]
