"""Cases of DETR, and the sets of objects that its specs use."""

import torch
from torch import nn

from impl.models.detr import (
    DETR,
    box_iou,
    generalized_box_iou,
    hungarian_matching,
    image_positions,
    matching_cost,
    set_prediction_loss,
    to_centres,
    to_corners,
)
from spec import laws
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear
from spec.laws import double, random, reseed

SETTINGS = {
    "channels": 5,
    "num_classes": 3,
    "num_queries": 4,
    "d_model": 8,
    "nhead": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "dim_feedforward": 6,
    "dropout": 0.0,
}


class Patches(nn.Module):
    """A backbone whose features of 2 × 2 pixels are sums of those pixels, c channels to 5: no feature sees another's.

    The pixels at an odd last row or column are left out.
    """

    def __init__(self, channels: int = 2):
        super().__init__()
        self.weight = nn.Parameter(random(5, channels, 2, 2, seed=9))

    def forward(self, images):
        height, width = (n // 2 * 2 for n in images.shape[2:])
        tiles = images[:, :, :height, :width].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (b, c, h, 2, w, 2)
        return (tiles[:, None] * self.weight[:, :, None, :, None, :].to(tiles.dtype)).sum((2, 4, 6))


def detr(**options):
    reseed(0)
    return DETR(Patches(), **SETTINGS | options)


def trained(**options):
    """A DETR with random parameters of a size that keeps its units alive; float64, in evaluation."""
    model = detr(**options).double().eval()
    generator = torch.Generator().manual_seed(1)
    state = model.state_dict()
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if value.dim() == 1:
            state[name] = 0.5 * noise + (1 if "norm" in name and name.endswith("weight") else 0)
        else:
            state[name] = noise if name == "queries" else noise * value[0].numel() ** -0.5
    model.load_state_dict(state)
    return model


def corners(*shape: int, seed: int = 0, dtype=torch.float64):
    """Boxes with an area as (x₀, y₀, x₁, y₁), within about ±3."""
    low, size = laws.double(*shape, 2, seed=seed), 0.1 + laws.double(*shape, 2, seed=seed + 1).abs()
    return torch.cat([low, low + size], dim=-1).to(dtype)


def centres(*shape: int, seed: int = 0, dtype=torch.float64):
    """Boxes as (c_x, c_y, w, h) in (0, 1), as a sigmoid gives them."""
    return laws.double(*shape, 4, seed=seed).sigmoid().to(dtype)


LABELS = torch.tensor([[2, 0, 1], [1, 3, 3]])  # of 3 classes: three objects in one image, one in the other


def sets(seed: int = 0, dtype=torch.float64, images: int = 2, queries: int = 5, classes: int = 3):
    """Logits and boxes of predictions, far apart, and labels and boxes of objects."""
    labels = LABELS if images == 2 else LABELS[:1]
    logits = 2 * double(images, queries, classes + 1, seed=seed)
    return logits.to(dtype), centres(images, queries, seed=seed + 1, dtype=dtype), labels, targets(images, seed, dtype)


def targets(images: int = 2, seed: int = 0, dtype=torch.float64):
    return centres(images, 3, seed=seed + 2, dtype=dtype)


_A_SUM = {
    "batch_independent": "a mean over the batch",
    "batch_independent_in_eval": "a mean over the batch",
}
_FIRST = {
    "every_parameter_receives_gradient": "the first decoder layer's self-attention has nothing to mix: its objects are "
    "all 0, as in the paper; a spec says which parameters that spares"
}
_CHAIN = {"gradient_correct": "a Jacobian of hundreds of columns; a spec checks the loss in one direction"}
_OF_A_MASK = dict.fromkeys(
    (
        "gradient_correct",
        "inputs_not_mutated",
        "accepts_non_contiguous",
        "compiles",
        "transforms",
        "from_scratch",
    ),
    "its only tensor is a mask, which has no gradient; the records of DETR compile and run it",
)


def _loss(**changed):
    given = dict(zip(("logits", "boxes", "labels", "targets"), sets())) | changed
    return lambda: set_prediction_loss(**given)


def _single():
    return sets(dtype=torch.float32)


_BAD_SETS = {
    "boxes of another number": Bad(call=_loss(boxes=centres(2, 4)), mentions=("(2, 4, 4)",)),
    "boxes of three sides": Bad(call=_loss(targets=double(2, 3, 3)), mentions=("(2, 3, 3)",)),
    "labels of another batch": Bad(call=_loss(labels=LABELS[:1], targets=targets(1)), mentions=("(1, 3)",)),
    "targets of another number": Bad(call=_loss(targets=centres(2, 2)), mentions=("(2, 2, 4)",)),
    "more objects than predictions": Bad(
        call=_loss(logits=double(2, 2, 4), boxes=centres(2, 2)), mentions=("(2, 2, 4)", "(2, 3)")
    ),
    "no class but ∅": Bad(call=_loss(logits=double(2, 5, 1)), mentions=("(2, 5, 1)",)),
}

CASES = [
    Case(
        item="detr",
        name="DETR",
        build=detr,
        inputs=lambda: (random(3, 2, 4, 6),),
        bad={
            "an image without a batch": Bad(call=lambda: detr()(random(2, 4, 6)), mentions=("(2, 4, 6)",)),
            "an image without height": Bad(call=lambda: detr()(random(3, 2, 0, 6)), mentions=("(3, 2, 0, 6)",)),
            "a mask of another size": Bad(
                call=lambda: detr()(random(3, 2, 4, 6), torch.ones(3, 4, 4).bool()), mentions=("(3, 4, 4)",)
            ),
            "a mask of numbers": Bad(call=lambda: detr()(random(3, 2, 4, 6), torch.ones(3, 4, 6)), mentions=("float",)),
            "features of other channels": Bad(
                call=lambda: detr(channels=4)(random(3, 2, 4, 6)), mentions=("4", "(3, 5, 2, 3)")
            ),
            "a width that 4 does not divide": Bad(call=lambda: detr(d_model=6), mentions=("6",)),
            "heads that do not divide": Bad(call=lambda: detr(nhead=3), mentions=("3", "8")),
        },
        exempt=_FIRST | _CHAIN,
    ),
    Case(
        item="detr",
        name="DETR, padded images",
        build=lambda: detr(dropout=0.1, num_encoder_layers=2, num_decoder_layers=1),
        inputs=lambda: (random(2, 2, 5, 6), torch.arange(6) < torch.tensor([4, 6])[:, None, None].expand(-1, 5, 1)),
        exempt=_FIRST | _CHAIN,
    ),
    Case(
        item="detr",
        name="set_prediction_loss",
        build=lambda: set_prediction_loss,
        inputs=_single,
        bad=_BAD_SETS
        | {
            "no predictions": Bad(
                call=_loss(logits=double(2, 0, 4), boxes=centres(2, 0), labels=LABELS[:, :0], targets=centres(2, 0)),
                mentions=("(2, 0, 4)",),
            )
        },
        is_function=True,
        exempt=_A_SUM,
    ),
    Case(item="detr", name="matching_cost", build=lambda: matching_cost, inputs=_single, is_function=True),
    Case(
        item="detr",
        name="hungarian_matching",
        build=lambda: hungarian_matching,
        inputs=lambda: (random(2, 3, 4),),
        bad={
            "more rows than columns": Bad(call=lambda: hungarian_matching(random(2, 4, 3)), mentions=("(2, 4, 3)",)),
            "one matrix": Bad(call=lambda: hungarian_matching(random(3, 4)), mentions=("(3, 4)",)),
        },
        is_function=True,
        exempt={"gradient_correct": "columns are integers"},
    ),
    Case(
        item="detr",
        name="image_positions",
        build=lambda: image_positions,
        inputs=lambda: (torch.arange(5) < torch.tensor([3, 5])[:, None, None].expand(-1, 4, 1), 8),
        bad={"a width that 4 does not divide": Bad(call=lambda: image_positions(torch.ones(2, 4, 5).bool(), 6))},
        is_function=True,
        exempt=_OF_A_MASK | {"keeps_dtype": "float64, whatever the mask's"},
    ),
    *(
        Case(
            item="detr",
            name=of.__name__,
            build=lambda of=of: of,
            inputs=lambda: (corners(3, 2, dtype=torch.float32), corners(3, 2, seed=5, dtype=torch.float32)),
            bad={
                "three sides": Bad(call=lambda of=of: of(random(2, 3), corners(2)), mentions=("(2, 3)",)),
                "three sides of the second": Bad(call=lambda of=of: of(corners(2), random(2, 3)), mentions=("(2, 3)",)),
            },
            is_function=True,
        )
        for of in (box_iou, generalized_box_iou)
    ),
    *(
        Case(
            item="detr",
            name=of.__name__,
            build=lambda of=of: of,
            inputs=lambda: (random(3, 2, 4),),
            bad={"three sides": Bad(call=lambda of=of: of(random(2, 3)), mentions=("(2, 3)",))},
            is_function=True,
        )
        for of in (to_corners, to_centres)
    ),
]


def _attention(name: str) -> dict[str, str]:
    state = {f"{name}.{part}_proj_weight": "(d_model, d_model)" for part in "qkv"}
    return state | {f"{name}.in_proj_bias": "(3 * d_model,)"} | linear(f"{name}.out_proj", "d_model", "d_model")


def _layer(name: str, attentions: tuple[str, ...]) -> dict[str, str]:
    state = {}
    for number, attention in enumerate(attentions):
        state |= _attention(f"{name}.{attention}") | affine(f"{name}.norm{number + 1}", "d_model")
    state |= linear(f"{name}.feed_forward.linear1", "dim_feedforward", "d_model")
    state |= linear(f"{name}.feed_forward.linear2", "d_model", "dim_feedforward")
    return state | affine(f"{name}.norm{len(attentions) + 1}", "d_model")


CONTRACTS = [
    Contract(
        item="detr",
        name="DETR",
        of=DETR,
        calls=({"backbone": Patches()} | SETTINGS | {"num_decoder_layers": 1},),
        ranges={
            "channels": "int >= 1",
            "num_classes": "int >= 1",
            "num_queries": "int >= 1",
            "nhead": "int in [1, 2]",
            "num_encoder_layers": "int >= 0",
            "num_decoder_layers": "int >= 1",
            "dim_feedforward": "int >= 1",
            "dropout": "[0, 1)",
        },
        state={"backbone.weight": "(5, 2, 2, 2)", "queries": "(num_queries, d_model)"}
        | {"input_proj.weight": "(d_model, channels, 1, 1)", "input_proj.bias": "(d_model,)"}
        | _layer("encoder.0", ("self_attn",))
        | _layer("decoder.0", ("self_attn", "cross_attn"))
        | affine("decoder_norm", "d_model")
        | linear("class_head", "num_classes + 1", "d_model")
        | linear("box_head.0", "d_model", "d_model")
        | linear("box_head.1", "d_model", "d_model")
        | linear("box_head.2", "4", "d_model"),
        attributes={
            "every_layer": "a method of `forward`'s arguments: a list of its results after each decoder layer",
            "loss": "a method (images, labels, targets, mask=None): set_prediction_loss summed over the decoder layers",
        },
    ),
    Contract(
        item="detr",
        name="set_prediction_loss",
        of=set_prediction_loss,
        calls=(dict(zip(("logits", "boxes", "labels", "targets"), sets())),),
        ranges={"l1_weight": "[0, inf)", "giou_weight": "[0, inf)", "no_object_weight": "(0, inf)"},
    ),
]
