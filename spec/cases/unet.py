"""Cases of U-Net."""

import torch

from impl.models.unet import Convolutions, UNet, border_weights, weighted_cross_entropy
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import random, reseed

SETTINGS = {"in_channels": 3, "num_classes": 5, "base_channels": 2, "depth": 1}


def unet(**options):
    reseed(0)
    return UNet(**SETTINGS | options)


def cells():
    """Two images: three cells of which two nearly touch, and two cells far apart."""
    found = torch.zeros(2, 7, 9, dtype=torch.long)
    found[0, 1:4, 1:4], found[0, 1:4, 5:8], found[0, 6, 2:8] = 1, 2, 3
    found[1, 0, 0], found[1, 5:, 6:] = 4, 1
    return found


def classes():
    return torch.tensor([[[0, 2, 1], [3, 3, 0]], [[1, 1, 2], [0, 3, 2]]])


_BAD = {
    "an image of other channels": Bad(call=lambda: unet()(random(2, 1, 20, 18)), mentions=("3", "(2, 1, 20, 18)")),
    "an image without height": Bad(call=lambda: unet()(random(2, 3, 0, 18)), mentions=("(2, 3, 0, 18)",)),
    "an image that is lost at its edges": Bad(call=lambda: unet()(random(2, 3, 16, 18)), mentions=("16",)),
    "an odd side": Bad(call=lambda: unet()(random(2, 3, 18, 19)), mentions=("19",)),
    "a side that does not halve twice": Bad(call=lambda: unet(depth=2)(random(2, 3, 44, 46)), mentions=("46",)),
    "an odd side, padded": Bad(call=lambda: unet(padding="same")(random(2, 3, 6, 7)), mentions=("7",)),
    "cells in a row": Bad(call=lambda: border_weights(torch.zeros(4).long()), mentions=("(4,)",)),
    "weights of three classes": Bad(
        call=lambda: border_weights(cells(), class_weights=torch.ones(3)), mentions=("(3,)",)
    ),
    "another padding": Bad(call=lambda: unet(padding="reflect"), mentions=("reflect",)),
}

CASES = [
    Case(
        item="unet",
        name="UNet, padded",
        build=lambda: unet(padding="same"),
        inputs=lambda: (random(2, 3, 4, 6),),
        bad=_BAD,
    ),
    Case(
        item="unet",
        name="UNet, twice halved",
        build=lambda: unet(depth=2, in_channels=1, dropout=0.1),
        inputs=lambda: (random(2, 1, 44, 48),),
        exempt={
            "gradient_correct": "the padded one has the same parts, at a tenth of the cost",
            "works_under_autocast": "where bfloat16 makes a tie of a maximum, its gradient goes elsewhere",
        },
    ),
    Case(
        item="unet",
        name="Convolutions",
        build=lambda: reseed(1) or Convolutions(2, 3, "valid"),
        inputs=lambda: (random(2, 2, 6, 7),),
        bad={"an image smaller than the kernels": Bad(call=lambda: Convolutions(2, 3, "valid")(random(1, 2, 4, 9)))},
    ),
    Case(
        item="unet",
        name="weighted_cross_entropy",
        build=lambda: weighted_cross_entropy,
        inputs=lambda: (random(2, 4, 2, 3), classes(), random(2, 2, 3, seed=1).abs()),
        is_function=True,
        exempt={
            "batch_independent": "a mean over the batch",
            "batch_independent_in_eval": "a mean over the batch",
            "empty_batch_is_defined": "a mean over the batch",
        },
        bad={
            "weights of other pixels": Bad(
                call=lambda: weighted_cross_entropy(random(2, 4, 2, 3), classes(), random(2, 3, 2)),
                mentions=("(2, 3, 2)",),
            ),
            "classes of one image": Bad(
                call=lambda: weighted_cross_entropy(random(2, 4, 2, 3), classes()[:1], random(2, 2, 3)),
                mentions=("(1, 2, 3)",),
            ),
            "scores of one pixel each": Bad(
                call=lambda: weighted_cross_entropy(random(2, 4), classes()[:, 0, 0], random(2)), mentions=("(2, 4)",)
            ),
        },
    ),
]


def convolutions(prefix: str, before: str, after: str) -> dict[str, str]:
    return {
        f"{prefix}conv1.weight": f"({after}, {before}, 3, 3)",
        f"{prefix}conv1.bias": f"({after},)",
        f"{prefix}conv2.weight": f"({after}, {after}, 3, 3)",
        f"{prefix}conv2.bias": f"({after},)",
    }


CONTRACTS = [
    Contract(
        item="unet",
        name="UNet",
        of=UNet,
        calls=(SETTINGS,),
        ranges={
            "in_channels": "int >= 1",
            "num_classes": "int >= 1",
            "base_channels": "int >= 1",
            "depth": "int >= 1",
            "dropout": "[0, 1]",
        },
        state={
            "up.0.weight": "(2 * base_channels, base_channels, 2, 2)",
            "up.0.bias": "(base_channels,)",
            "head.weight": "(num_classes, base_channels, 1, 1)",
            "head.bias": "(num_classes,)",
        }
        | convolutions("contracting.0.", "in_channels", "base_channels")
        | convolutions("contracting.1.", "base_channels", "2 * base_channels")
        | convolutions("expanding.0.", "2 * base_channels", "base_channels"),
    ),
    Contract(
        item="unet",
        name="Convolutions",
        of=Convolutions,
        calls=({"before": 2, "after": 3, "padding": "valid"},),
        ranges={"before": "int >= 1", "after": "int >= 1"},
        state=convolutions("", "before", "after"),
    ),
    Contract(
        item="unet",
        name="border_weights",
        of=border_weights,
        calls=({"cells": cells()},),
        ranges={"w0": "[0, inf)", "sigma": "(0, inf)"},
    ),
    Contract(
        item="unet",
        name="weighted_cross_entropy",
        of=weighted_cross_entropy,
        calls=({"scores": random(2, 4, 2, 3), "classes": classes(), "weights": random(2, 2, 3)},),
    ),
]
