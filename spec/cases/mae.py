"""Cases of MAE."""

import torch
from torch import nn

from impl.models.mae import MaskedAutoencoder, grid_positions, patchify, random_masking, unpatchify
from spec.cases import Bad, Case
from spec.cases.vit import block
from spec.contract import Contract
from spec.laws import random, reseed

SETTINGS = {
    "image_size": (4, 6),
    "patch_size": 2,
    "width": 8,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_width": 4,
    "decoder_layers": 1,
    "decoder_heads": 1,
    "channels": 3,
}
# Of three images with six patches; at a ratio of 0.5 different patches are hidden of each.
NOISE = torch.tensor([[0.3, 0.1, 0.8, 0.6, 0.2, 0.9], [0.9, 0.7, 0.4, 0.5, 0.1, 0.2], [0.1, 0.2, 0.3, 0.6, 0.5, 0.4]])


def mae(**options):
    reseed(0)
    return MaskedAutoencoder(**SETTINGS | options)


class Painted(nn.Module):
    """Predictions and loss of a model with given noise, so that the laws of modules can be asked of it."""

    def __init__(self, loss: bool, **options):
        super().__init__()
        self.model, self.call = mae(width=4, num_layers=1, num_heads=1, channels=1, **options), loss

    def forward(self, images):
        noise = NOISE[: len(images)].to(images.device)
        return self.model.loss(images, 0.5, noise) if self.call else self.model(images, 0.5, noise)


_BAD = {
    "a ratio that hides nothing": Bad(call=lambda: mae().loss(random(2, 3, 4, 6), 0.0), mentions=("0.0",)),
    "all patches hidden": Bad(call=lambda: random_masking(NOISE, 1.0), mentions=("1.0",)),
    "a negative ratio": Bad(call=lambda: random_masking(NOISE, -0.1), mentions=("-0.1",)),
    "an image of another size": Bad(call=lambda: mae()(random(2, 3, 4, 4)), mentions=("(2, 3, 4, 4)",)),
    "an image of other channels": Bad(call=lambda: mae()(random(2, 1, 4, 6)), mentions=("(2, 1, 4, 6)",)),
    "patches that do not divide": Bad(call=lambda: mae(image_size=(4, 5)), mentions=("4", "5")),
    "a width that 4 does not divide": Bad(call=lambda: mae(width=6), mentions=("6",)),
    "heads that do not divide": Bad(call=lambda: mae(decoder_heads=3), mentions=("3", "4")),
}
_OWN = {"from_scratch": "the class that is called is defined here; the records below are checked"}
_BATCH = {"batch_independent": "a mean over the batch", "batch_independent_in_eval": "a mean over the batch"}

CASES = [
    Case(
        item="mae",
        name="MaskedAutoencoder",
        build=lambda: Painted(loss=False),
        inputs=lambda: (random(2, 1, 4, 6),),
        bad=_BAD,
        exempt=_OWN,
    ),
    Case(
        item="mae",
        name="MaskedAutoencoder.loss",
        build=lambda: Painted(loss=True, normalize_targets=True),
        inputs=lambda: (random(3, 1, 4, 6),),
        exempt=_OWN
        | _BATCH
        | {
            "empty_batch_is_defined": "a mean over no patch",
            "gradient_correct": "the record above has it for all parameters; a spec has the loss's second derivatives",
        },
    ),
    Case(
        item="mae",
        name="patchify",
        build=lambda: patchify,
        inputs=lambda: (random(2, 3, 4, 6), 2),
        is_function=True,
        bad={"a side that patches do not divide": Bad(call=lambda: patchify(random(2, 3, 4, 5), 2), mentions=("5",))},
    ),
    Case(
        item="mae",
        name="unpatchify",
        build=lambda: unpatchify,
        inputs=lambda: (random(2, 6, 12), 2, (2, 3)),
        is_function=True,
        bad={
            "another number of patches": Bad(call=lambda: unpatchify(random(2, 5, 12), 2, (2, 3)), mentions=("5",)),
            "patches of no channels": Bad(call=lambda: unpatchify(random(2, 6, 13), 2, (2, 3)), mentions=("13",)),
        },
    ),
]

CONTRACTS = [
    Contract(
        item="mae",
        name="MaskedAutoencoder",
        of=MaskedAutoencoder,
        calls=(SETTINGS | {"num_layers": 1},),
        ranges={
            "patch_size": "int in [1, 2]",
            "num_layers": "int >= 1",
            "num_heads": "int >= 1",
            "decoder_layers": "int >= 1",
            "decoder_heads": "int >= 1",
            "channels": "int >= 1",
        },
        state={
            "patches.projection.weight": "(width, channels, patch_size, patch_size)",
            "patches.projection.bias": "(width,)",
            "class_token": "(width,)",
            "norm.weight": "(width,)",
            "norm.bias": "(width,)",
            "decoder_input.weight": "(decoder_width, width)",
            "decoder_input.bias": "(decoder_width,)",
            "mask_token": "(decoder_width,)",
            "decoder_norm.weight": "(decoder_width,)",
            "decoder_norm.bias": "(decoder_width,)",
            "head.weight": "(patch_size**2 * channels, decoder_width)",
            "head.bias": "(patch_size**2 * channels,)",
        }
        | block("blocks.0", "width", "4 * width")
        | block("decoder_blocks.0", "decoder_width", "4 * decoder_width"),
    ),
    Contract(item="mae", name="random_masking", of=random_masking, calls=({"noise": NOISE, "ratio": 0.5},)),
    Contract(
        item="mae",
        name="grid_positions",
        of=grid_positions,
        calls=({"rows": 2, "columns": 3, "width": 8},),
        ranges={"rows": "int >= 1", "columns": "int >= 1"},
    ),
    Contract(
        item="mae",
        name="patchify",
        of=patchify,
        calls=({"images": random(2, 3, 4, 6), "size": 2},),
    ),
    Contract(
        item="mae",
        name="unpatchify",
        of=unpatchify,
        calls=({"patches": random(2, 6, 12), "size": 2, "grid": (2, 3)},),
    ),
]
