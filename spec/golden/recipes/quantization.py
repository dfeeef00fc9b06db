"""Golden values of post-training quantization."""

import numpy as np

from spec.golden import Recipe, recipe


def _codes(x, scale, zero_point, low, high, axis):
    """ONNX's QuantizeLinear and DequantizeLinear by their reference implementation; unsigned 8 or signed 8 bits."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    kind = TensorProto.UINT8 if low == 0 else TensorProto.INT8
    dtype = np.uint8 if low == 0 else np.int8
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    inputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("x", 1), ("s", 1), ("z", kind))]
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("q", kind), ("y", 1))]
    graph = helper.make_graph(nodes, "grid", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    scale, zero_point = np.asarray(scale, np.float32), np.asarray(zero_point, dtype)
    return ReferenceEvaluator(model).run(None, {"x": x, "s": scale, "z": zero_point})


def _range_by_hand(low, high, symmetric):
    """Scale and zero point in NumPy."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        return np.maximum(-low, high) / 127, np.zeros_like(low)
    scale = (high - low) / 255
    return scale, np.rint(-low / scale)


@recipe(
    "post-training-quantization",
    oracle="torch.quantize_per_tensor, quantize_per_channel and the observers of torch.ao; exact fractions",
    second="onnx.reference QuantizeLinear, DequantizeLinear and QLinearMatMul; ranges in NumPy",
    needs=("torch", "onnx"),
)
def post_training_quantization(recipe: Recipe) -> None:
    import torch

    rng = np.random.default_rng(5)
    x = recipe.given("x", (rng.normal(size=(4, 3, 50)) * np.array([[0.2], [1.0], [5.0]])).astype(np.float32))
    tensor = torch.from_numpy(x)

    # One grid, then one a channel of dimension 1.
    scale, zero_point = recipe.given("scale", np.float32(0.0371)), recipe.given("zero_point", np.int32(91))
    q = torch.quantize_per_tensor(tensor, float(scale), int(zero_point), torch.quint8)
    codes, values = _codes(x, scale, zero_point, 0, 255, 1)
    recipe.expect("q", q.int_repr().int(), second=codes.astype(np.int32))
    recipe.expect("y", q.dequantize(), second=values)
    scales = recipe.given("scales", np.array([0.0043, 0.0191, 0.0871], np.float32))
    points = recipe.given("zero_points", np.array([-7, 0, 31], np.int32))
    q = torch.quantize_per_channel(tensor, torch.from_numpy(scales).double(), torch.from_numpy(points), 1, torch.qint8)
    codes, values = _codes(x, scales, points, -128, 127, 1)
    recipe.expect("q_channels", q.int_repr().int(), second=codes.astype(np.int32))
    recipe.expect("y_channels", q.dequantize(), second=values)

    _observers(recipe, x)
    _integer_layer(recipe, rng)
    # M = 2^-n M0 by Python's own decomposition of a number and by exact fractions.
    factors = recipe.given("factors", np.array([0.0072, 0.31, 0.9999, 1e-4, 2.5]))
    parts = [np.frexp(m) for m in factors]
    recipe.expect("mantissa", np.array([np.rint(m * 2**31) for m, _ in parts]), second=_by_halving(factors)[0])
    recipe.expect("shift", np.array([float(-e) for _, e in parts]), second=_by_halving(factors)[1])


def _by_halving(factors):
    from fractions import Fraction

    mantissas, shifts = [], []
    for factor in factors:
        m, n = Fraction(float(factor)), 0
        while m < Fraction(1, 2):
            m, n = 2 * m, n + 1
        while m >= 1:
            m, n = m / 2, n - 1
        mantissas.append(float(round(m * 2**31)))
        shifts.append(float(n))
    return np.array(mantissas), np.array(shifts)


def _observers(recipe, x):
    import torch
    from torch.ao.quantization import observer as library

    batches = [torch.from_numpy(b) for b in x]  # (3, 50) each, one range a row where per channel
    lows, highs = x.min(2), x.max(2)
    for symmetric in (False, True):
        kind = "symmetric" if symmetric else "affine"
        ends = {"quant_min": -127, "quant_max": 127} if symmetric else {"quant_min": 0, "quant_max": 255}
        dtype = torch.qint8 if symmetric else torch.quint8
        for per in ("tensor", "channel"):
            scheme = getattr(torch, f"per_{per}_{kind}")
            names = ("MinMaxObserver", "MovingAverageMinMaxObserver")
            if per == "channel":
                names = ("PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver")
            for name, short in zip(names, ("all", "average")):
                options = {"averaging_constant": 0.3} if short == "average" else {}
                watcher = getattr(library, name)(dtype=dtype, qscheme=scheme, **ends, **options)
                for batch in batches:
                    watcher(batch)
                scale, zero_point = watcher.calculate_qparams()
                low, high = (lows.min(1), highs.max(1)) if per == "tensor" else (lows, highs)
                low, high = low.astype(np.float64), high.astype(np.float64)
                if short == "all":
                    low, high = low.min(0), high.max(0)
                else:
                    weights = np.array([0.7**3, 0.3 * 0.7**2, 0.3 * 0.7, 0.3])
                    low, high = np.tensordot(weights, low, 1), np.tensordot(weights, high, 1)
                by_hand = _range_by_hand(low, high, symmetric)
                recipe.expect(
                    f"{short}.{per}.{kind}.scale", scale.reshape(np.shape(low)), second=by_hand[0].astype(np.float32)
                )
                if not symmetric:  # where it is 0
                    recipe.expect(
                        f"{short}.{per}.{kind}.zero_point",
                        zero_point.int().reshape(np.shape(low)),
                        second=by_hand[1].astype(np.int32),
                    )


def _integer_layer(recipe, rng):
    """q₃ of eq. 4 in fractions; ONNX's QLinearMatMul computes it in float32 with half to even."""
    from fractions import Fraction

    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    left = recipe.given("left", rng.integers(0, 256, size=(6, 9)).astype(np.int32))
    right = recipe.given("right", rng.integers(-127, 128, size=(9, 4)).astype(np.int32))
    s1, s2, s3 = (recipe.given(f"s{n}", np.float64(v)) for n, v in ((1, 0.02), (2, 0.013), (3, 0.117)))
    z1, z3 = recipe.given("z1", np.int32(120)), recipe.given("z3", np.int32(77))
    sums = [[sum((int(a) - int(z1)) * int(b) for a, b in zip(row, column)) for column in right.T] for row in left]
    recipe.expect("sums", np.array(sums, np.int32), second=((left - z1) @ right).astype(np.int32))
    factor = Fraction(float(s1)) * Fraction(float(s2)) / Fraction(float(s3))
    q = [[min(max(round(factor * v) + int(z3), 0), 255) for v in row] for row in sums]
    names = ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"]
    kinds = [2, 1, 2, 3, 1, 3, 1, 2]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", names, ["y"])],
        "product",
        [helper.make_tensor_value_info(n, k, None) for n, k in zip(names, kinds)],
        [helper.make_tensor_value_info("y", 2, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    values = [left.astype(np.uint8), np.float32(s1), np.uint8(z1), right.astype(np.int8), np.float32(s2), np.int8(0)]
    values += [np.float32(s3), np.uint8(z3)]
    (second,) = ReferenceEvaluator(model).run(None, {n: np.asarray(v) for n, v in zip(names, values)})
    recipe.expect("product", np.array(q, np.int32), second=second.astype(np.int32))
