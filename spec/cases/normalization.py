"""Cases of the normalizations."""

import torch

from impl.layers.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import double

COUPLED = "in training the batch's statistics normalize: each sample moves every other (Ioffe & Szegedy 2015, Alg. 1)"
UNTRACKED = "without running statistics the batch's own normalize in evaluation as well"
OWN_SPEC = "torch's own cannot; spec/properties/test_normalization.py asks the others"
NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}


def _inputs(*shape):
    """Normal values whose mean and spread differ from channel to channel."""

    def make():
        channels = torch.arange(1.0, shape[1] + 1).reshape(-1, *(1 for _ in shape[2:]))
        return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * channels.sqrt() + channels,)

    return make


def _bad_inputs(layer, right, *wrong):
    """Inputs of other dimensions than `right`, and one with a channel too many."""
    more = [size + (n == 1) for n, size in enumerate(right)]
    found = {
        f"{len(shape)} dimensions": Bad(call=lambda shape=shape: layer(3)(torch.randn(shape)), mentions=(str(shape),))
        for shape in wrong
    }
    return found | {
        "more channels": Bad(call=lambda: layer(3)(torch.randn(more)), mentions=("3", "4")),
        "fewer channels": Bad(call=lambda: layer(5)(torch.randn(more)), mentions=("5", "4")),
    }


def _batch_norm(layer, name, *shape, untracked=False, bad=None, **arguments):
    exempt = {"batch_independent": COUPLED}
    if "momentum" in arguments:
        exempt |= {"works_on_meta": OWN_SPEC, "compiles": OWN_SPEC}
    if untracked:
        exempt["batch_independent_in_eval"] = UNTRACKED
    if arguments.get("affine") is False:
        exempt |= NO_PARAMETERS
    return Case(
        item="batch-norm",
        name=name,
        build=lambda: layer(shape[1], **arguments),
        inputs=_inputs(*shape),
        bad=bad or {},
        exempt=exempt,
    )


def _instance_norm(layer, name, *shape, bad=None, **arguments):
    return Case(
        item="instance-norm",
        name=name,
        build=lambda: layer(shape[1], **arguments),
        inputs=_inputs(*shape),
        bad=bad or {},
        exempt={"empty_batch_is_defined": OWN_SPEC} if arguments.get("affine") else NO_PARAMETERS,
    )


CASES = [
    _batch_norm(
        BatchNorm1d,
        "BatchNorm1d",
        3,
        5,
        bad=_bad_inputs(BatchNorm1d, (2, 3), (2, 3, 4, 5))
        | {
            "one value per channel": Bad(
                call=lambda: BatchNorm1d(3)(torch.randn(1, 3)), mentions=("1 value", "(1, 3)")
            ),
            "one value, untracked, in evaluation": Bad(
                call=lambda: BatchNorm1d(3, track_running_stats=False).eval()(torch.randn(1, 3)), mentions=("(1, 3)",)
            ),
        },
    ),
    _batch_norm(BatchNorm1d, "BatchNorm1d, sequences", 2, 3, 5, eps=0.1),
    _batch_norm(
        BatchNorm2d,
        "BatchNorm2d",
        2,
        3,
        5,
        4,
        bad=_bad_inputs(BatchNorm2d, (2, 3, 4, 5), (2, 3, 4), (2, 3, 4, 5, 2))
        | {"one value per channel": Bad(call=lambda: BatchNorm2d(3)(torch.randn(1, 3, 1, 1)), mentions=("1 value",))},
    ),
    _batch_norm(BatchNorm2d, "BatchNorm2d, no affine", 2, 3, 5, 4, affine=False),
    _batch_norm(BatchNorm2d, "BatchNorm2d, plain average", 3, 2, 5, 4, momentum=None),
    _batch_norm(BatchNorm2d, "BatchNorm2d, untracked", 3, 2, 4, 5, track_running_stats=False, untracked=True),
    _batch_norm(
        BatchNorm3d,
        "BatchNorm3d",
        2,
        3,
        5,
        1,
        4,
        bad=_bad_inputs(BatchNorm3d, (2, 3, 4, 5, 2), (2, 3), (2, 3, 4, 5)),
    ),
    Case(
        item="layer-norm",
        name="LayerNorm",
        build=lambda: LayerNorm(5),
        inputs=_inputs(2, 3, 5),
        bad={
            "no dimensions": Bad(call=lambda: LayerNorm(()), mentions=("normalized_shape", "()")),
            "a negative size": Bad(call=lambda: LayerNorm((4, -2)), mentions=("normalized_shape", "(4, -2)")),
            "another width": Bad(call=lambda: LayerNorm(5)(torch.randn(2, 6)), mentions=("5", "(2, 6)")),
            "swapped dimensions": Bad(call=lambda: LayerNorm((4, 5))(torch.randn(2, 5, 4)), mentions=("(2, 5, 4)",)),
            "too few dimensions": Bad(call=lambda: LayerNorm((4, 5))(torch.randn(5)), mentions=("(4, 5)", "(5,)")),
        },
    ),
    Case(
        item="layer-norm", name="LayerNorm, two", build=lambda: LayerNorm((5, 4), eps=0.1), inputs=_inputs(2, 3, 5, 4)
    ),
    Case(item="layer-norm", name="LayerNorm, no bias", build=lambda: LayerNorm([7], bias=False), inputs=_inputs(3, 7)),
    Case(
        item="layer-norm",
        name="LayerNorm, no affine",
        build=lambda: LayerNorm((3, 5), elementwise_affine=False),
        inputs=_inputs(2, 3, 5),
        exempt=NO_PARAMETERS,
    ),
    _instance_norm(
        InstanceNorm1d,
        "InstanceNorm1d",
        2,
        3,
        5,
        bad=_bad_inputs(InstanceNorm1d, (2, 3, 4), (2, 3, 4, 5))
        | {
            "one position": Bad(call=lambda: InstanceNorm1d(3)(torch.randn(2, 3, 1)), mentions=("1 value", "(2, 3, 1)"))
        },
    ),
    _instance_norm(
        InstanceNorm2d,
        "InstanceNorm2d",
        2,
        3,
        5,
        4,
        bad=_bad_inputs(InstanceNorm2d, (2, 3, 4, 5), (2, 3), (2, 3, 4, 5, 2))
        | {
            "one position, in evaluation": Bad(
                call=lambda: InstanceNorm2d(3).eval()(torch.randn(2, 3, 1, 1)), mentions=("1 value", "(2, 3, 1, 1)")
            )
        },
    ),
    _instance_norm(InstanceNorm2d, "InstanceNorm2d, affine", 3, 2, 5, 4, affine=True, eps=0.1),
    _instance_norm(InstanceNorm2d, "InstanceNorm2d, tracked", 3, 2, 5, 4, affine=True, track_running_stats=True),
    _instance_norm(
        InstanceNorm3d,
        "InstanceNorm3d",
        2,
        3,
        5,
        1,
        4,
        bad=_bad_inputs(InstanceNorm3d, (2, 3, 4, 5, 2), (2, 3, 4), (2, 3, 4, 5)),
    ),
    Case(
        item="group-norm",
        name="GroupNorm",
        build=lambda: GroupNorm(3, 6),
        inputs=_inputs(2, 6, 5, 4),
        bad={
            "groups that do not divide": Bad(call=lambda: GroupNorm(4, 6), mentions=("4", "6")),
            "more groups than channels": Bad(call=lambda: GroupNorm(6, 3), mentions=("6", "3")),
            "more channels": Bad(call=lambda: GroupNorm(2, 6)(torch.randn(2, 8, 5)), mentions=("6", "8")),
            "fewer channels": Bad(call=lambda: GroupNorm(2, 6)(torch.randn(2, 4, 5)), mentions=("6", "4")),
            "one dimension": Bad(call=lambda: GroupNorm(2, 6)(torch.randn(6))),
        },
    ),
    Case(item="group-norm", name="GroupNorm, vectors", build=lambda: GroupNorm(2, 6, eps=0.1), inputs=_inputs(3, 6)),
    Case(
        item="group-norm",
        name="GroupNorm, no affine",
        build=lambda: GroupNorm(2, 4, affine=False),
        inputs=_inputs(2, 4, 3),
        exempt=NO_PARAMETERS,
    ),
    Case(item="group-norm", name="GroupNorm, volumes", build=lambda: GroupNorm(1, 4), inputs=_inputs(2, 4, 3, 1, 5)),
]


def _tracked_or_not(layer, *space, item, affine):
    size = "(num_features,)"
    state = {"weight": size, "bias": size, "running_mean": size, "running_var": size, "num_batches_tracked": "()"}
    switched_on = {} if affine else {"affine": True, "track_running_stats": True}
    untracked = {"num_features": 3, "eps": 0.2, "affine": True, "track_running_stats": False}
    return Contract(
        item=item,
        name=layer,
        of=globals()[layer],
        calls=(
            {"num_features": 3} | switched_on,
            {"num_features": 4, "eps": 0.3, "momentum": 0.3, "affine": False},
            untracked,
        ),
        ranges={"num_features": "int >= 1", "eps": "[0, inf]", "momentum": "[0, 1] or None"},
        state=state,
        remembers="running_mean, running_var and num_batches_tracked, in training" + ("" if affine else ", if tracked"),
        library=f"torch.nn.{layer}",
        inputs=lambda arguments: (1 + 2 * double(3, arguments["num_features"], *space),),
    )


CONTRACTS = [
    _tracked_or_not("BatchNorm1d", 4, item="batch-norm", affine=True),
    _tracked_or_not("BatchNorm2d", 4, 2, item="batch-norm", affine=True),
    _tracked_or_not("BatchNorm3d", 4, 2, 3, item="batch-norm", affine=True),
    _tracked_or_not("InstanceNorm1d", 4, item="instance-norm", affine=False),
    _tracked_or_not("InstanceNorm2d", 4, 2, item="instance-norm", affine=False),
    _tracked_or_not("InstanceNorm3d", 4, 2, 3, item="instance-norm", affine=False),
    Contract(
        item="layer-norm",
        name="LayerNorm",
        of=LayerNorm,
        calls=({"normalized_shape": (4, 2)}, {"normalized_shape": 5, "eps": 0.3, "bias": False}),
        ranges={"normalized_shape": "int >= 1", "eps": "[0, inf]"},
        state={"weight": "normalized_shape", "bias": "normalized_shape"},
        library="torch.nn.LayerNorm",
        inputs=lambda arguments: (1 + 2 * double(3, *torch.Size(torch.empty(arguments["normalized_shape"]).shape)),),
    ),
    Contract(
        item="group-norm",
        name="GroupNorm",
        of=GroupNorm,
        calls=({"num_groups": 1, "num_channels": 4, "eps": 0.3}, {"num_groups": 2, "num_channels": 6, "affine": False}),
        ranges={"num_groups": "int >= 1", "num_channels": "int >= 1", "eps": "[0, inf]"},
        state={"weight": "(num_channels,)", "bias": "(num_channels,)"},
        library="torch.nn.GroupNorm",
        inputs=lambda arguments: (1 + 2 * double(3, arguments["num_channels"], 5, 2),),
    ),
]
