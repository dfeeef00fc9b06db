"""Cases of YOLO, and the boxes and canvases that its specs use."""

from functools import wraps

import torch

from impl.models.yolo import (
    YOLO,
    Darknet53,
    YOLOv3,
    anchor_clusters,
    anchor_targets,
    average_precision,
    box_iou,
    decode_anchors,
    decode_grid,
    detections,
    encode_anchors,
    grid_targets,
    mean_average_precision,
    non_max_suppression,
    prior_grid,
    to_centres,
    to_corners,
    true_positives,
    yolo_loss,
    yolov3_loss,
)
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh, affine, linear
from spec.laws import double, random, reseed

_STAGES = (((3, 4, 2),), ((1, 2, 1), (3, 3, 1)))
_V1 = {"image_size": (4, 8), "grid": 2, "boxes": 3, "num_classes": 3, "stages": _STAGES, "hidden": 5, "channels": 2}
# Shapes for images of 64 × 32 pixels.
SHAPES = (((40, 24), (20, 44)), ((12, 20), (24, 10)), ((8, 6), (5, 12)))


def yolo(**options):
    reseed(0)
    return YOLO(**_V1 | {"dropout": 0.0} | options)


def yolov3(**options):
    reseed(0)
    return YOLOv3(
        **{"num_classes": 3, "width": 2, "depths": (1, 0, 0, 0, 0), "anchors": SHAPES, "channels": 2} | options
    )


def trunk(depths=(1, 0, 2, 0, 0)):
    reseed(0)
    return Darknet53(1, depths, channels=2)


def priors(dtype=torch.float64):
    """All 252 of two images' sides."""
    return prior_grid(64, 32, SHAPES).to(dtype)


def one_hot(labels, count, dtype=torch.float64):
    """A row of zeros for −1."""
    return (torch.as_tensor(labels)[..., None] == torch.arange(count)).to(dtype)


def random_boxes(n, seed=0, size=1.0):
    """Corners (n, 4) of boxes that often overlap, float64."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 0.7
    extent = 0.1 + torch.rand(n, 2, generator=generator, dtype=torch.float64) * 0.5
    return torch.cat([low, low + extent], dim=1) * size


def _objects():
    """Boxes (2, 3, 4) as centre and size, and classes (2, 3, 4): sixteenths, so that every dtype has them exactly."""
    boxes = [[[3, 9, 4, 9], [12, 2, 6, 3], [10, 14, 5, 8]], [[7, 7, 9, 4], [14, 13, 3, 2], [2, 12, 4, 12]]]
    return torch.tensor(boxes) / 16, one_hot([[2, 0, 3], [1, 3, 0]], 4, torch.float32)


def _pixels():
    boxes, classes = _objects()
    return boxes * torch.tensor([32.0, 64, 32, 64]), classes


def _targets():
    rows = torch.zeros(2, 3, 3, 9)
    rows[0, 0, 1] = torch.tensor([0.25, 0.5, 0.75, 0.5, 1, 0, 1, 0, 0])
    rows[0, 2, 2] = torch.tensor([0.5, 0.125, 0.5, 0.25, 1, 0, 0, 0, 1])
    rows[1, 1, 0] = torch.tensor([0.75, 0.5, 0.5, 0.875, 1, 1, 0, 0, 0])
    return rows


def _predictions():
    return torch.rand(2, 3, 3, 14, generator=torch.Generator().manual_seed(1))


def _v3_targets(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(2, 6, 8, generator=generator)
    rows[..., 4:] = (rows[..., 4:] > 0.5).float()
    return rows.to(dtype)


def _with_priors(function):
    @wraps(function)
    def call(*boxes):
        return function(*boxes, priors().to(boxes[0]))

    return call


def _with(function, **options):
    @wraps(function)
    def call(*inputs):
        return function(*inputs, **options)

    return call


def _scored():
    boxes = random_boxes(7).float()
    return boxes, torch.tensor([0.5, 0.9, 0.2, 0.7, 0.4, 0.8, 0.1])


def _ignored():
    return torch.tensor([[True, False, False, False, True, False], [False, False, True, False, False, False]])


_BOXES_COUPLED = "boxes are compared with one another"
_ON_DATA = "how many boxes remain depends on the data"
_SORTED = {
    "batch_independent": _BOXES_COUPLED,
    "batch_independent_in_eval": _BOXES_COUPLED,
    "works_on_meta": _ON_DATA,
    "compiles": _ON_DATA,
    "transforms": _ON_DATA,
    "gradient_correct": "indices have no derivative",
    "accepts_non_contiguous": "its comparison of gradients needs an output that has some; a spec asks for views",
    "inputs_not_mutated": "its comparison of gradients needs an output that has some; a spec asks for it",
    "may_be_changed_in_place": "indices have no gradient",
    "dispatch_is_from_scratch": "indices have no gradient",
    "works_under_autocast": "indices have no gradient",
}
_COUPLED = {"batch_independent": "batch normalization couples the images of a batch in training, as in the paper"}
_DEEP = {
    "gradient_correct": "layers that have their own records, in a row; a Jacobian of thousands of columns",
    "works_under_autocast": "rounding to bfloat16 moves activations across their kink; YOLO and the layers are asked",
}
_NOT_SQUARE = Bad(call=lambda: decode_grid(random(2, 3, 4, 14)), mentions=("(2, 3, 4, 14)",))

CASES = [
    Case(
        item="yolo",
        name="YOLO",
        build=yolo,
        inputs=lambda: (random(3, 2, 4, 8),),
        bad={
            "another size": Bad(call=lambda: yolo()(random(3, 2, 8, 4)), mentions=("(4, 8)", "(3, 2, 8, 4)")),
            "other channels": Bad(call=lambda: yolo()(random(3, 1, 4, 8)), mentions=("2", "(3, 1, 4, 8)")),
            "an image that a pool leaves nothing of": Bad(call=lambda: yolo(image_size=(8, 2)), mentions=("(8, 2)",)),
            "no stage": Bad(call=lambda: yolo(stages=()), mentions=("0",)),
        },
    ),
    Case(
        item="yolo",
        name="grid_targets",
        build=lambda: _with(grid_targets, grid=3),
        inputs=_objects,
        is_function=True,
        bad={
            "no cell": Bad(call=lambda: grid_targets(*_objects(), 0), mentions=("0",)),
            "corners of one more object": Bad(
                call=lambda: grid_targets(random(2, 4, 4), random(2, 3, 5), 3), mentions=("(2, 4, 4)", "(2, 3, 5)")
            ),
            "boxes of an image alone": Bad(
                call=lambda: grid_targets(random(4, 4), random(4, 5), 3), mentions=("(4, 4)",)
            ),
        },
    ),
    Case(
        item="yolo",
        name="yolo_loss",
        build=lambda: yolo_loss,
        inputs=lambda: (_predictions(), _targets()),
        is_function=True,
        exempt={"gradient_correct": "the IoU is a constant; a spec compares with the loss of a frozen one"},
        bad={
            "targets of other classes": Bad(
                call=lambda: yolo_loss(_predictions(), _targets()[..., :8]), mentions=("(2, 3, 3, 9)", "(2, 3, 3, 8)")
            ),
            "more boxes than fit": Bad(
                call=lambda: yolo_loss(_predictions(), _targets(), boxes=3), mentions=("15", "(2, 3, 3, 14)")
            ),
            "one image alone": Bad(call=lambda: yolo_loss(_predictions()[0], _targets()[0]), mentions=("(3, 3, 14)",)),
        },
    ),
    Case(
        item="yolo",
        name="decode_grid",
        build=lambda: decode_grid,
        inputs=lambda: (_predictions(),),
        is_function=True,
        bad={"not square": _NOT_SQUARE},
    ),
    Case(
        item="yolo",
        name="box_iou",
        build=lambda: box_iou,
        inputs=lambda: (random_boxes(5).float(), random_boxes(5, 1).float()),
        is_function=True,
        bad={
            "three coordinates": Bad(call=lambda: box_iou(random(2, 3), random(2, 4)), mentions=("(2, 3)",)),
            "three coordinates, second": Bad(call=lambda: box_iou(random(2, 4), random(2, 3)), mentions=("(2, 3)",)),
        },
    ),
    Case(
        item="yolo",
        name="to_corners",
        build=lambda: to_corners,
        inputs=lambda: (random(2, 3, 4),),
        is_function=True,
        bad={"three coordinates": Bad(call=lambda: to_corners(random(2, 3)), mentions=("(2, 3)",))},
    ),
    Case(
        item="yolo",
        name="to_centres",
        build=lambda: to_centres,
        inputs=lambda: (random(2, 3, 4),),
        is_function=True,
        bad={"three coordinates": Bad(call=lambda: to_centres(random(2, 3)), mentions=("(2, 3)",))},
    ),
    Case(
        item="yolo",
        name="Darknet53",
        build=lambda: trunk((0, 0, 1, 0, 0)),
        inputs=lambda: (random(2, 2, 64, 32),),
        exempt=_COUPLED | _DEEP,
        bad={"four stages": Bad(call=lambda: Darknet53(1, (1, 1, 1, 1)), mentions=("(1, 1, 1, 1)",))},
    ),
    Case(
        item="yolo",
        name="YOLOv3",
        build=yolov3,
        inputs=lambda: (random(2, 2, 64, 32),),
        exempt=_COUPLED
        | _DEEP
        | {"compiles": "its trunk is asked: tracing 40 blocks takes longer than all other specs"},
        bad={
            "a side that 32 does not divide": Bad(
                call=lambda: yolov3()(random(2, 2, 64, 40)), mentions=("32", "(2, 2, 64, 40)")
            ),
            "shapes of two strides": Bad(call=lambda: yolov3(anchors=SHAPES[:2]), mentions=("40",)),
            "more shapes for one stride": Bad(
                call=lambda: yolov3(anchors=(*SHAPES[:2], SHAPES[2][:1])), mentions=("40",)
            ),
        },
    ),
    Case(
        item="yolo",
        name="decode_anchors",
        build=lambda: _with_priors(decode_anchors),
        inputs=lambda: (random(2, 84, 4),),
        is_function=True,
        bad={
            "three coordinates": Bad(call=lambda: decode_anchors(random(84, 3), priors()), mentions=("(84, 3)",)),
            "priors without a stride": Bad(call=lambda: decode_anchors(random(3, 4), random(3, 4)), mentions=("5",)),
        },
    ),
    Case(
        item="yolo",
        name="encode_anchors",
        build=lambda: _with_priors(encode_anchors),
        inputs=lambda: (decode_anchors(random(2, 84, 4), priors(torch.float32)),),
        is_function=True,
        exempt=dict.fromkeys(
            ("keeps_dtype", "works_under_autocast"), "bfloat16 has no pixels of a cell: their logits are of rounding"
        )
        | dict.fromkeys(
            ("batch_independent", "batch_independent_in_eval"),
            "another sample of the law's has its centres in other cells, where there is no logit",
        ),
        bad={"three coordinates": Bad(call=lambda: encode_anchors(random(84, 3), priors()), mentions=("(84, 3)",))},
    ),
    Case(
        item="yolo",
        name="anchor_targets",
        build=lambda: _with_priors(anchor_targets),
        inputs=_pixels,
        is_function=True,
        bad={
            "boxes of an image alone": Bad(
                call=lambda: anchor_targets(random(4, 4), random(4, 5), priors()), mentions=("(4, 4)",)
            ),
            "classes of other objects": Bad(
                call=lambda: anchor_targets(random(2, 4, 4), random(2, 3, 5), priors()), mentions=("(2, 3, 5)",)
            ),
            "priors without a stride": Bad(
                call=lambda: anchor_targets(*_pixels(), priors()[:, :4].float()), mentions=("5",)
            ),
        },
    ),
    Case(
        item="yolo",
        name="yolov3_loss",
        build=lambda: yolov3_loss,
        inputs=lambda: (random(2, 6, 8), _v3_targets(), _ignored()),
        is_function=True,
        bad={
            "other targets": Bad(
                call=lambda: yolov3_loss(random(2, 6, 8), random(2, 6, 7), _ignored()), mentions=("(2, 6, 7)",)
            ),
            "other priors": Bad(
                call=lambda: yolov3_loss(random(2, 6, 8), random(2, 6, 8), _ignored()[:, :5]), mentions=("(2, 5)",)
            ),
        },
    ),
    Case(
        item="yolo",
        name="anchor_clusters",
        build=lambda: anchor_clusters,
        inputs=lambda: (random(9, 2).abs() + 0.25, torch.tensor([[0.5, 1.0], [1.5, 0.75], [1.0, 2.0]]), 2),
        is_function=True,
        exempt={
            "batch_independent": "sizes are a set, of which means are taken",
            "batch_independent_in_eval": "sizes are a set, of which means are taken",
            "empty_batch_is_defined": "without sizes the shapes are unchanged",
        },
        bad={
            "no step": Bad(call=lambda: anchor_clusters(random(9, 2), random(3, 2), 0), mentions=("0",)),
            "boxes": Bad(call=lambda: anchor_clusters(random(9, 4), random(3, 2)), mentions=("(9, 4)",)),
        },
    ),
    Case(
        item="yolo",
        name="non_max_suppression",
        build=lambda: non_max_suppression,
        inputs=lambda: (*_scored(), 0.3),
        is_function=True,
        exempt=_SORTED,
        bad={
            "a score too few": Bad(
                call=lambda: non_max_suppression(random_boxes(4), double(3)), mentions=("(4, 4)", "(3,)")
            ),
            "three coordinates": Bad(call=lambda: non_max_suppression(double(4, 3), double(4)), mentions=("(4, 3)",)),
        },
    ),
    Case(
        item="yolo",
        name="detections",
        build=lambda: detections,
        inputs=lambda: (random_boxes(6).float(), random_boxes(6, 3).float()[:, :3]),
        is_function=True,
        exempt=_SORTED | {"keeps_dtype": "which boxes remain is no continuous function of their scores"},
    ),
    Case(
        item="yolo",
        name="true_positives",
        build=lambda: true_positives,
        inputs=lambda: (random_boxes(5).float(), random_boxes(4, 1).float(), 0.25),
        is_function=True,
        exempt=_SORTED,
    ),
    Case(
        item="yolo",
        name="average_precision",
        build=lambda: average_precision,
        inputs=lambda: (_scored()[1], torch.tensor([True, False, True, False, True, True, False]), 6, 11),
        is_function=True,
        exempt=_SORTED,
        bad={
            "no object": Bad(call=lambda: average_precision(double(2), torch.ones(2).bool(), 0), mentions=("0",)),
            "one recall": Bad(call=lambda: average_precision(double(2), torch.ones(2).bool(), 3, 1), mentions=("1",)),
        },
    ),
    Case(
        item="yolo",
        name="mean_average_precision",
        build=lambda: _with(mean_average_precision, thresholds=(0.25, 0.5)),
        inputs=lambda: (
            [(random_boxes(4).float(), torch.tensor([0.9, 0.3, 0.6, 0.5]), torch.tensor([0, 1, 1, 0]))],
            [(random_boxes(3).float(), torch.tensor([0, 1, 1]))],
        ),
        is_function=True,
        exempt=_SORTED,
        bad={
            "truths of fewer images": Bad(
                call=lambda: mean_average_precision([], [(random_boxes(1), torch.tensor([0]))]), mentions=("0", "1")
            ),
            "no object": Bad(
                call=lambda: mean_average_precision(
                    [(random_boxes(1), double(1), torch.tensor([0]))],
                    [(random_boxes(1)[:0], torch.tensor([], dtype=torch.int64))],
                ),
                mentions=("1",),
            ),
        },
    ),
]


_SIZES = {"grid": "int >= 1", "boxes": "int >= 1", "num_classes": "int >= 1", "hidden": "int >= 1"}


def _convolution(name, out, before, kernel):
    return {f"{name}.weight": f"({out}, {before}, {kernel}, {kernel})", f"{name}.bias": f"({out},)"}


def _block(name, out, before, kernel):
    state = {f"{name}.convolution.weight": f"({out}, {before}, {kernel}, {kernel})"} | affine(f"{name}.norm", out)
    state |= {f"{name}.norm.running_{what}": f"({out},)" for what in ("mean", "var")}
    return state | {f"{name}.norm.num_batches_tracked": "()"}


def _trunk(name, depths):
    state = _block(f"{name}first", "width", "channels", 3)
    for n, depth in enumerate(depths):
        out, half = f"width * {2 ** (n + 1)}", f"width * {2**n}"
        state |= _block(f"{name}stages.{n}.0", out, half, 3)
        for k in range(1, depth + 1):
            state |= _block(f"{name}stages.{n}.{k}.narrow", half, out, 1)
            state |= _block(f"{name}stages.{n}.{k}.wide", out, half, 3)
    return state


def _scales(count):
    state = {}
    for n, scale in enumerate((16, 8, 4)):
        w, double, last = f"width * {scale}", f"width * {2 * scale}", f"{count} * (5 + num_classes)"
        sizes = (f"width * {scale * 3}" if n else double, w, double, w, double, w)
        for k, (before, after) in enumerate(zip(sizes, sizes[1:])):
            state |= _block(f"necks.{n}.{k}", after, before, 3 if k % 2 else 1)
        state |= _block(f"heads.{n}.0", double, w, 3) | _convolution(f"heads.{n}.1", last, double, 1)
        if n:
            state |= _block(f"routes.{n - 1}", w, double, 1)
    return state


CONTRACTS = [
    Contract(
        item="yolo",
        name="YOLO",
        of=YOLO,
        calls=(_V1,),
        ranges=_SIZES | {"dropout": "[0, 1)"},
        state=_convolution("stages.0.0", "stages[0][0][1]", "channels", "stages[0][0][0]")
        | _convolution("stages.1.0", "stages[1][0][1]", "stages[0][0][1]", "stages[1][0][0]")
        | _convolution("stages.1.1", "stages[1][1][1]", "stages[1][0][1]", "stages[1][1][0]")
        | linear("hidden", "hidden", "stages[1][1][1] * 1 * 2")
        | linear("output", "grid**2 * (5 * boxes + num_classes)", "hidden"),
    ),
    Contract(
        item="yolo",
        name="grid_targets",
        of=grid_targets,
        calls=({"boxes": Fresh(lambda: _objects()[0]), "classes": Fresh(lambda: _objects()[1]), "grid": 3},),
        ranges={"grid": "int >= 1"},
    ),
    Contract(
        item="yolo",
        name="yolo_loss",
        of=yolo_loss,
        calls=({"predictions": Fresh(_predictions), "targets": Fresh(_targets)},),
        ranges={"lambda_coord": "[0, inf)", "lambda_noobj": "[0, inf)"},
    ),
    Contract(item="yolo", name="decode_grid", of=decode_grid, calls=({"predictions": Fresh(_predictions)},)),
    Contract(
        item="yolo",
        name="Darknet53",
        of=Darknet53,
        calls=({"width": 1, "depths": (1, 0, 2, 0, 0), "channels": 2},),
        ranges={"width": "int >= 1", "channels": "int >= 1"},
        state=_trunk("", (1, 0, 2, 0, 0)),
    ),
    Contract(
        item="yolo",
        name="YOLOv3",
        of=YOLOv3,
        calls=({"num_classes": 3, "width": 2, "depths": (1, 0, 0, 0, 0), "anchors": SHAPES, "channels": 2},),
        ranges={"num_classes": "int >= 1", "width": "int >= 1", "channels": "int >= 1"},
        state=_trunk("trunk.", (1, 0, 0, 0, 0)) | _scales(2),
    ),
    Contract(
        item="yolo",
        name="prior_grid",
        of=prior_grid,
        calls=({"height": 64, "width": 32, "anchors": SHAPES},),
    ),
    Contract(item="yolo", name="decode_anchors", of=decode_anchors),
    Contract(item="yolo", name="encode_anchors", of=encode_anchors),
    Contract(item="yolo", name="anchor_targets", of=anchor_targets),
    Contract(item="yolo", name="yolov3_loss", of=yolov3_loss),
    Contract(
        item="yolo",
        name="anchor_clusters",
        of=anchor_clusters,
        calls=({"sizes": Fresh(lambda: double(5, 2).abs()), "anchors": Fresh(lambda: double(2, 2, seed=1).abs())},),
        ranges={"steps": "int >= 1"},
    ),
    Contract(
        item="yolo",
        name="non_max_suppression",
        of=non_max_suppression,
        calls=({"boxes": Fresh(lambda: random_boxes(3)), "scores": Fresh(lambda: double(3))},),
        ranges={"threshold": "[0, 1]"},
    ),
    Contract(
        item="yolo",
        name="detections",
        of=detections,
        calls=({"boxes": Fresh(lambda: random_boxes(3)), "scores": Fresh(lambda: double(3, 2))},),
        ranges={"threshold": "[0, 1]"},
    ),
    Contract(
        item="yolo",
        name="average_precision",
        of=average_precision,
        calls=({"scores": Fresh(lambda: double(3)), "matched": Fresh(lambda: torch.ones(3).bool()), "objects": 4},),
        ranges={"objects": "int >= 1", "points": "int >= 2"},
    ),
]
