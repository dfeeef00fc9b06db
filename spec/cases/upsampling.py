"""Cases of upsampling."""

import torch

from impl.layers.upsampling import Upsample
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double


def _bad(call, *mentions):
    return Bad(call=call, mentions=mentions)


def _case(name, bad=None, **arguments):
    return Case(
        item="dilated-conv",
        name=name,
        build=lambda: Upsample(**arguments),
        inputs=lambda: (torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)),),
        bad=bad or {},
        exempt={"every_parameter_receives_gradient": "it has no parameters"},
    )


CASES = [
    _case(
        "Upsample, nearest",
        scale_factor=(2.5, 3),
        bad={
            "no size at all": _bad(lambda: Upsample(), "size", "None"),
            "two sizes": _bad(lambda: Upsample(size=4, scale_factor=2.0), "scale_factor", "4", "2.0"),
            "an empty image": _bad(lambda: Upsample(size=(4, 0)), "size", "(4, 0)"),
            "no scale": _bad(lambda: Upsample(scale_factor=0.0), "scale_factor", "0.0"),
            "three scales": _bad(lambda: Upsample(scale_factor=(2.0, 2.0, 2.0)), "scale_factor", "(2.0, 2.0, 2.0)"),
            "corners of the nearest": _bad(lambda: Upsample(size=4, align_corners=True), "align_corners", "True"),
            "3 dimensions": _bad(lambda: Upsample(size=4)(torch.randn(2, 5, 5)), "4", "(2, 5, 5)"),
            "no pixels": _bad(lambda: Upsample(size=4)(torch.randn(2, 3, 5, 0)), "(2, 3, 5, 0)"),
            "nothing left": _bad(lambda: Upsample(scale_factor=0.3)(torch.randn(2, 3, 5, 3)), "0.3", "3"),
        },
    ),
    _case("Upsample, bilinear", size=(7, 3), mode="bilinear", align_corners=False),
    _case("Upsample, aligned corners", scale_factor=2, mode="bilinear", align_corners=True),
]


CONTRACTS = [
    Contract(
        item="dilated-conv",
        name="Upsample",
        of=Upsample,
        calls=(
            {"size": (7, 3)},
            {"scale_factor": (2.5, 3)},
            {"scale_factor": 2, "mode": "bilinear"},
            {"size": 9, "mode": "bilinear", "align_corners": True},
        ),
        ranges={"size": "int >= 1", "mode": "'nearest', 'bilinear'"},
        library="torch.nn.Upsample",
        inputs=lambda arguments: (double(2, 3, 4, 5),),
    ),
]
