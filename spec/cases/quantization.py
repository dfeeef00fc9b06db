"""Cases of post-training quantization."""

import torch
from torch import nn

from impl.compression.quantization import (
    Grid,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PercentileObserver,
    QuantizedLinear,
    dequantize,
    fixed_point,
    fold_batch_norm,
    integer_matmul,
    quantize,
    quantize_model,
    rescale,
    weight_grid,
)
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh

ITEM = "post-training-quantization"
NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}
INTEGERS = {
    "gradient_correct": "integers have no derivative: training goes through fake quantization instead",
    "every_parameter_receives_gradient": "integers have no derivative",
}
INTEGER_INPUTS = dict.fromkeys(
    (
        "inputs_not_mutated",
        "accepts_non_contiguous",
        "compiles",
        "transforms",
        "may_be_changed_in_place",
        "from_scratch",
    ),
    "it takes gradients, and no input is real",
)
NO_BATCH = dict.fromkeys(
    ("batch_independent", "batch_independent_in_eval", "empty_batch_is_defined"),
    "the arguments are no batch of samples: scales and columns have another size",
)
SCALES = {"keeps_dtype": "the scales are state, and in bfloat16 other grids; test_the_inputs_dtype_is_kept has its own"}
SCAFFOLD = {"from_scratch": "what comes back holds the caller's layers"}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


def grid(scale=0.1, zero_point=3, low=0, high=255):
    return Grid(torch.tensor(scale), whole(zero_point)[0], low, high)


def linear():
    torch.manual_seed(0)
    return nn.Linear(7, 5)


def from_float(**changed):
    """A quantized layer, of good grids but for those in `changed`."""
    grids = {"weight": grid(0.01, 0, -127, 127), "input": grid(), "output": grid()} | changed
    return QuantizedLinear.from_float(linear(), **grids)


def _observer(make, name, *, bad, channels=False):
    options = {"channels": 3, "axis": 1, "symmetric": True, "bits": 5} if channels else {}
    nothing = {"nothing observed": Bad(call=lambda: make().grid(), mentions=("batch", "none"))}
    return Case(
        item=ITEM,
        name=name,
        build=lambda: make(**options),
        inputs=lambda: (normal(2, 3, 4),),
        bad={} if channels else nothing | bad,
        exempt=NO_PARAMETERS
        | {
            "compiles": "torch's own cannot; test_observers_compile asks the others",
            "transforms": "it remembers the range of what it sees",
        },
    )


def _channels(make):
    return {
        "another number of channels": Bad(call=lambda: make(channels=3)(normal(2, 3)), mentions=("3", "(2, 3)")),
        "no such dimension": Bad(call=lambda: make(channels=3, axis=2)(normal(2, 3)), mentions=("2", "(2, 3)")),
        "no such dimension from the end": Bad(
            call=lambda: make(channels=3, axis=-3)(normal(2, 3)), mentions=("-3", "(2, 3)")
        ),
    }


ONE, NONE = torch.tensor(0.1), whole(0)[0]

CASES = [
    _observer(MinMaxObserver, "MinMaxObserver", bad=_channels(MinMaxObserver)),
    _observer(MinMaxObserver, "MinMaxObserver, channels", bad={}, channels=True),
    _observer(
        MovingAverageMinMaxObserver,
        "MovingAverageMinMaxObserver",
        bad=_channels(MovingAverageMinMaxObserver),
    ),
    _observer(MovingAverageMinMaxObserver, "MovingAverageMinMaxObserver, channels", bad={}, channels=True),
    _observer(PercentileObserver, "PercentileObserver", bad={}),
    Case(
        item=ITEM,
        name="quantize",
        build=lambda: quantize,
        inputs=lambda: (normal(2, 3), torch.tensor([0.02, 0.1, 0.3]), whole(0, 128, 9), 0, 255, 1),
        is_function=True,
        bad={
            "no step": Bad(call=lambda: quantize(normal(3), torch.tensor(0.0), NONE), mentions=("scale", "0")),
            "a negative step": Bad(
                call=lambda: quantize(normal(2), torch.tensor([0.5, -0.25]), whole(0, 0)), mentions=("scale", "-0.25")
            ),
            "a real zero point": Bad(
                call=lambda: quantize(normal(3), ONE, torch.tensor(0.5)), mentions=("zero_point", "float32")
            ),
            "no integers": Bad(call=lambda: quantize(normal(3), ONE, NONE, 4, 4), mentions=("4",)),
            "another number of channels": Bad(
                call=lambda: quantize(normal(2, 3), ONE.expand(2), whole(0, 0), axis=1), mentions=("(2, 3)", "(2,)")
            ),
            "no such dimension": Bad(
                call=lambda: quantize(normal(2, 3), ONE.expand(3), whole(0, 0, 0), axis=2), mentions=("2", "(2, 3)")
            ),
            "no such dimension from the end": Bad(
                call=lambda: quantize(normal(2, 3), ONE.expand(2), whole(0, 0), axis=-3), mentions=("-3", "(2, 3)")
            ),
        },
        exempt=INTEGERS | NO_BATCH | {"keeps_dtype": "integers come out"},
    ),
    Case(
        item=ITEM,
        name="dequantize",
        build=lambda: dequantize,
        inputs=lambda: (
            whole([3, 200, 7], [0, 255, 9], dtype=torch.uint8),
            torch.tensor([0.02, 0.1, 0.3]),
            whole(0, 128, 9),
            1,
        ),
        is_function=True,
        bad={
            "real numbers": Bad(call=lambda: dequantize(normal(3), ONE, NONE), mentions=("integers", "float32")),
            "a real zero point": Bad(
                call=lambda: dequantize(whole(3), ONE, torch.tensor(0.5)), mentions=("zero_point", "float32")
            ),
            "another number of channels": Bad(
                call=lambda: dequantize(whole([1, 2, 3], [4, 5, 6]), ONE.expand(3), whole(0, 0, 0)),
                mentions=("(2, 3)", "(3,)"),
            ),
        },
        exempt=INTEGERS | NO_BATCH | {"keeps_dtype": "S decides"},
    ),
    Case(
        item=ITEM,
        name="integer_matmul",
        build=lambda: integer_matmul,
        inputs=lambda: (
            whole([3, 200, 7, 1], [0, 255, 9, 66], dtype=torch.uint8),
            whole(128)[0],
            whole([1, -2, 5], [4, 5, 127], [-127, 0, 2], [3, 1, 4], dtype=torch.int8),
            whole(0, 3, -1),
        ),
        is_function=True,
        bad={
            "sizes": Bad(
                call=lambda: integer_matmul(whole([1, 2]), NONE, whole([1], [2], [3]), NONE), mentions=("2", "(3, 1)")
            ),
        },
        exempt=INTEGERS | INTEGER_INPUTS | NO_BATCH | {"keeps_dtype": "integers come out"},
    ),
    Case(
        item=ITEM,
        name="QuantizedLinear",
        build=from_float,
        inputs=lambda: (normal(2, 3, 7),),
        bad={
            "another width": Bad(call=lambda: from_float()(normal(2, 6)), mentions=("7", "6")),
            "affine weights": Bad(call=lambda: from_float(weight=grid(0.1, 3, -127, 127)), mentions=("weight",)),
            "weights of 9 bits": Bad(call=lambda: from_float(weight=grid(0.1, 0, -127, 128)), mentions=("weight",)),
            "weights below int8": Bad(call=lambda: from_float(weight=grid(0.1, 0, -129, 127)), mentions=("weight",)),
            "signed input": Bad(call=lambda: from_float(input=grid(0.1, 0, -127, 127)), mentions=("input",)),
            "output of 7 bits": Bad(call=lambda: from_float(output=grid(0.1, 0, 0, 127)), mentions=("output",)),
            "input per channel": Bad(
                call=lambda: from_float(input=Grid(torch.ones(7), torch.zeros(7).int(), 0, 255)), mentions=("input",)
            ),
        },
        exempt=INTEGERS | SCALES,
    ),
    Case(
        item=ITEM,
        name="fold_batch_norm",
        build=lambda: fold_batch_norm(linear(), nn.BatchNorm1d(5)),
        inputs=lambda: (normal(2, 7),),
        bad={
            "no running statistics": Bad(
                call=lambda: fold_batch_norm(linear(), nn.BatchNorm1d(5, track_running_stats=False)),
                mentions=("running statistics",),
            ),
            "another width": Bad(call=lambda: fold_batch_norm(linear(), nn.BatchNorm1d(4)), mentions=("5", "4")),
            "a transposed convolution": Bad(
                call=lambda: fold_batch_norm(nn.ConvTranspose2d(3, 3, 2), nn.BatchNorm2d(3)), mentions=("transposed",)
            ),
        },
        exempt=SCAFFOLD,
    ),
    Case(
        item=ITEM,
        name="quantize_model",
        build=lambda: quantize_model(nn.Sequential(linear(), nn.ReLU()), [normal(9, 7)]),
        inputs=lambda: (normal(2, 7),),
        bad={
            "no batches": Bad(call=lambda: quantize_model(linear(), []), mentions=("batch", "none")),
        },
        exempt=INTEGERS | SCALES | SCAFFOLD,
    ),
]


def _promise(of, name, call, *, ranges=None, **more):
    return Contract(item=ITEM, name=name, of=of, calls=(call,), ranges=ranges or {}, **more)


def _range_observer(of, name, **ranges):
    seen = "seen so far, of shape () or (channels,); infinite if there is none"
    return _promise(
        of,
        name,
        {"channels": 3, "axis": 1},
        ranges={"bits": "int in [2, 16]", "channels": "int >= 1 or None"} | ranges,
        attributes={"min_val": f"lower end of the range {seen}", "max_val": f"upper end of the range {seen}"},
        remembers="the range, in training and in evaluation",
    )


_STEPS = {"scale": torch.tensor([0.1, 0.3]), "zero_point": whole(0, 3), "axis": 1}

CONTRACTS = [
    _promise(Grid, "Grid", {"scale": ONE, "zero_point": NONE, "quant_min": 0, "quant_max": 255}),
    _promise(quantize, "quantize", {"input": normal(3, 2)} | _STEPS),
    _promise(dequantize, "dequantize", {"input": whole([1, 2], [3, 4], [5, 6])} | _STEPS),
    _promise(weight_grid, "weight_grid", {"weight": normal(3, 2)}, ranges={"bits": "int in [2, 16]"}),
    _range_observer(MinMaxObserver, "MinMaxObserver"),
    _range_observer(MovingAverageMinMaxObserver, "MovingAverageMinMaxObserver", averaging_constant="(0, 1]"),
    _promise(
        PercentileObserver,
        "PercentileObserver",
        {},
        ranges={"bits": "int in [2, 16]", "percentile": "(50, 100]", "bins": "int >= 1"},
        remembers="the histogram, in training and in evaluation",
    ),
    _promise(
        integer_matmul,
        "integer_matmul",
        {"left": whole([1, 2]), "left_zero_point": NONE, "right": whole([1], [2]), "right_zero_point": NONE},
    ),
    _promise(fixed_point, "fixed_point", {"multiplier": ONE}),
    _promise(rescale, "rescale", {"accumulator": whole(7), "mantissa": whole(2**30), "shift": whole(0)}),
    _promise(
        QuantizedLinear,
        "QuantizedLinear",
        {"in_features": 3, "out_features": 2},
        ranges={"in_features": "int in [1, 32896]", "out_features": "int >= 1"},
        state={
            "weight": "(out_features, in_features)",
            "weight_scale": "(out_features,)",
            "bias": "(out_features,)",
            "input_scale": "()",
            "input_zero_point": "()",
            "output_scale": "()",
            "output_zero_point": "()",
            "multiplier": "(out_features,)",
            "shift": "(out_features,)",
        },
    ),
    _promise(fold_batch_norm, "fold_batch_norm", {"layer": Fresh(linear), "norm": Fresh(lambda: nn.BatchNorm1d(5))}),
    _promise(
        quantize_model,
        "quantize_model",
        {"model": Fresh(linear), "batches": [normal(9, 7)]},
        ranges={"bits": "int in [2, 8]"},
    ),
]
