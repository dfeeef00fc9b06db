"""Post-training quantization.  Jacob et al. 2017, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

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
from spec import laws
from spec.strategies import floats, seeds, varied

pytestmark = pytest.mark.item("post-training-quantization")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


def observed(*batches, observer=MinMaxObserver, **options):
    """The grid of an observer in float64 that saw the batches."""
    watcher = observer(**options).double()
    for batch in batches:
        watcher(batch)
    return watcher.grid()


def nearest(x, grid):
    """The point of the grid that represents x."""
    return dequantize(quantize(x, *grid), grid.scale, grid.zero_point, grid.axis)


def between(x):
    """5,000 evenly spread values of the range of x, widened to include 0."""
    return torch.linspace(min(x.min().item(), 0), max(x.max().item(), 0), 5000, dtype=x.dtype)


# ---------------------------------------------------------------------------------------------- the grid


@given(low=floats(-9, 9), width=floats(0.01, 9), bits=st.integers(2, 10), symmetric=st.booleans())
def test_zero_is_a_point_of_every_grid(low, width, bits, symmetric):
    """r = 0 becomes q = Z and Z becomes exactly 0, whatever the range, one that excludes 0 as well.

    Source: Jacob et al. 2017, section 2.1: zero must be exactly representable, for zero padding.
    """
    grid = observed(torch.tensor([low, low + width], dtype=torch.float64), bits=bits, symmetric=symmetric)
    zero = torch.zeros(1, dtype=torch.float64)
    assert not grid.zero_point.is_floating_point() and grid.quant_min <= grid.zero_point <= grid.quant_max
    assert quantize(zero, *grid).int() == grid.zero_point
    laws.assert_same(nearest(zero, grid), zero)


@pytest.mark.parametrize(
    ("seen", "scale", "zero_point"),
    [((3, 5), 5 / 255, 0), ((-5, -3), 5 / 255, 255), ((-1, 2), 3 / 255, 85), ((-2, 8), 10 / 255, 51)],
)
def test_the_affine_grid_covers_the_range_and_zero(seen, scale, zero_point):
    """S = (b − a)/255 and Z = round(−a/S) with a = min(x, 0) and b = max(x, 0).

    Source: Jacob et al. 2017, eq. 13 and section 3: [a, b] is nudged to contain 0.
    """
    grid = observed(torch.tensor(seen, dtype=torch.float64))
    laws.assert_close(grid.scale, torch.tensor(scale, dtype=torch.float64))
    assert (grid.zero_point, grid.quant_min, grid.quant_max) == (zero_point, 0, 255)


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_the_symmetric_grid_leaves_out_the_lowest_integer(bits):
    """S = max|x|/(2^(b−1) − 1), Z = 0, q in ±(2^(b−1) − 1): 8 bits never give −128.

    Source: Jacob et al. 2017, section 3.1 and appendix B: weights take −127 to 127.
    """
    most = 2 ** (bits - 1) - 1
    grid = observed(torch.tensor([-7.0, 3.0], dtype=torch.float64), bits=bits, symmetric=True)
    laws.assert_close(grid.scale, torch.tensor(7 / most, dtype=torch.float64))
    assert (grid.zero_point, grid.quant_min, grid.quant_max) == (0, -most, most)
    found = quantize(torch.tensor([-7.0, 7.0, -1e6, 1e6], dtype=torch.float64), *grid)
    laws.assert_same(found.int(), whole(-most, most, -most, most))


@given(x=varied((40,)), bits=st.integers(2, 10), symmetric=st.booleans())
def test_the_error_is_at_most_half_a_step(x, bits, symmetric):
    """|x − S(q − Z)| <= S/2 for every value of the range that the observer saw, and some error exceeds S/4.

    Source: Jacob et al. 2017, eq. 12: ⌊·⌉ rounds to nearest.
    """
    grid = observed(x, bits=bits, symmetric=symmetric)
    x = torch.cat([x, between(x)])  # some of 5,000 steps over the range of at most 1,023 S lies off the grid
    error = (nearest(x, grid) - x).abs() / grid.scale
    assert error.max() <= 0.5 + 1e-9, f"expected at most half a step, found {error.max():.3f} steps"
    assert error.max() > 0.25


@pytest.mark.states("limiting case")
@given(x=varied((30,)), low=floats(-2, -0.5), high=floats(0.5, 2), bits=st.integers(2, 8))
def test_values_outside_saturate(x, low, high, bits):
    """Beyond the range q is q_min or q_max: it does not wrap.

    Source: Jacob et al. 2017, eq. 12: clamp(r; a, b).
    """
    grid = observed(torch.tensor([low, high], dtype=torch.float64), bits=bits)
    ends = (torch.tensor([0.0, 2**bits - 1], dtype=torch.float64) - grid.zero_point) * grid.scale
    far = 100 * x
    laws.assert_close(nearest(far, grid)[far > high + 1], ends[1].expand(int((far > high + 1).sum())))
    laws.assert_close(nearest(far, grid)[far < low - 1], ends[0].expand(int((far < low - 1).sum())))


@given(x=varied((30,)), bits=st.integers(2, 8), symmetric=st.booleans())
def test_quantizing_twice_changes_nothing_and_order_is_kept(x, bits, symmetric):
    """Q(Q(x)) = Q(x), and x <= y gives Q(x) <= Q(y).

    Source: Jacob et al. 2017, eq. 12: a projection onto a grid.
    """
    grid = observed(x[:20], bits=bits, symmetric=symmetric)
    # From end to end of the grid and beyond, so that more than two of its points are met.
    x = torch.cat([x, torch.linspace(-1, 1, 99, dtype=x.dtype) * x.abs().max()])
    once = nearest(x, grid)
    laws.assert_same(quantize(once, *grid), quantize(x, *grid))
    assert (nearest(x.sort().values, grid).diff() >= 0).all()
    assert once.unique().numel() > 2


@given(x=varied((30,)), bits=st.integers(2, 8))
def test_symmetric_grids_are_odd(x, bits):
    """q(−x) = −q(x).

    Source: Jacob et al. 2017, section 3.1: Z = 0 and a range without −128.
    """
    grid = observed(x, bits=bits, symmetric=True)
    laws.equivariant(lambda t: quantize(4 * t, *grid).int(), x, torch.neg)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_halves_round_to_even_before_the_zero_point_joins(dtype):
    """At S = 1 and Z = 3 the values ½, 1½, 2½, −½, −1½ become 3 + (0, 2, 2, 0, −2).

    Source: Jacob et al. 2017, eq. 12.  Convention: torch's and ONNX's; half up would give 1, 2, 3, 0, −1, and rounding
    x + Z would give 1, 1, 3, −1, −1.
    """
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5], dtype=dtype)
    found = quantize(x, torch.ones((), dtype=dtype), whole(3)[0])
    laws.assert_same(found, whole(3, 5, 5, 3, 1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, torch.uint8),
        (-128, 127, torch.int8),
        (-127, 127, torch.int8),
        (0, 256, torch.int16),
        (-1, 255, torch.int16),
        (-129, 127, torch.int16),
        (0, 65535, torch.int32),
    ],
)
def test_integers_are_stored_in_the_smallest_type(low, high, dtype):
    """0 … 255 fits in uint8, −128 … 127 in int8: a quarter of the bytes of float32; the ends survive.

    Source: Jacob et al. 2017, section 2.1: 8-bit arrays.  Convention: wider grids take int16 or int32.
    """
    found = quantize(torch.tensor([-1e6, 1e6]), torch.tensor(0.5), whole(0)[0], low, high)
    laws.assert_same(found, whole(low, high, dtype=dtype))


def test_dequantizing_subtracts_in_a_wider_type():
    """(3 − 200)·½ = −98.5 for uint8 3 and Z = 200: the difference of two unsigned bytes is negative.

    Source: Jacob et al. 2017, eq. 1.
    """
    found = dequantize(whole(3, 200, 255, dtype=torch.uint8), torch.tensor(0.5), whole(200)[0])
    laws.assert_same(found, torch.tensor([-98.5, 0.0, 27.5]))


@pytest.mark.states("dependence")
@given(x=varied((2, 3, 4)), axis=st.integers(-3, 2), symmetric=st.booleans())
def test_channels_are_quantized_one_by_one(x, axis, symmetric):
    """Along any axis, each channel has the codes and the values that it has alone.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2.1: per-channel quantization.
    """
    x = x * torch.arange(1, 1 + x.shape[axis]).double().reshape(-1, *[1] * (-1 - axis if axis < 0 else 2 - axis))
    grid = observed(x, channels=x.shape[axis], axis=axis, symmetric=symmetric)
    q, r = quantize(x, *grid), nearest(x, grid)
    for n, channel in enumerate(x.unbind(axis)):
        alone = observed(channel, symmetric=symmetric)
        laws.assert_same(q.select(axis, n), quantize(channel, *alone))
        laws.assert_close(r.select(axis, n), nearest(channel, alone))


@given(x=varied((30,)), factor=floats(0.01, 50))
def test_the_unit_of_measurement_is_no_information(x, factor):
    """Q(c·x; c·S) = c·Q(x; S): a scaled input has scaled ranges and the same integers.

    Source: Jacob et al. 2017, eq. 1 and 13: S is linear in the range.
    """
    steps = x / observed(x).scale
    assume(((steps - steps.floor() - 0.5).abs() > 1e-6).all())  # no tie that rounding of c·x could turn
    laws.assert_same(quantize(factor * x, *observed(factor * x)), quantize(x, *observed(x)))
    laws.equivariant(lambda t: nearest(t, observed(t)), x, lambda t: factor * t)


@given(seed=seeds())
def test_per_channel_error_does_not_see_the_scale_of_other_channels(seed):
    """With rows scaled by 10⁻³ … 1, each row's relative error stays as it was per channel, and is lost per tensor.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1: ranges of channels differ by large factors.
    """
    weight = normal(4, 50, seed=seed)
    factors = torch.tensor([1e-3, 1, 0.03, 0.2], dtype=torch.float64).unsqueeze(1)

    def error(w, per_channel):
        return (nearest(w, weight_grid(w, 8, per_channel)) - w).norm(dim=1) / w.norm(dim=1)

    laws.invariant(lambda w: error(w, True), weight, lambda w: factors * w)
    assert error(factors * weight, False)[0] > 0.9 and error(weight, False).max() < 0.05


def test_a_weights_own_grid():
    """The grid of a weight is symmetric over max|w|, of each output (dimension 0, whatever follows) or of all; default
    8 bits and per channel.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.1; dimension 0 of (out, in) and of (out, in, H, W).
    """
    weight = torch.tensor([[[-1.0, 0.5]], [[0.2, 4.0]]]).double()
    rows, whole_one = weight_grid(weight), weight_grid(weight, 3, False)
    laws.assert_close(rows.scale, torch.tensor([1.0, 4.0], dtype=torch.float64) / 127)
    laws.assert_close(whole_one.scale, torch.tensor(4.0, dtype=torch.float64) / 3)
    laws.assert_same(rows.zero_point, whole(0, 0))
    assert rows[2:] == (-127, 127, 0) and whole_one[2:] == (-3, 3, 0)
    assert not weight_grid(nn.Parameter(weight)).scale.requires_grad


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("symmetric", [False, True])
def test_only_zeros_seen_is_no_division_by_zero(symmetric):
    """A range of [0, 0] gets the smallest step, 2⁻²³, and zeros stay zeros.

    Convention: S is at least the float32 epsilon, as in torch's observers.
    """
    grid = observed(torch.zeros(3).double(), symmetric=symmetric)
    assert grid.scale == 2.0**-23
    laws.assert_same(nearest(torch.zeros(3).double(), grid), torch.zeros(3).double())


def test_bfloat16_is_quantized_at_full_precision():
    """A bfloat16 value gets the integer of its float32 copy: dividing by S in 8 bits of mantissa would miss.

    Source: Jacob et al. 2017, eq. 1, evaluated in the type of S.
    """
    x = normal(500, dtype=torch.float32).bfloat16()
    grid = Grid(torch.tensor(0.0123), whole(128)[0], 0, 255)
    laws.assert_same(quantize(x, *grid), quantize(x.float(), *grid))


def test_signal_to_noise_grows_six_decibels_a_bit():
    """A Gaussian cut at 3σ has 18.2, 31.1, 43.3, 55.4 dB at 4, 6, 8, 10 bits: noise S²/12, so 6.02 dB a bit.

    Measured: within 0.1 dB of these (4 seeds); rounding down costs 6 dB, twice the step costs 6 dB.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2; Bennett 1948: uniform noise of variance S²/12.
    """
    x = normal(40_000).clamp(-3, 3)
    found = []
    for bits in (4, 6, 8, 10):
        noise = nearest(x, observed(x, bits=bits, symmetric=True)) - x
        found.append(10 * math.log10(x.square().mean() / noise.square().mean()))
    expected = torch.tensor([18.2, 31.1, 43.3, 55.4])
    laws.assert_close(torch.tensor(found), expected, rtol=0, atol=0.3, because="40,000 samples; the claim is 6 dB")


# ---------------------------------------------------------------------------------------------- observers


def of_ranges(function):
    return pytest.mark.parametrize("options", [{}, {"channels": 3, "axis": 1}], ids=["tensor", "channels"])(function)


def ends(batches, options):
    """(batches, channels) smallest and largest elements."""
    flat = [b.movedim(1, 0).flatten(1) if options else b.reshape(1, -1) for b in batches]
    return torch.stack([b.amin(1) for b in flat]), torch.stack([b.amax(1) for b in flat])


def check_range(watcher, low, high):
    """The buffers hold the range."""
    laws.assert_close(watcher.min_val.reshape(-1), low)
    laws.assert_close(watcher.max_val.reshape(-1), high)


@of_ranges
@given(seed=seeds())
def test_min_max_covers_all_that_was_seen(options, seed):
    """a = min and b = max over all batches, in any order; the input passes unchanged.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2; Jacob et al. 2017, section 3.1.
    """
    batches = [normal(2, 3, 4, seed=seed + n) * k for n, k in enumerate((1, 3, 0.5))]
    watcher = MinMaxObserver(**options).double()
    for batch in batches:
        assert watcher(batch) is batch
    low, high = ends(batches, options)
    check_range(watcher, low.amin(0), high.amax(0))


@of_ranges
@given(seed=seeds(), constant=floats(0.05, 1))
def test_the_moving_average_follows_the_batches(options, seed, constant):
    """a ← a + c(min x − a), starting at the first batch's own: after three, (1−c)²a₁ + c(1−c)a₂ + c·a₃.

    Source: Jacob et al. 2017, section 3.1: exponential moving averages.  Convention: c is the new batch's weight.
    """
    batches = [normal(2, 3, 4, seed=seed + n) * k for n, k in enumerate((1, 3, 0.5))]
    watcher = MovingAverageMinMaxObserver(averaging_constant=constant, **options).double()
    for batch in batches:
        assert watcher(batch) is batch
    weights = torch.tensor([(1 - constant) ** 2, constant * (1 - constant), constant], dtype=torch.float64).unsqueeze(1)
    low, high = ends(batches, options)
    check_range(watcher, (weights * low).sum(0), (weights * high).sum(0))


def test_a_hundredth_is_the_moving_averages_default():
    """c = 0.01: an outlier of 100 after a batch in ±1 moves the upper end to 1.99.

    Source: Jacob et al. 2017, section 3.1: a smoothing parameter close to 1.  Convention: torch's default, 0.01.
    """
    watcher = MovingAverageMinMaxObserver().double()
    watcher(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    watcher(torch.tensor([-1.0, 100.0], dtype=torch.float64))
    check_range(watcher, torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.99], dtype=torch.float64))


@given(seed=seeds(), percentile=st.sampled_from([75, 95.0, 99.0]), order=st.permutations([0, 1, 2]))
def test_percentiles_leave_out_the_most_extreme(seed, percentile, order):
    """The range is that between the quantiles 1 − p and p of everything seen, to the width of a bin on the outside.

    Source: Wu et al. 2020, arXiv:2004.09602, section 3.1.
    """
    batches = [normal(500, seed=seed), 9 * normal(300, seed=seed + 1) + 2, 0.1 * normal(200, seed=seed + 2)]
    batches = [batches[n] for n in order]
    watcher = PercentileObserver(bits=10, percentile=percentile, bins=256).double()
    for batch in batches:
        assert watcher(batch) is batch
    grid, seen = watcher.grid(), torch.cat(batches)
    width = 2 * seen.abs().max() / 256  # at most doubled once too often
    wanted = [seen.quantile(1 - percentile / 100, interpolation=i) for i in ("lower", "higher")]
    top = [seen.quantile(percentile / 100, interpolation=i) for i in ("lower", "higher")]
    low, high = (torch.tensor([0.0, 1023.0], dtype=torch.float64) - grid.zero_point) * grid.scale
    slack = width + grid.scale  # Z is rounded: the range moves by half a step
    assert wanted[0] - slack <= low <= wanted[1] + grid.scale
    assert top[0] - grid.scale <= high <= top[1] + slack


def test_old_counts_survive_a_wider_batch():
    """Counts of [−0.75, 0.25, 0.75, 1] in 4 + 4 bins, then of 3: bins of 1/4 become bins of 1, none is lost.

    Source: Wu et al. 2020, arXiv:2004.09602, section 3.1.  Convention: the width doubles until the batch fits, and
    neighbours, counted from 0, join; a bin includes its lower end.
    """
    first, second = torch.tensor([-0.7, 0.3, 0.7, 1.0]), torch.tensor([3.0, -0.1])
    for batches, percentile, low, high in (
        ([first], 100, -0.75, 1),  # counts 0 1 0 0 | 0 1 1 1: whole bins of 1/4
        ([first], 70, 0, 0.75),  # 1.2 of 4 may go: one at each end, and 0 stays
        ([first, second], 100, -1, 4),  # counts 0 0 0 2 | 3 0 0 1
        ([first, second], 80, -1, 1),  # 1.2 of 6: the 3 goes, the two left of 0 stay
        ([first, second], 60, 0, 1),  # 2.4 of 6: those two go as well, the three right of 0 stay
    ):
        grid = observed(*batches, observer=PercentileObserver, percentile=percentile, bins=4)
        laws.assert_close(grid.scale, torch.tensor((high - low) / 255, dtype=torch.float64))
        assert grid.zero_point == round(-low * 255 / (high - low))


def test_the_percentile_is_counted_at_both_ends():
    """Of 1000 evenly spread values in ±1 the default, 99.9 %, leaves out one at each end, and 90 % a hundred.

    Source: Wu et al. 2020, arXiv:2004.09602, section 3.1.
    """
    x = (torch.arange(1000) + 0.5).double() / 500 - 1
    for options, left_out in (({}, 0), ({"percentile": 90.0}, 100)):
        grid = observed(x, x, observer=PercentileObserver, symmetric=True, **options)
        high = grid.scale * 127
        assert 1 - (left_out + 2) / 500 <= high <= 1 - (left_out - 2) / 500
    outlier = torch.cat([x, torch.tensor([50.0], dtype=torch.float64)])
    assert observed(outlier, observer=PercentileObserver).scale * 255 < 2.2 < observed(outlier).scale * 255


@pytest.mark.states("gradient routing")
@pytest.mark.parametrize("observer", [MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver])
def test_observing_leaves_the_graph_alone(observer):
    """Observed ranges carry no gradient and the gradient passes the observer unchanged; an empty batch is no range.

    Source: Jacob et al. 2017, section 3.1: ranges are collected, not learned.
    """
    watcher, x = observer(), normal(2, 3, dtype=torch.float32).requires_grad_()
    y = watcher(x)
    watcher(torch.zeros(0, 3))
    assert not watcher.grid().scale.requires_grad
    laws.assert_same(torch.autograd.grad(y.sum(), x)[0], torch.ones(2, 3))
    laws.assert_close(watcher.grid().scale, observer_range(x, watcher) / 255)


@pytest.mark.project_convention
@pytest.mark.parametrize("options", [{}, {"channels": 3, "axis": 1}], ids=["tensor", "channels"])
@pytest.mark.parametrize("observer", [MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver])
def test_observers_compile(observer, options):
    """An observer is captured in one graph with what surrounds it, and sees there what it sees in eager mode.

    Convention: this project's; torch's observers break the graph, so peers are not asked.
    """
    options = {} if observer is PercentileObserver else options
    laws.compiles(lambda: observer(**options), (normal(2, 3, 4, dtype=torch.float32),))
    torch._dynamo.reset()
    first, second = observer(**options), observer(**options)
    compiled = torch.compile(first, backend="eager", fullgraph=True)
    with laws.without_shape_checks():
        for n in range(2):
            x = normal(2, 3, 4, seed=n, dtype=torch.float32)
            compiled(x), second(x)
    laws.assert_close(first.grid().scale, second.grid().scale)


def observer_range(x, watcher):
    """The exact range; a histogram's ends are those of its bins."""
    low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
    if isinstance(watcher, PercentileObserver):
        width = x.detach().abs().max() / 2048  # the default
        low, high = (low / width).floor() * width, ((high / width).floor() + 1).clamp(max=2048) * width
    return high - low


# ---------------------------------------------------------------------------------------------- integer arithmetic


@pytest.mark.states("equivalence")
@given(seed=seeds(), per_column=st.booleans())
def test_integer_products_are_the_real_ones(seed, per_column):
    """S₁S₂ Σ (q₁ − Z₁)(q₂ − Z₂) = Σ r₁r₂, with the sum in int32 of 8-bit integers.

    Source: Jacob et al. 2017, eq. 7: N Z₁Z₂ − Z₁a₂ − Z₂a₁ + Σ q₁q₂.
    """
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(0, 256, (2, 3, 7), generator=generator).to(torch.uint8)
    right = torch.randint(-128, 128, (7, 4), generator=generator).to(torch.int8)
    z1, z2 = whole(131)[0], whole(-5, 3, 0, 99) if per_column else whole(17)[0]
    found = integer_matmul(left, z1, right, z2)
    assert found.dtype == torch.int32
    real = dequantize(left, torch.tensor(0.01, dtype=torch.float64), z1) @ (0.03 * (right.double() - z2))
    laws.assert_close(found * torch.tensor(0.01, dtype=torch.float64) * 0.03, real)


def test_sums_exceed_sixteen_bits():
    """10,000 products of 255 and 127 add up to 323,850,000 without wrapping.

    Source: Jacob et al. 2017, section 2.2: int32 += uint8·uint8.
    """
    left, right = torch.full((1, 10_000), 255, dtype=torch.uint8), torch.full((10_000, 2), 127, dtype=torch.int8)
    laws.assert_same(
        integer_matmul(left, whole(0)[0], right, whole(0)[0]), whole(323_850_000, 323_850_000).reshape(1, 2)
    )
    shifted = integer_matmul(left, whole(200)[0], right, whole(-100)[0])
    laws.assert_same(shifted, whole(124_850_000, 124_850_000).reshape(1, 2))


@given(value=floats(1e-9, 1e4))
def test_a_real_factor_is_an_integer_and_a_shift(value):
    """M = 2⁻ⁿ M₀ with M₀ in [½, 1), as the int32 M₀·2³¹: at least 30 bits of M.

    Source: Jacob et al. 2017, eq. 6.
    """
    mantissa, shift = fixed_point(torch.tensor([value], dtype=torch.float64))
    assert mantissa.dtype == shift.dtype == torch.int32
    assert 2**30 <= mantissa.item() < 2**31
    gap = mantissa.item() * 2.0 ** -(31 + shift.item()) / value - 1
    assert abs(gap) <= 2**-31


def test_the_factor_of_the_paper_and_its_edges():
    """0.0072 is 2⁻⁷·0.9216; what rounds to M₀ = 1 carries; 2^n are exact; below 2⁻³² digits are lost and no error.

    Source: Jacob et al. 2017, eq. 6: round(0.9216·2³¹) = 1979120930.
    """
    values = torch.tensor([0.0072, 1 - 2.0**-40, 1.0, 0.5, 3.0, 2.0**-40, 0.75 * 2.0**-32], dtype=torch.float64)
    mantissa, shift = fixed_point(values)
    laws.assert_same(mantissa, whole(1979120930, 2**30, 2**30, 2**30, 3 * 2**29, 2**22, 3 * 2**28))
    laws.assert_same(shift, whole(7, -1, -1, 0, -2, 31, 31))


@given(seed=seeds(), value=floats(1e-5, 3))
def test_rescaling_in_integers_is_within_half_a_unit(seed, value):
    """round(M·a) by an integer product and a shift differs from M·a by at most ½ + 2⁻⁸, negative sums too.

    Source: Jacob et al. 2017, section 2.2: fixed-point multiplication and a rounding bit-shift.
    """
    total = torch.randint(-(2**23), 2**23, (50,), generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    mantissa, shift = fixed_point(torch.full((50,), value, dtype=torch.float64))
    found = rescale(total, mantissa, shift)
    assert found.dtype == torch.int32
    gap = (found.double() - value * total.double()).abs().max()
    assert gap <= 0.5 + 2**-7, f"expected at most half a unit, found {gap:.4f}"


def test_halves_of_the_rescaled_sum_round_up():
    """M = ½ on 5, 3, −3, −5 gives 3, 2, −1, −2, and sums near 2³¹ do not overflow.

    Source: Jacob et al. 2017, section 2.2.  Convention: halves up, as adding half and shifting does.
    """
    mantissa, shift = fixed_point(torch.full((6,), 0.5, dtype=torch.float64))
    found = rescale(whole(5, 3, -3, -5, 2**31 - 2, -(2**31)), mantissa, shift)
    laws.assert_same(found, whole(3, 2, -1, -2, 2**30 - 1, -(2**30)))


# ---------------------------------------------------------------------------------------------- the layer


def layer(seed=0, bias=True, d_in=7, d_out=5):
    torch.manual_seed(seed)
    linear = nn.Linear(d_in, d_out, bias=bias).double()
    return laws.randomise(linear, seed)


def quantized(linear, x, bits=8, per_channel=True):
    """The layer in integers, with ranges from x."""
    with torch.no_grad():
        weight = weight_grid(linear.weight, bits, per_channel)
        return QuantizedLinear.from_float(linear, weight, observed(x), observed(linear(x)))


@given(seed=seeds(), bias=st.booleans(), per_channel=st.booleans(), bits=st.integers(2, 8))
def test_the_integer_layer_computes_on_its_grids(seed, bias, per_channel, bits):
    """q₃ = Z₃ + (S₁S₂/S₃)(Σ (q₁ − Z₁) q₂ + b/S₁S₂): half a unit of rounding, and half a step S₁S₂ of the bias.

    Source: Jacob et al. 2017, eq. 4; sections 2.3 and 2.4: biases as int32 with S = S₁S₂ and Z = 0.
    """
    linear, x = layer(seed, bias), normal(2, 3, 7, seed=seed) + 0.5
    integer = quantized(linear, x, bits, per_channel)
    real = nearest(x, observed(x)) @ nearest(linear.weight.detach(), weight_grid(linear.weight, bits, per_channel)).T
    real = real if linear.bias is None else real + linear.bias.detach()
    grid = observed(linear(x).detach())
    bias_step = 0 if linear.bias is None else (integer.input_scale * integer.weight_scale / grid.scale).max()
    expected = real.clamp(*((torch.tensor([0.0, 255.0], dtype=torch.float64) - grid.zero_point) * grid.scale))
    gap = ((integer(x) - expected) / grid.scale).abs()
    bound = 0.5 + bias_step / 2 + 1e-6
    assert gap.max() <= bound, f"expected at most {bound:.3f} units of the output, found {gap.max():.3f}"


@pytest.mark.states("cost")
@pytest.mark.parametrize("bias", [True, False])
def test_inference_has_no_floating_point_operation(bias):
    """uint8 in, uint8 out: no operator in between sees or makes a floating-point number.

    Source: Jacob et al. 2017, title and section 2: integer-arithmetic-only inference.
    """
    linear, x = layer(bias=bias), normal(3, 7)
    integer = quantized(linear, x)
    q = quantize(x, *observed(x))
    with _FloatWatch() as watch:
        found = integer.integer_forward(q)
    assert found.dtype == torch.uint8 and found.shape == (3, 5)
    assert not watch.found, f"expected integers only, found floating-point numbers in {watch.found}"
    laws.assert_close(dequantize(found, integer.output_scale, integer.output_zero_point), integer(x))


class _FloatWatch(TorchDispatchMode):
    """Collects the operators that see or make a floating-point tensor."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if laws.tensors((args, kwargs, result)) or any(isinstance(v, float) for v in tree_flatten((args, kwargs))[0]):
            self.found.append(operator.name())
        return result


def test_outputs_outside_the_range_saturate():
    """Inputs ten times as large as in calibration give the ends of the output's grid, not a remainder modulo 256.

    Source: Jacob et al. 2017, section 2.4: a saturating cast to uint8.
    """
    linear = layer()
    linear.weight.data.abs_()
    linear.bias.data.abs_()
    x = normal(30, 7)
    integer = quantized(linear, x)
    q = quantize(torch.full((1, 7), 9.0).double(), *observed(9 * x))
    laws.assert_same(integer.integer_forward(255 * torch.ones_like(q)), whole(*[255] * 5, dtype=torch.uint8)[None])
    laws.assert_same(integer.integer_forward(0 * q), torch.zeros_like(q[:, :5]))


@pytest.mark.parametrize("weight", [0.0, 1e-7])
def test_a_dead_output_keeps_its_bias(weight):
    """A row of zeros, or nearly so, gives its bias: it does not saturate in an int32 of tiny steps S₁S₂.

    Source: Jacob et al. 2017, section 2.4: an error of the bias acts as an overall bias.  Convention: the row's step
    grows.
    """
    linear, x = layer(), normal(20, 7)
    with torch.no_grad():
        linear.weight[1] = weight
        linear.bias[1] = 30.0
    integer = quantized(linear, x)
    laws.assert_close(
        integer(x), linear(x).detach(), rtol=0, atol=integer.output_scale.item() * 2, because="two steps of the output"
    )


@pytest.mark.states("cost")
def test_the_layer_stores_what_integers_need():
    """int8 weights, int32 bias in steps of S₁S₂, the multiplier of eq. 5; a quarter of the weights' bytes.

    Source: Jacob et al. 2017, eq. 5, sections 2.2 and 2.4.
    """
    linear, x = layer(d_in=70), normal(9, 70)
    integer = quantized(linear, x)
    weight, step = weight_grid(linear.weight), observed(x).scale
    laws.assert_same(integer.weight, quantize(linear.weight.detach(), *weight))
    assert integer.weight.dtype == torch.int8 and integer.bias.dtype == torch.int32
    laws.assert_same(integer.bias, (linear.bias / (step * weight.scale)).round().int())
    factor = step * weight.scale / observed(linear(x).detach()).scale
    laws.assert_close(
        integer.multiplier.double() * 2.0 ** -(31 + integer.shift.double()), factor, rtol=1e-9, because="31 bits of M₀"
    )
    assert integer.weight.nbytes * 4 == linear.float().weight.nbytes
    assert not list(integer.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_an_empty_layer_takes_a_state_dict(bias):
    """The constructor makes room for a saved layer: same keys, same outputs after loading.

    Source: the contract of torch.nn.Module.
    """
    linear, x = layer(bias=bias), normal(3, 7)
    integer, new = quantized(linear, x), QuantizedLinear(7, 5, bias=bias).double()
    new.load_state_dict(integer.state_dict())
    laws.assert_same(new(x), integer(x))
    laws.assert_same(new.integer_forward(quantize(x, *observed(x))), integer.integer_forward(quantize(x, *observed(x))))


def test_the_inputs_dtype_is_kept():
    """bfloat16 in, bfloat16 out; grids stay float32, and the input is quantized as its float32 copy.

    Source: the contract of torch.nn modules.  Convention: scales are at least float32.
    """
    linear, x = layer().float(), normal(3, 7, dtype=torch.float32).bfloat16()
    integer, low = quantized(linear, x.float()), quantize_model(linear.bfloat16(), [x])
    assert integer(x).dtype == torch.bfloat16
    laws.assert_same(integer(x), integer(x.float()).bfloat16())
    assert {b.dtype for b in low.buffers() if b.is_floating_point()} == {torch.float32}


# ---------------------------------------------------------------------------------------------- folding


def trained_norm(norm, seed=0):
    """Statistics and parameters that differ from channel to channel, ε that matters."""
    generator = torch.Generator().manual_seed(seed)
    norm = norm.double().eval()
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.1, 3, generator=generator)
    return laws.randomise(norm, seed)


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_folded_norm_changes_no_output(kind, affine, bias):
    """W_fold = γW/√(σ² + ε), b_fold = β + γ(b − μ)/√(σ² + ε): layer and norm in one, in evaluation the same to 1e-10.

    Source: Jacob et al. 2017, eq. 14; Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.
    """
    if kind == "linear":
        first, norm, x = nn.Linear(4, 3, bias=bias), nn.BatchNorm1d(3, eps=0.1, affine=affine), normal(5, 4)
    else:
        first, norm = nn.Conv2d(4, 3, 2, bias=bias), nn.BatchNorm2d(3, eps=0.1, affine=affine)
        x = normal(2, 4, 5, 3)
    first, norm = laws.randomise(first.double()), trained_norm(norm)
    before = copy.deepcopy(first.state_dict())
    folded = fold_batch_norm(first, norm)
    laws.gradients_match(lambda t: folded(t), lambda t: norm(first(t)), x)
    laws.assert_all_close(first.state_dict(), before)
    laws.assert_differs(folded.weight, first.weight, by=0.1)
    assert type(folded) is type(first)


# ---------------------------------------------------------------------------------------------- whole models


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)).double()


@given(seed=seeds(), bits=st.integers(4, 8))
def test_a_model_is_quantized_layer_by_layer(seed, bits):
    """Every linear layer becomes an integer layer with the grids of what it saw; the original is unchanged.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1: weights, then calibration of activations.
    """
    model, batches = network(seed), [normal(20, 6, seed=seed + n) * (n + 1) for n in range(2)]
    before = copy.deepcopy(model.state_dict())
    found = quantize_model(model, batches, bits=bits)
    laws.assert_all_close(model.state_dict(), before)
    assert model.training and not found.training and not any(m.training for m in found.modules())
    x = torch.cat(batches)
    expected = copy.deepcopy(model).eval()
    for n in (0, 3):
        with torch.no_grad():
            seen = expected[:n](x)
            outputs = expected[n](seen)
        grid = weight_grid(expected[n].weight, bits)
        want = QuantizedLinear.from_float(expected[n], grid, observed(seen), observed(outputs))
        for name, value in want.state_dict().items():
            laws.assert_close(found[n].state_dict()[name].double(), value.double(), what=name)
    assert [type(m).__name__ for m in found] == ["QuantizedLinear", "ReLU", "Dropout", "QuantizedLinear"]


def test_eight_bits_and_channels_are_the_default():
    """quantize_model(model, batches) is per channel at 8 bits; per_channel=False gives all rows one scale.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 7: per-channel weights, 8 bits.
    """
    model, batches = network(), [normal(20, 6)]
    default, tensor = quantize_model(model, batches), quantize_model(model, batches, per_channel=False)
    laws.assert_close(default[0].weight_scale, model[0].weight.detach().abs().amax(1) / 127)
    laws.assert_close(tensor[0].weight_scale, (model[0].weight.detach().abs().max() / 127).expand(8))
    (x,) = batches
    error = [(quantize_model(model, batches, bits=b)(x) - model.eval()(x)).norm() for b in (2, 4, 8)]
    assert error[0] > 2 * error[1] > 8 * error[2]


def test_a_shared_layer_stays_shared():
    """A layer that is used twice is one integer layer in both places, with the range of both; a lone layer works too.

    Source: Krishnamoorthi 2018, section 3.1: ranges of all activations that a layer sees.
    """
    shared = laws.randomise(nn.Linear(3, 3)).double()
    x = normal(4, 3)
    found = quantize_model(nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU(), shared)})["a"], [x])
    assert found[0] is found[2] and isinstance(found[0], QuantizedLinear)
    with torch.no_grad():
        seen = torch.cat([x, shared(x).relu()])
    laws.assert_close(found[0].input_scale, observed(seen).scale)
    assert isinstance(quantize_model(shared, [x]), QuantizedLinear)
    assert not shared._forward_hooks and not found[0]._forward_hooks and not found._forward_hooks


def test_any_observer_may_watch():
    """`observer` decides about the range: with percentiles one outlier in calibration costs no precision.

    Source: Wu et al. 2020, arXiv:2004.09602, section 3.1: calibration by percentile.
    """
    model, x = network(), normal(2000, 6)
    spoiled = x.clone()
    spoiled[0] = 1000.0
    expected = model.eval()(x)

    def error(observer):
        return (quantize_model(model, [spoiled], observer=observer)(x) - expected).norm() / expected.norm()

    assert error(PercentileObserver) < 0.05 < 0.3 < error(MinMaxObserver)
