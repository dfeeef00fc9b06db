"""Cases of quantization-aware training."""

import torch
from torch import nn

from impl.compression.quantization_aware import (
    FakeQuantize,
    LearnedStepQuantizer,
    QATLinear,
    WeightFakeQuantize,
    convert,
    fake_quantize,
    learned_step,
    prepare_qat,
)
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh

ITEM = "quantization-aware-training"
NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}
STRAIGHT_THROUGH = {"gradient_correct": "straight-through: the gradient is not the derivative, by intention"}
COUPLED = {"batch_independent": "in training the batch moves the range that quantizes it (Jacob et al. 2017, §3.1)"}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(*values):
    return torch.tensor(values, dtype=torch.int32)


def after_a_batch(make, *shape):
    """A fresh module that has seen one training batch: evaluation before it is an error."""

    def build():
        torch.manual_seed(0)
        module = make()
        module(2 * normal(*shape, seed=1))
        return module

    return build


ONE, NONE = torch.tensor(0.1), whole(0)[0]

CASES = [
    Case(
        item=ITEM,
        name="fake_quantize",
        build=lambda: fake_quantize,
        inputs=lambda: (normal(2, 3, 4), torch.tensor([0.02, 0.1, 0.3]), whole(0, 128, 9), 0, 255, 1),
        is_function=True,
        bad={
            "no step": Bad(call=lambda: fake_quantize(normal(3), torch.tensor(0.0), NONE), mentions=("scale", "0")),
            "a real zero point": Bad(
                call=lambda: fake_quantize(normal(3), ONE, torch.tensor(0.5)), mentions=("zero_point", "float32")
            ),
            "no integers": Bad(call=lambda: fake_quantize(normal(3), ONE, NONE, 5, 4), mentions=("5", "4")),
            "another number of channels": Bad(
                call=lambda: fake_quantize(normal(2, 3), ONE.expand(2), whole(0, 0), axis=1), mentions=("(2, 3)",)
            ),
        },
        exempt=STRAIGHT_THROUGH
        | dict.fromkeys(
            ("batch_independent", "batch_independent_in_eval", "empty_batch_is_defined"),
            "scales and zero points are arguments, and no samples",
        ),
    ),
    Case(
        item=ITEM,
        name="FakeQuantize",
        build=after_a_batch(FakeQuantize, 3, 5),
        inputs=lambda: (normal(3, 5),),
        bad={
            "another number of channels": Bad(
                call=lambda: FakeQuantize(channels=3, axis=1)(normal(2, 4)), mentions=("3", "(2, 4)")
            ),
            "evaluation first": Bad(call=lambda: FakeQuantize().eval()(normal(3)), mentions=("batch", "none")),
        },
        exempt=NO_PARAMETERS | STRAIGHT_THROUGH | COUPLED,
    ),
    Case(
        item=ITEM,
        name="FakeQuantize, channels",
        build=after_a_batch(lambda: FakeQuantize(5, True, 3, 1, 0.3), 2, 3, 5),
        inputs=lambda: (normal(2, 3, 5),),
        exempt=NO_PARAMETERS | STRAIGHT_THROUGH | COUPLED,
    ),
    Case(
        item=ITEM,
        name="WeightFakeQuantize",
        build=WeightFakeQuantize,
        inputs=lambda: (normal(3, 5),),
        exempt=NO_PARAMETERS | STRAIGHT_THROUGH | {"empty_batch_is_defined": "its input is a weight, and no batch"},
    ),
    Case(
        item=ITEM,
        name="LearnedStepQuantizer",
        build=after_a_batch(lambda: LearnedStepQuantizer(3, signed=True), 3, 5),
        inputs=lambda: (normal(3, 5),),
        exempt=STRAIGHT_THROUGH,
    ),
    Case(
        item=ITEM,
        name="LearnedStepQuantizer, unsigned, per sample",
        build=after_a_batch(lambda: LearnedStepQuantizer(4, signed=False, per_sample=True), 3, 5),
        inputs=lambda: (normal(3, 5),),
        exempt=STRAIGHT_THROUGH,
    ),
    Case(
        item=ITEM,
        name="QATLinear",
        build=after_a_batch(lambda: QATLinear(7, 5), 3, 7),
        inputs=lambda: (normal(3, 7),),
        bad={
            "another width": Bad(call=lambda: QATLinear(7, 5)(normal(2, 6)), mentions=("7", "6")),
            "evaluation first": Bad(call=lambda: QATLinear(7, 5).eval()(normal(2, 7)), mentions=("batch", "none")),
        },
        exempt=STRAIGHT_THROUGH | COUPLED,
    ),
    Case(
        item=ITEM,
        name="QATLinear, 3 bits, per tensor, no bias",
        build=after_a_batch(lambda: QATLinear(7, 5, False, 3, False), 2, 4, 7),
        inputs=lambda: (normal(2, 4, 7),),
        exempt=STRAIGHT_THROUGH | COUPLED,
    ),
    Case(
        item=ITEM,
        name="prepare_qat",
        build=after_a_batch(lambda: prepare_qat(nn.Sequential(nn.Linear(7, 5), nn.ReLU())), 3, 7),
        inputs=lambda: (normal(3, 7),),
        bad={"nothing trained": Bad(call=lambda: convert(prepare_qat(nn.Linear(7, 5))), mentions=("batch", "none"))},
        exempt=STRAIGHT_THROUGH | COUPLED | {"from_scratch": "what comes back holds the caller's layers"},
    ),
]


def _promise(of, name, call, *, ranges=None, **more):
    return Contract(item=ITEM, name=name, of=of, calls=(call,), ranges=ranges or {}, **more)


ANY_BITS, EIGHT_BITS = {"bits": "int in [2, 16]"}, {"bits": "int in [2, 8]"}
OBSERVED = "the range of the training batches"

CONTRACTS = [
    _promise(
        fake_quantize,
        "fake_quantize",
        {"input": normal(3, 2), "scale": torch.tensor([0.1, 0.3]), "zero_point": whole(0, 3), "axis": 1},
    ),
    _promise(
        learned_step,
        "learned_step",
        {"input": normal(3, 2), "scale": ONE, "quant_min": -4, "quant_max": 3, "gain": 0.5},
    ),
    _promise(
        FakeQuantize,
        "FakeQuantize",
        {"channels": 3, "axis": 1},
        ranges=ANY_BITS | {"channels": "int >= 1 or None", "averaging_constant": "(0, 1]"},
        remembers=OBSERVED,
    ),
    _promise(WeightFakeQuantize, "WeightFakeQuantize", {}, ranges=ANY_BITS),
    _promise(
        LearnedStepQuantizer,
        "LearnedStepQuantizer",
        {},
        ranges=ANY_BITS,
        attributes={"scale": "S, a parameter of shape (); 1 until the first training batch"},
        remembers="whether a training batch has initialised S, in the state dict",
    ),
    _promise(
        QATLinear,
        "QATLinear",
        {"in_features": 3, "out_features": 2},
        ranges=EIGHT_BITS | {"in_features": "int >= 1", "out_features": "int >= 1"},
        attributes={
            "weight": "a parameter of shape (out_features, in_features)",
            "bias": "a parameter of shape (out_features,), or None",
            "input_quantizer": "called with the input; its `grid()` is that of the input",
            "weight_quantizer": "called with the weight; its `grid(weight)` is that of the weight",
            "output_quantizer": "called with the output; its `grid()` is that of the output",
        },
        remembers=f"{OBSERVED}, of input and output",
    ),
    _promise(prepare_qat, "prepare_qat", {"model": Fresh(lambda: nn.Linear(7, 5))}, ranges=EIGHT_BITS),
    _promise(convert, "convert", {"model": Fresh(lambda: nn.Linear(7, 5))}),
]
