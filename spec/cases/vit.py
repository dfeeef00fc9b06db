"""Cases of ViT."""

import torch

from impl.models.vit import PatchEmbedding, VisionTransformer, resize_positions
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import random, reseed

SETTINGS = {
    "image_size": (4, 6),
    "patch_size": 2,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
    "num_classes": 5,
    "channels": 3,
}


def vit(**options):
    reseed(0)
    return VisionTransformer(**SETTINGS | options)


_BAD = {
    "patches that do not divide the width": Bad(call=lambda: vit(image_size=(4, 5)), mentions=("4", "5", "2")),
    "patches that do not divide the height": Bad(call=lambda: vit(image_size=(5, 4)), mentions=("4", "5", "2")),
    "heads that do not divide": Bad(call=lambda: vit(num_heads=3), mentions=("3", "8")),
    "three sides": Bad(call=lambda: vit(image_size=(4, 4, 4)), mentions=("(4, 4, 4)",)),
    "an image of other channels": Bad(call=lambda: vit()(random(2, 1, 4, 6)), mentions=("3", "(2, 1, 4, 6)")),
    "a side that patches do not divide": Bad(call=lambda: vit()(random(2, 3, 4, 7)), mentions=("7",)),
    "an image without height": Bad(call=lambda: vit()(random(2, 3, 0, 6)), mentions=("(2, 3, 0, 6)",)),
}

CASES = [
    Case(
        item="vit",
        name="VisionTransformer",
        build=lambda: vit(hidden_dim=4, mlp_dim=5, num_layers=1),
        inputs=lambda: (random(2, 3, 4, 6),),
        bad=_BAD,
    ),
    Case(
        item="vit",
        name="VisionTransformer, an image of another size",
        build=lambda: vit(hidden_dim=4, mlp_dim=5, num_layers=1, channels=1, dropout=0.1),
        inputs=lambda: (random(2, 1, 8, 4),),
    ),
    Case(
        item="vit",
        name="PatchEmbedding",
        build=lambda: reseed(1) or PatchEmbedding(3, 5, 2),
        inputs=lambda: (random(2, 3, 4, 6),),
        bad={"a side that patches do not divide": Bad(call=lambda: PatchEmbedding(3, 5, 2)(random(1, 3, 4, 3)))},
    ),
    Case(
        item="vit",
        name="resize_positions",
        build=lambda: resize_positions,
        inputs=lambda: (random(6, 7), (2, 3), (4, 5)),
        is_function=True,
        exempt={
            "batch_independent": "places are mixed: that is the interpolation",
            "batch_independent_in_eval": "places are mixed: that is the interpolation",
            "empty_batch_is_defined": "the first dimension counts places, not samples",
        },
    ),
]

BLOCK = {
    "self_attn.in_proj_weight": "(3 * {d}, {d})",
    "self_attn.in_proj_bias": "(3 * {d},)",
    "self_attn.out_proj.weight": "({d}, {d})",
    "self_attn.out_proj.bias": "({d},)",
    "linear1.weight": "({h}, {d})",
    "linear1.bias": "({h},)",
    "linear2.weight": "({d}, {h})",
    "linear2.bias": "({d},)",
    "norm1.weight": "({d},)",
    "norm1.bias": "({d},)",
    "norm2.weight": "({d},)",
    "norm2.bias": "({d},)",
}


def block(prefix: str, width: str, hidden: str) -> dict[str, str]:
    """Keys and shapes of a transformer block's state: those of torch.nn.TransformerEncoderLayer."""
    return {f"{prefix}.{name}": shape.format(d=width, h=hidden) for name, shape in BLOCK.items()}


def bilinear_weights(old: int, new: int):
    """What each of `new` pixels takes of `old` ones along a side: of the two whose centres are next to its own."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for k in range(new):
        place = min(max((k + 0.5) * old / new - 0.5, 0), old - 1)
        low = int(place)
        weights[k, low] += 1 - (place - low)
        weights[k, min(low + 1, old - 1)] += place - low
    return weights


def without_blocks(module, outputs=(".out_proj.", ".linear2.")):
    """The module with transformer blocks that add nothing: the last maps of their residual branches are 0."""
    state = module.state_dict()
    off = {k: torch.zeros_like(v) for k, v in state.items() if any(name in k for name in outputs)}
    module.load_state_dict(state | off)
    return module


CONTRACTS = [
    Contract(
        item="vit",
        name="VisionTransformer",
        of=VisionTransformer,
        calls=(SETTINGS | {"num_layers": 1},),
        ranges={
            "patch_size": "int in [1, 2]",
            "num_layers": "int >= 1",
            "num_heads": "int >= 1",
            "mlp_dim": "int >= 1",
            "num_classes": "int >= 1 or None",
            "channels": "int >= 1",
            "dropout": "[0, 1)",
        },
        state={
            "patches.projection.weight": "(hidden_dim, channels, patch_size, patch_size)",
            "patches.projection.bias": "(hidden_dim,)",
            "class_token": "(hidden_dim,)",
            "positions": "(1 + image_size[0] * image_size[1] // patch_size**2, hidden_dim)",
            "norm.weight": "(hidden_dim,)",
            "norm.bias": "(hidden_dim,)",
            "head.weight": "(num_classes, hidden_dim)",
            "head.bias": "(num_classes,)",
        }
        | block("blocks.0", "hidden_dim", "mlp_dim"),
        attributes={"grid": "rows and columns of patches of an image of image_size"},
    ),
    Contract(
        item="vit",
        name="PatchEmbedding",
        of=PatchEmbedding,
        calls=({"channels": 3, "width": 5, "patch_size": 2},),
        ranges={"channels": "int >= 1", "width": "int >= 1", "patch_size": "int >= 1"},
        state={"projection.weight": "(width, channels, patch_size, patch_size)", "projection.bias": "(width,)"},
        attributes={"patch_size": "the side of a patch"},
    ),
    Contract(
        item="vit",
        name="resize_positions",
        of=resize_positions,
        calls=({"positions": random(6, 7), "grid": (2, 3), "wanted": (4, 5)},),
    ),
]
