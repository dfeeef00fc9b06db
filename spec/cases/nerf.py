"""Cases of neural radiance fields."""

import torch
from torch import nn

from impl.models.nerf import (
    NeRF,
    get_rays,
    positional_encoding,
    render_rays,
    sample_pdf,
    stratified_samples,
    volume_render,
)
from spec.cases import Bad, Case
from spec.contract import Contract, linear
from spec.laws import random, reseed


def uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def nerf(**options):
    """Three hidden layers, the position again in front of the last."""
    reseed(0)
    return NeRF(**{"pos_freqs": 2, "dir_freqs": 1, "width": 6, "depth": 3, "skip": 2} | options)


class Pair(nn.Module):
    """Two networks that see the same rays; colours of both."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nerf(), nerf(pos_freqs=1)

    def forward(self, origins, directions):
        return [found[:3] for found in render_rays(self.coarse, self.fine, origins, directions, 0.5, 2.0, 5, 4)]


def along_rays(rays=2, n=5, seed=0, dtype=torch.float32):
    """rgb, σ, t and directions; densities that let some light through."""
    t = uniform(rays, n, seed=seed + 2, dtype=dtype).cumsum(-1) + 0.5
    rgb, sigma = uniform(rays, n, 3, seed=seed, dtype=dtype), uniform(rays, n, seed=seed + 1, dtype=dtype) * 3
    return rgb, sigma, t, random(rays, 3, seed=seed + 3, dtype=dtype)


def _pose():
    return torch.linalg.qr(random(3, 3)).Q, random(3, 1, seed=1)


_DEAD = {
    "every_parameter_receives_gradient": "at random weights the density may be 0 everywhere, and ReLU passes nothing; "
    "spec/properties/test_nerf.py asks it where it is not"
}
_NO_BATCH = {
    "batch_independent": "one camera",
    "batch_independent_in_eval": "one camera",
}

CASES = [
    Case(
        item="nerf",
        name="NeRF",
        build=nerf,
        inputs=lambda: (random(2, 4, 3), random(2, 4, 3, seed=1)),
        bad={
            "two coordinates": Bad(call=lambda: nerf()(random(4, 2), random(4, 2)), mentions=("(4, 2)",)),
            "directions of other points": Bad(call=lambda: nerf()(random(4, 3), random(2, 3)), mentions=("(2, 3)",)),
        },
        exempt=_DEAD,
    ),
    Case(
        item="nerf",
        name="NeRF, input included",
        build=lambda: nerf(include_input=True, depth=2, skip=1),
        inputs=lambda: (random(5, 3), random(5, 3, seed=1)),
        exempt=_DEAD,
    ),
    Case(
        item="nerf",
        name="positional_encoding",
        build=lambda: positional_encoding,
        inputs=lambda: (random(3, 4), 2),
        bad={"a negative number": Bad(call=lambda: positional_encoding(random(2), -1), mentions=("-1",))},
        is_function=True,
    ),
    Case(
        item="nerf",
        name="get_rays",
        build=lambda: get_rays,
        inputs=lambda: (2, 5, 3.0, torch.cat(_pose(), dim=1)),
        bad={
            "a pose of another shape": Bad(call=lambda: get_rays(2, 3, 1.0, random(2, 4)), mentions=("(2, 4)",)),
            "a focal length of 0": Bad(call=lambda: get_rays(2, 3, 0.0, random(3, 4)), mentions=("0.0",)),
            "no rows": Bad(call=lambda: get_rays(0, 3, 1.0, random(3, 4)), mentions=("0",)),
        },
        exempt=_NO_BATCH,
        is_function=True,
    ),
    Case(
        item="nerf",
        name="stratified_samples",
        build=lambda: stratified_samples,
        inputs=lambda: (0.5, 2.0, uniform(2, 5)),
        bad={
            "ends exchanged": Bad(call=lambda: stratified_samples(2.0, 0.5, uniform(2, 3)), mentions=("2.0", "0.5")),
        },
        is_function=True,
    ),
    Case(
        item="nerf",
        name="volume_render",
        build=lambda: volume_render,
        inputs=lambda: (*along_rays(), True, 0.3),
        bad={
            "no samples": Bad(call=lambda: volume_render(*along_rays(n=0)), mentions=("(2, 0)",)),
            "one density too few": Bad(
                call=lambda: volume_render(*along_rays()[:1], *along_rays(n=4)[1:]), mentions=("(2, 4)",)
            ),
            "a negative last segment": Bad(call=lambda: volume_render(*along_rays(), last=-1.0), mentions=("-1.0",)),
        },
        is_function=True,
    ),
    Case(
        item="nerf",
        name="sample_pdf",
        build=lambda: sample_pdf,
        inputs=lambda: (uniform(2, 5).cumsum(-1), uniform(2, 4, seed=1), uniform(2, 7, seed=2)),
        exempt={"gradient_correct": "samples are constants to autograd"},
        bad={
            "as many edges as bins": Bad(
                call=lambda: sample_pdf(uniform(2, 4), uniform(2, 4), uniform(2, 3)), mentions=("(2, 4)",)
            ),
            "no bins": Bad(call=lambda: sample_pdf(uniform(2, 1), uniform(2, 0), uniform(2, 3)), mentions=("(2, 0)",)),
            "eps of 0": Bad(
                call=lambda: sample_pdf(uniform(2, 5), uniform(2, 4), uniform(2, 3), 0.0), mentions=("0.0",)
            ),
        },
        is_function=True,
    ),
    Case(
        item="nerf",
        name="render_rays",
        build=Pair,
        inputs=lambda: (random(2, 3), random(2, 3, seed=1)),
        bad={
            "two coarse samples": Bad(
                call=lambda: render_rays(nerf(), nerf(), random(2, 3), random(2, 3), 0.5, 2.0, 2, 4), mentions=("2",)
            ),
            "no fine samples": Bad(
                call=lambda: render_rays(nerf(), nerf(), random(2, 3), random(2, 3), 0.5, 2.0, 4, 0), mentions=("0",)
            ),
            "ends exchanged": Bad(
                call=lambda: render_rays(nerf(), nerf(), random(2, 3), random(2, 3), 2.0, 0.5, 4, 4), mentions=("2.0",)
            ),
        },
        exempt=_DEAD
        | {
            "gradient_correct": "samples are constants to autograd; spec/properties/test_nerf.py keeps them fixed",
            "transforms": "samples are constants to autograd, not to forward differences",
            "from_scratch": "the class that is called is defined here; the records of its parts are checked",
        },
    ),
]

_STATE = (
    linear("layers.0", "width", "6 * pos_freqs + 3 * include_input")
    | linear("layers.1", "width", "width")
    | linear("layers.2", "width", "width + 6 * pos_freqs + 3 * include_input")
    | linear("sigma", "1", "width")
    | linear("feature", "width", "width")
    | linear("direction", "width // 2", "width + 6 * dir_freqs + 3 * include_input")
    | linear("rgb", "3", "width // 2")
)

CONTRACTS = [
    Contract(
        item="nerf",
        name="NeRF",
        of=NeRF,
        calls=({"pos_freqs": 3, "dir_freqs": 2, "width": 6, "depth": 3, "skip": 2},),
        ranges={
            "pos_freqs": "int >= 1",
            "dir_freqs": "int >= 1",
            "width": "int >= 2",
            "depth": "int >= 1",
            "skip": "int >= 1",
        },
        state=_STATE,
    ),
]
