"""Cases of CLIP."""

import torch
from torch import nn

from impl.models.clip import CLIP, TextTransformer, VisionTransformer, clip_loss, quick_gelu
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed

# Of a vocabulary of 11, whose highest id, 10, ends a text: what follows is padding.
TOKENS = torch.tensor([[3, 1, 4, 10, 0], [2, 7, 10, 0, 0], [5, 5, 9, 2, 10]])


def text(**options):
    reseed(0)
    settings = {"vocab_size": 11, "context_length": 5, "width": 6, "layers": 2, "heads": 2, "embed_dim": 3}
    return TextTransformer(**settings | options)


def vision(**options):
    reseed(1)
    settings = {"image_size": 4, "patch_size": 2, "width": 6, "layers": 2, "heads": 3, "embed_dim": 3, "channels": 2}
    return VisionTransformer(**settings | options)


def clip(**options):
    return CLIP(vision(), text(), **options)


def small():
    """Two linear encoders, of 4 and of 5 numbers."""
    reseed(0)
    return CLIP(nn.Linear(4, 3), nn.Linear(5, 3), temperature=0.5)


class Loss(nn.Module):
    """The loss of a model as a function of pairs, so that the laws of modules can be asked of it."""

    def __init__(self):
        super().__init__()
        self.model = small()

    def forward(self, images, texts):
        return self.model.loss(images, texts)


_BAD = {
    "features of two shapes": Bad(call=lambda: clip_loss(random(3, 4), random(2, 4)), mentions=("(3, 4)", "(2, 4)")),
    "no pair": Bad(call=lambda: clip_loss(random(0, 4), random(0, 4)), mentions=("(0, 4)",)),
    "a class without a prompt": Bad(call=lambda: clip().zero_shot_classifier([TOKENS, TOKENS[:0]])),
    "no class": Bad(call=lambda: clip().zero_shot_classifier([])),
    "too many tokens": Bad(call=lambda: text()(torch.zeros(2, 6, dtype=torch.int64)), mentions=("5", "(2, 6)")),
    "no tokens": Bad(call=lambda: text()(TOKENS[:, :0]), mentions=("(3, 0)",)),
    "an image of another size": Bad(call=lambda: vision()(random(2, 2, 4, 6)), mentions=("(2, 2, 4, 6)",)),
    "an image of other channels": Bad(call=lambda: vision()(random(2, 3, 4, 4)), mentions=("(2, 3, 4, 4)",)),
    "patches that do not divide": Bad(call=lambda: vision(patch_size=3), mentions=("3", "4")),
    "heads that do not divide": Bad(call=lambda: text(heads=4)),
}
_BATCH = {
    "batch_independent": "every other pair of the batch is a negative: that is the loss",
    "batch_independent_in_eval": "every other pair of the batch is a negative: that is the loss",
    "keeps_dtype": "the loss is in float32 or wider; a spec of its own asks for it",
}
_PAIRED = {
    "batch_independent": "each image is compared with all texts",
    "batch_independent_in_eval": "each image is compared with all texts",
}

CASES = [
    Case(
        item="clip",
        name="TextTransformer",
        build=text,
        inputs=lambda: (TOKENS,),
        bad=_BAD,
        exempt={"every_parameter_receives_gradient": "a token or a position after each end has no influence"},
    ),
    Case(item="clip", name="VisionTransformer", build=vision, inputs=lambda: (random(3, 2, 4, 4),)),
    Case(
        item="clip",
        name="CLIP",
        build=small,
        inputs=lambda: (random(2, 4), random(3, 5)),
        exempt=_PAIRED | {"empty_batch_is_defined": "no images and three texts are (0, 3), which has no samples"},
    ),
    Case(
        item="clip",
        name="CLIP.loss",
        build=Loss,
        inputs=lambda: (random(3, 4), random(3, 5)),
        exempt=_BATCH | {"from_scratch": "the class that is called is defined here; the records above are checked"},
    ),
    Case(
        item="clip",
        name="clip_loss",
        build=lambda: clip_loss,
        inputs=lambda: (random(3, 4), random(3, 4, seed=1)),
        exempt=_BATCH,
        is_function=True,
    ),
    Case(item="clip", name="quick_gelu", build=lambda: quick_gelu, inputs=lambda: (random(3, 4),), is_function=True),
]


_BLOCK = {
    "self_attn.in_proj_weight": "(3 * width, width)",
    "self_attn.in_proj_bias": "(3 * width,)",
    "self_attn.out_proj.weight": "(width, width)",
    "self_attn.out_proj.bias": "(width,)",
    "linear1.weight": "(4 * width, width)",
    "linear1.bias": "(4 * width,)",
    "linear2.weight": "(width, 4 * width)",
    "linear2.bias": "(width,)",
    "norm1.weight": "(width,)",
    "norm1.bias": "(width,)",
    "norm2.weight": "(width,)",
    "norm2.bias": "(width,)",
}
_BLOCKS = {f"blocks.0.{name}": shape for name, shape in _BLOCK.items()} | {"projection": "(width, embed_dim)"}

CONTRACTS = [
    Contract(
        item="clip",
        name="TextTransformer",
        of=TextTransformer,
        calls=({"vocab_size": 11, "context_length": 5, "width": 6, "layers": 1, "heads": 2, "embed_dim": 3},),
        ranges={"vocab_size": "int >= 1", "context_length": "int >= 1", "layers": "int >= 1", "embed_dim": "int >= 1"},
        state={
            "token_embedding.weight": "(vocab_size, width)",
            "positional_embedding": "(context_length, width)",
            "ln_final.weight": "(width,)",
            "ln_final.bias": "(width,)",
        }
        | _BLOCKS,
    ),
    Contract(
        item="clip",
        name="VisionTransformer",
        of=VisionTransformer,
        calls=({"image_size": 4, "patch_size": 2, "width": 6, "layers": 1, "heads": 3, "embed_dim": 3, "channels": 2},),
        ranges={"patch_size": "int >= 1", "layers": "int >= 1", "embed_dim": "int >= 1"},
        state={
            "patches.weight": "(width, channels, patch_size, patch_size)",
            "class_embedding": "(width,)",
            "positional_embedding": "((image_size // patch_size) ** 2 + 1, width)",
            "ln_pre.weight": "(width,)",
            "ln_pre.bias": "(width,)",
            "ln_post.weight": "(width,)",
            "ln_post.bias": "(width,)",
        }
        | _BLOCKS,
    ),
    Contract(
        item="clip",
        name="CLIP",
        of=CLIP,
        calls=({"image_encoder": Fresh(lambda: nn.Linear(4, 3)), "text_encoder": Fresh(lambda: nn.Linear(5, 3))},),
        ranges={"temperature": "(0, inf)", "max_scale": "(0, inf]"},
        attributes={
            "image_encoder": "the encoder of images, as it was given; its state has that prefix",
            "text_encoder": "the encoder of texts, likewise",
            "logit_scale": "t, the logarithm of the scale; a parameter of no dimension",
        },
    ),
    Contract(
        item="clip",
        name="clip_loss",
        of=clip_loss,
        calls=({"images": random(3, 4), "texts": random(3, 4, seed=1)},),
    ),
]
