"""Cases of PointNet++."""

from impl.models.pointnet2 import (
    FeaturePropagation,
    GlobalAbstraction,
    PointNet2,
    PointNet2Segmentation,
    SetAbstraction,
    ball_query,
    drop_points,
    farthest_point_sample,
    interpolate,
)
from spec.cases import Bad, Case
from spec.cases.pointnet import cloud, mlp
from spec.contract import Contract, linear
from spec.laws import reseed

LEVELS = ((5, (0.8, 1.6), (3, 4), ((2, 3), (4,))), (2, (2.5,), (3,), ((5,),)))
SMALL = {"levels": LEVELS, "in_channels": 2, "mlp": (4, 6)}
ABSTRACTION = {"count": 3, "radii": (0.9, 1.5), "most": (2, 4), "in_channels": 2, "mlps": ((5, 4), (3,))}


def model(**options):
    reseed(0)
    return PointNet2(**{"num_classes": 4, "hidden": (5,)} | SMALL | options)


def segmentation(**options):
    reseed(1)
    return PointNet2Segmentation(**{"num_classes": 4, "propagation": ((5,), (4, 3), (3,))} | SMALL | options)


def abstraction(**options):
    reseed(2)
    return SetAbstraction(**ABSTRACTION | options)


def _inputs():
    return cloud(2, 7, 3), cloud(2, 7, 2, seed=1)


_COUPLED = {"batch_independent": "batch normalization couples the clouds of a batch in training, as in PointNet"}
_CANCELLED = {
    "every_parameter_receives_gradient": "batch normalization takes the bias before it away in training; a spec asks "
    "in evaluation, where it counts"
}
_EXEMPT = _COUPLED | _CANCELLED
_PARTS = _EXEMPT | {"gradient_correct": "a chain of parts that have their own record"}
_CHOICES = {"works_under_autocast": "where bfloat16 makes a tie of a maximum, its gradient goes elsewhere"}

CASES = [
    Case(
        item="pointnet2",
        name="PointNet2",
        build=model,
        inputs=_inputs,
        bad={
            "no feature": Bad(call=lambda: model()(cloud(2, 7, 3)), mentions=("(2, 7, 2)", "None")),
            "features of another width": Bad(
                call=lambda: model()(cloud(2, 7, 3), cloud(2, 7, 3)), mentions=("(2, 7, 3)",)
            ),
            "points in the plane": Bad(call=lambda: model()(cloud(2, 7, 2), cloud(2, 7, 2)), mentions=("(2, 7, 2)",)),
            "fewer points than centres": Bad(call=lambda: model()(cloud(2, 4, 3), cloud(2, 4, 2)), mentions=("4", "5")),
        },
        exempt=_PARTS | _CHOICES,
    ),
    Case(
        item="pointnet2",
        name="PointNet2Segmentation",
        build=segmentation,
        inputs=_inputs,
        bad={"as many MLPs as levels": Bad(call=lambda: segmentation(propagation=((5,), (3,))), mentions=("3", "2"))},
        exempt=_PARTS | _CHOICES,
    ),
    Case(
        item="pointnet2",
        name="SetAbstraction, two scales",
        build=abstraction,
        inputs=_inputs,
        bad={
            "one radius for two scales": Bad(call=lambda: abstraction(radii=(1.0,)), mentions=("(1.0,)",)),
            "no scale": Bad(call=lambda: abstraction(radii=(), most=(), mlps=()), mentions=("()",)),
            "a radius of 0": Bad(call=lambda: abstraction(radii=(1.0, 0.0)), mentions=("0.0",)),
            "a ball of no point": Bad(call=lambda: abstraction(most=(2, 0)), mentions=("0",)),
            "an unasked feature": Bad(
                call=lambda: abstraction(in_channels=0)(cloud(2, 7, 3), cloud(2, 7, 2)), mentions=("(2, 7, 2)",)
            ),
        },
        exempt=_EXEMPT | _CHOICES,
    ),
    Case(
        item="pointnet2",
        name="GlobalAbstraction",
        build=lambda: reseed(3) or GlobalAbstraction(2, (5, 4)),
        inputs=_inputs,
        bad={
            "no point": Bad(
                call=lambda: GlobalAbstraction(2, (5, 4))(cloud(2, 0, 3), cloud(2, 0, 2)), mentions=("(2, 0, 3)",)
            )
        },
        exempt=_EXEMPT,
    ),
    Case(
        item="pointnet2",
        name="FeaturePropagation",
        build=lambda: reseed(4) or FeaturePropagation(6, (5, 3)),
        inputs=lambda: (cloud(2, 7, 3), cloud(2, 4, 3, seed=1), cloud(2, 4, 4, seed=2), cloud(2, 7, 2, seed=3)),
        bad={
            "features of other points": Bad(
                call=lambda: FeaturePropagation(2, (3,))(cloud(2, 7, 3), cloud(2, 4, 3), cloud(2, 5, 2)),
                mentions=("(2, 4, 2)", "(2, 5, 2)"),
            ),
            "one more dimension": Bad(
                call=lambda: FeaturePropagation(2, (3,))(cloud(2, 7, 3), cloud(2, 4, 4), cloud(2, 4, 2)),
                mentions=("(2, 4, 4)",),
            ),
        },
        exempt=_EXEMPT,
    ),
    Case(
        item="pointnet2",
        name="interpolate",
        build=lambda: interpolate,
        inputs=lambda: (cloud(2, 7, 3), cloud(2, 4, 3, seed=1), cloud(2, 4, 5, seed=2)),
        is_function=True,
    ),
]

_ENCODER = (
    mlp("encoder.levels.0.mlps.0", "3 + in_channels", "2", "3")
    | mlp("encoder.levels.0.mlps.1", "3 + in_channels", "4")
    | mlp("encoder.levels.1.mlps.0", "10", "5")
    | mlp("encoder.whole.mlp", "8", "mlp[0]", "mlp[1]")
)
_RANGES = {"num_classes": "int >= 1", "dropout": "[0, 1)"}

CONTRACTS = [
    Contract(
        item="pointnet2",
        name="PointNet2",
        of=PointNet2,
        calls=({"num_classes": 4, "hidden": (5,)} | SMALL,),
        ranges=_RANGES,
        state=_ENCODER | mlp("hidden.0", "mlp[1]", "hidden[0]") | linear("last", "num_classes", "hidden[0]"),
    ),
    Contract(
        item="pointnet2",
        name="PointNet2Segmentation",
        of=PointNet2Segmentation,
        calls=({"num_classes": 4, "propagation": ((5,), (4, 3), (3,))} | SMALL,),
        ranges=_RANGES,
        state=_ENCODER
        | mlp("propagation.0.mlp", "mlp[1] + 5", "5")
        | mlp("propagation.1.mlp", "5 + 7", "4", "3")
        | mlp("propagation.2.mlp", "3 + in_channels", "3")
        | mlp("hidden", "3", "3")
        | linear("last", "num_classes", "3"),
    ),
    Contract(
        item="pointnet2",
        name="SetAbstraction",
        of=SetAbstraction,
        calls=(ABSTRACTION,),
        ranges={"count": "int >= 1", "in_channels": "int >= 0", "dimensions": "int >= 1"},
        state=mlp("mlps.0", "3 + in_channels", "5", "4") | mlp("mlps.1", "3 + in_channels", "3"),
    ),
    Contract(
        item="pointnet2",
        name="GlobalAbstraction",
        of=GlobalAbstraction,
        calls=({"in_channels": 2, "mlp": (5, 4)},),
        ranges={"in_channels": "int >= 0", "dimensions": "int >= 1"},
        state=mlp("mlp", "3 + in_channels", "5", "4"),
    ),
    Contract(
        item="pointnet2",
        name="FeaturePropagation",
        of=FeaturePropagation,
        calls=({"in_channels": 6, "mlp": (5, 3)},),
        ranges={"in_channels": "int >= 1"},
        state=mlp("mlp", "in_channels", "5", "3"),
    ),
    Contract(
        item="pointnet2",
        name="farthest_point_sample",
        of=farthest_point_sample,
        calls=({"points": cloud(2, 5, 3), "count": 3, "start": 1},),
        ranges={"count": "int in [1, 5]", "start": "int in [0, 4]"},
    ),
    Contract(
        item="pointnet2",
        name="ball_query",
        of=ball_query,
        calls=({"points": cloud(2, 5, 3), "centres": cloud(2, 2, 3), "radius": 1.0, "most": 3},),
        ranges={"radius": "(0, inf)", "most": "int >= 1"},
    ),
    Contract(
        item="pointnet2",
        name="interpolate",
        of=interpolate,
        calls=({"points": cloud(2, 5, 3), "known": cloud(2, 4, 3), "features": cloud(2, 4, 2)},),
    ),
    Contract(
        item="pointnet2",
        name="drop_points",
        of=drop_points,
        calls=({"points": cloud(2, 5, 3)},),
        ranges={"most": "[0, 1)"},
    ),
]
