"""Frozen values of post-training quantization."""

import pytest
import torch

from impl.compression.quantization import (
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    dequantize,
    fixed_point,
    integer_matmul,
    quantize,
    rescale,
)
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("post-training-quantization")


@pytest.mark.parametrize(
    ("scale", "zero_point", "ends", "suffix"),
    [("scale", "zero_point", (0, 255), ""), ("scales", "zero_points", (-128, 127), "_channels")],
)
def test_integers_and_values_are_those_of_torch_and_onnx(scale, zero_point, ends, suffix):
    """600 values from −15 to 15 get the integers of torch.quantize_per_tensor and per_channel and of ONNX.

    Source: Jacob et al. 2017, eq. 1; ONNX operator QuantizeLinear: saturate(round(x / y_scale) + y_zero_point).
    """
    golden = load("post-training-quantization")
    scale, zero_point = golden[scale], golden[zero_point]
    q = quantize(golden["x"], scale, zero_point, *ends, axis=1)
    golden.check(f"q{suffix}", q.int())
    golden.check(f"y{suffix}", dequantize(q, scale, zero_point, axis=1))


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("kind", ["all", "average"])
def test_observers_find_the_grid_of_torch(kind, per, symmetric):
    """After four batches scale and zero point are those of torch's observers, of extremes and of averages with c = 0.3.

    Source: Jacob et al. 2017, section 3.1; Krishnamoorthi 2018, arXiv:1806.08342, section 2.
    """
    golden = load("post-training-quantization")
    options = {"symmetric": symmetric} | ({"channels": 3} if per == "channel" else {})
    watcher = MinMaxObserver(**options)
    if kind == "average":
        watcher = MovingAverageMinMaxObserver(averaging_constant=0.3, **options)
    for batch in golden["x"]:
        watcher(batch)
    name = f"{kind}.{per}.{'symmetric' if symmetric else 'affine'}"
    golden.check(f"{name}.scale", watcher.grid().scale)
    zero_point = watcher.grid().zero_point
    if symmetric:
        laws.assert_same(zero_point, torch.zeros_like(watcher.min_val, dtype=torch.int32))
    else:
        golden.check(f"{name}.zero_point", zero_point)


def test_integer_products_are_those_of_exact_fractions():
    """Sums, and outputs after M = S₁S₂/S₃ and Z₃, are those of exact arithmetic and of ONNX's QLinearMatMul.

    Source: Jacob et al. 2017, eq. 4 and 7.
    """
    golden = load("post-training-quantization")
    left, right = golden["left"].to(torch.uint8), golden["right"].to(torch.int8)
    sums = integer_matmul(left, golden["z1"], right, torch.zeros((), dtype=torch.int32))
    golden.check("sums", sums)
    mantissa, shift = fixed_point((golden["s1"] * golden["s2"] / golden["s3"]).expand(4))
    golden.check("product", (rescale(sums, mantissa, shift) + golden["z3"]).clamp(0, 255))


def test_factors_are_split_exactly():
    """M = 2⁻ⁿ M₀ for five factors, 2.5 among them: 0.0072 gives n = 7 and M₀·2³¹ = 1979120930.

    Source: Jacob et al. 2017, eq. 6.
    """
    golden = load("post-training-quantization")
    mantissa, shift = fixed_point(golden["factors"])
    golden.check("mantissa", mantissa.double())
    golden.check("shift", shift.double())
    laws.assert_same(mantissa[0], torch.tensor(1979120930, dtype=torch.int32))


def test_the_unsigned_range_of_one_negative_and_two():
    """[−1, 2] in uint8: S = 3/255 = 0.011764705882, Z = 85, and −1, 0, 2, 5 become 0, 85, 255, 255.

    Source: Jacob et al. 2017, eq. 13, by hand.
    """
    watcher = MinMaxObserver().double()
    watcher(torch.tensor([-1.0, 2.0]).double())
    grid = watcher.grid()
    laws.assert_close(grid.scale, torch.tensor(0.0117647058823529, dtype=torch.float64))
    found = quantize(torch.tensor([-1.0, 0.0, 2.0, 5.0]).double(), *grid)
    laws.assert_same(found, torch.tensor([0, 85, 255, 255], dtype=torch.uint8))
