"""Cases of Segmenter."""

from impl.models.segmenter import LinearDecoder, MaskTransformer, Segmenter
from spec.cases import Bad, Case
from spec.cases.vit import block, vit
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


def linear_decoder():
    reseed(1)
    return LinearDecoder(4, 3)


def mask_transformer(**options):
    reseed(2)
    settings = {"width": 4, "num_classes": 3, "decoder_width": 6, "num_layers": 1, "num_heads": 2} | options
    module = MaskTransformer(**settings)
    module.classes.data.mul_(50)  # classes that are almost alike, as at first, have scores that rest on rounding
    return module


def encoder(**options):
    return vit(**{"hidden_dim": 4, "mlp_dim": 5, "num_layers": 1, "num_classes": None, "channels": 1} | options)


def segmenter(decoder=linear_decoder, **options):
    return Segmenter(encoder(**options), decoder())


_BAD = {
    "an image of other channels": Bad(call=lambda: segmenter()(random(2, 3, 4, 6)), mentions=("(2, 3, 4, 6)",)),
    "an image without a pixel": Bad(call=lambda: segmenter()(random(2, 1, 0, 6)), mentions=("(2, 1, 0, 6)",)),
    "states of another width": Bad(call=lambda: linear_decoder()(random(2, 6, 5)), mentions=("4", "5")),
    "states of another width, mask transformer": Bad(
        call=lambda: mask_transformer()(random(2, 6, 5)), mentions=("4", "(2, 6, 5)")
    ),
    "heads that do not divide": Bad(call=lambda: mask_transformer(num_heads=4), mentions=("4", "6")),
}

CASES = [
    Case(item="segmenter", name="Segmenter", build=segmenter, inputs=lambda: (random(2, 1, 4, 6),), bad=_BAD),
    Case(
        item="segmenter",
        name="Segmenter, padded, mask transformer",
        build=lambda: segmenter(mask_transformer),
        inputs=lambda: (random(2, 1, 3, 5),),
        exempt={"gradient_correct": "its parts have records of their own"},
    ),
    Case(item="segmenter", name="LinearDecoder", build=linear_decoder, inputs=lambda: (random(2, 5, 4),)),
    Case(item="segmenter", name="MaskTransformer", build=mask_transformer, inputs=lambda: (random(2, 5, 4),)),
]

CONTRACTS = [
    Contract(
        item="segmenter",
        name="Segmenter",
        of=Segmenter,
        calls=({"encoder": Fresh(encoder), "decoder": Fresh(linear_decoder)},),
        attributes={
            "encoder": "the encoder, as it was given; its state has that prefix",
            "decoder": "the decoder, likewise",
        },
    ),
    Contract(
        item="segmenter",
        name="LinearDecoder",
        of=LinearDecoder,
        calls=({"width": 4, "num_classes": 3},),
        ranges={"width": "int >= 1", "num_classes": "int >= 1"},
        state={"head.weight": "(num_classes, width)", "head.bias": "(num_classes,)"},
    ),
    Contract(
        item="segmenter",
        name="MaskTransformer",
        of=MaskTransformer,
        calls=({"width": 4, "num_classes": 3, "decoder_width": 6, "num_layers": 1, "num_heads": 2},),
        ranges={"width": "int >= 1", "num_classes": "int >= 1", "num_layers": "int >= 1", "num_heads": "int >= 1"},
        state={
            "input.weight": "(decoder_width, width)",
            "input.bias": "(decoder_width,)",
            "classes": "(num_classes, decoder_width)",
            "norm.weight": "(decoder_width,)",
            "norm.bias": "(decoder_width,)",
            "patch_projection": "(decoder_width, decoder_width)",
            "class_projection": "(decoder_width, decoder_width)",
            "score_norm.weight": "(num_classes,)",
            "score_norm.bias": "(num_classes,)",
        }
        | block("blocks.0", "decoder_width", "4 * decoder_width"),
    ),
]
