"""Quantization-aware training.  Jacob et al. 2017, arXiv:1712.05877; Esser et al. 2019, arXiv:1902.08153."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.compression.quantization import Grid, QuantizedLinear, dequantize, quantize, weight_grid
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
from spec import laws
from spec.strategies import floats, seeds, varied

pytestmark = pytest.mark.item("quantization-aware-training")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


def whole(*values):
    return torch.tensor(values, dtype=torch.int32)


# ---------------------------------------------------------------------------------------------- straight through


@pytest.mark.states("equivalence")
@given(x=varied((3, 4, 5)), step=floats(0.01, 1), zero_point=st.integers(-3, 20), bits=st.integers(2, 8))
def test_fake_quantization_is_quantization_and_back(x, step, zero_point, bits):
    """x̂ = S (q − Z) with q bitwise the integers of inference: training sees what will run.

    Source: Jacob et al. 2017, section 3: simulated quantization.
    """
    ends = (-4, 2**bits)
    for scale, point, axis in (
        (real(step)[0], whole(zero_point)[0], 0),
        (real(step, 0.3, 0.02, 1), whole(zero_point, 0, 5, -2), 1),
    ):
        found = fake_quantize(x, scale, point, *ends, axis)
        laws.assert_same(found, dequantize(quantize(x, scale, point, *ends, axis), scale, point, axis))


@pytest.mark.parametrize("zero_point", [2, 3])
def test_ties_round_to_even_before_the_zero_point_is_added(zero_point):
    """At S = 1 the values ½, 1½, 2½, −½, −1½ become 0, 2, 2, 0, −2, whether Z is even or odd.

    Rounding x/S + Z instead gives 1, 1, 3, −1, −1 for an odd Z, and training another network than the one that runs.

    Source: Jacob et al. 2017, eq. 12.  Convention: Z is added after rounding, as in torch and ONNX.
    """
    found = fake_quantize(real(0.5, 1.5, 2.5, -0.5, -1.5), real(1.0)[0], whole(zero_point)[0], 0, 15)
    laws.assert_close(found, real(0, 2, 2, 0, -2))


@pytest.mark.states("dependence")
def test_the_gradient_is_one_inside_and_zero_outside():
    """At S = ½, Z = 3 and 0 … 7 the range is −1.5 … 2; gradient passes from −1.74 to 2.24, which round into it.

    Source: Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2017, section 3.  Convention: what rounds to an end is
    inside, as in torch; a mask that is 0 at the ends stops weights that sit there for good.
    """
    x = real(-9, -1.76, -1.74, -1.5, 0, 0.1, 2, 2.24, 2.26, 9).requires_grad_()
    y = fake_quantize(x, real(0.5)[0], whole(3)[0], 0, 7)
    cotangent = real(*range(2, 12))
    laws.assert_same(torch.autograd.grad(y, x, cotangent)[0], cotangent * real(0, 0, 1, 1, 1, 1, 1, 1, 0, 0))


@given(x=varied((2, 3, 4)), seed=seeds())
def test_gradients_agree_with_torch(x, seed):
    """Output and gradient are those of torch.fake_quantize_per_tensor_affine and per_channel_affine.

    Source: Jacob et al. 2017, eq. 12.  Convention: torch's fake quantization.
    """
    x = x.float() * 2
    scale, points = torch.tensor([0.13, 0.05, 0.4]), whole(3, 0, 14)
    laws.gradients_match(
        lambda t: fake_quantize(t, scale, points, 0, 15, 1),
        lambda t: torch.fake_quantize_per_channel_affine(t, scale, points, 1, 0, 15),
        x,
    )
    laws.gradients_match(
        lambda t: fake_quantize(t, scale[0], points[0], -8, 7),
        lambda t: torch.fake_quantize_per_tensor_affine(t, scale[0], points[0], -8, 7),
        x,
    )


def test_the_gradient_is_not_the_derivative():
    """Central differences of a staircase are 0 nearly everywhere; the straight-through gradient is 1.

    Source: Bengio et al. 2013, arXiv:1308.3432, section 3.1: a biased estimator, on purpose.
    """
    x = normal(6).requires_grad_()

    def staircase(t):
        return fake_quantize(t, real(0.1)[0], whole(128)[0])

    assert not torch.autograd.gradcheck(staircase, x, raise_exception=False)
    laws.gradient_reaches(staircase(x).sum(), {"x": x})


@pytest.mark.states("second derivative")
def test_second_derivatives_treat_rounding_as_a_constant():
    """∂²x̂/∂x² = 0, and the gradient of x̂² is 2x̂ inside, of derivative 2: a mask times a product is differentiated.

    Source: Bengio et al. 2013, arXiv:1308.3432; the derivative of the estimator.
    """
    x = real(-9, -0.3, 0.77, 9).requires_grad_()
    y = fake_quantize(x, real(0.5)[0], whole(3)[0], 0, 7)
    (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    laws.assert_close(first.detach(), real(0, -1, 2, 0))
    (second,) = torch.autograd.grad(first.sum(), x)
    laws.assert_close(second, real(0, 2, 2, 0))


def test_scales_of_fake_quantization_get_no_gradient():
    """S of an observed range is data: no gradient reaches it, and the input is not changed.

    Source: Jacob et al. 2017, section 3.1: ranges are collected.
    """
    x, scale = normal(4).requires_grad_(), real(0.25)[0].requires_grad_()
    before = x.detach().clone()
    y = fake_quantize(x, scale, whole(128)[0])
    laws.gradient_reaches(y.sum(), {"x": x}, {"scale": scale})
    laws.assert_same(x.detach(), before)


@pytest.mark.states("limiting case")
@given(x=varied((60,)))
def test_each_bit_halves_the_error(x):
    """From 4 to 16 bits the largest error is at most half a step, a step that halves a bit; the gradient is exactly 1.

    Source: Jacob et al. 2017, eq. 13: S = (b − a)/(2ᵇ − 1).
    """
    width = x.max().clamp(min=0) - x.min().clamp(max=0)
    for bits in (4, 8, 12, 16):
        quantizer = FakeQuantize(bits=bits).double()
        leaf = x.clone().requires_grad_()
        y = quantizer(leaf)
        error = (y - x).detach().abs().max()
        assert 0 < error <= width / (2**bits - 1) / 2 * (1 + 1e-6)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        assert (gradient == 1).sum() >= 58  # Z is rounded: an end may round to one integer too many


# ---------------------------------------------------------------------------------------------- ranges


@pytest.mark.states("dependence")
@given(seed=seeds(), constant=floats(0.05, 1))
def test_ranges_move_in_training_and_are_constant_in_evaluation(seed, constant):
    """a, b follow the training batches as a moving average; evaluation uses them and changes nothing.

    Source: Jacob et al. 2017, section 3.1: exponential moving averages, and fixed ranges at inference.
    """
    quantizer = FakeQuantize(bits=6, averaging_constant=constant).double()
    first, second, wide = normal(50, seed=seed), 3 * normal(50, seed=seed + 1), 100 * normal(50, seed=seed + 2)
    quantizer(first), quantizer(second)
    low, high = ((1 - constant) * f(first) + constant * f(second) for f in (torch.min, torch.max))
    before = copy.deepcopy(quantizer.state_dict())
    y = quantizer.eval()(wide)
    laws.assert_all_close(quantizer.state_dict(), before)
    scale = (high - low) / 63
    laws.assert_close(quantizer.grid().scale, scale)
    point = -(low / scale).round()
    laws.assert_close(y, ((wide / scale).round() + point).clamp(0, 63).sub(point) * scale)


def test_the_first_batch_is_quantized_on_its_own_range():
    """In the first training step the range is already the batch's: no clipping, error half a step of it.

    Source: Jacob et al. 2017, section 3.1.  Convention: the range is updated before it is used, as in torch.
    """
    x = normal(50)
    y = FakeQuantize().double()(x)
    assert (y - x).abs().max() <= (x.max() - x.min()) / 255 / 2 * (1 + 1e-9)
    watcher = FakeQuantize().double()
    watcher(real(-1, 1)), watcher(real(-1, 100))
    laws.assert_close(watcher.grid().scale, real(2.99 / 255)[0])  # −1 … 0.99·1 + 0.01·100


def test_channels_may_have_ranges_of_their_own():
    """FakeQuantize(channels=3, axis=1) gives each channel the step of its own range; symmetric ones have Z = 0.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2.1.
    """
    x = normal(20, 3, 2) * real(1, 10, 0.1)[:, None]
    quantizer = FakeQuantize(bits=5, symmetric=True, channels=3, axis=1).double()
    y = quantizer(x)
    step = x.abs().amax((0, 2)) / 15
    laws.assert_close(quantizer.grid().scale, step)
    laws.assert_same(quantizer.grid().zero_point, whole(0, 0, 0))
    laws.assert_close(y, (x / step[:, None]).round() * step[:, None])


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_weights_grid_is_that_of_this_moment(per_channel):
    """When weights shrink their step shrinks with them, in training and in evaluation: no memory of larger ones.

    Source: Jacob et al. 2017, section 3.1: a := min w, b := max w for weights.
    """
    quantizer = WeightFakeQuantize(3, per_channel)
    for weight in (10 * normal(4, 5), normal(4, 5, seed=1)):
        largest = weight.abs().amax(1, keepdim=True) if per_channel else weight.abs().max()
        expected = (weight / largest * 3).round() * largest / 3
        laws.assert_close(quantizer(weight), expected)
        laws.assert_close(quantizer.eval()(weight), expected)
    assert not quantizer.state_dict()


# ---------------------------------------------------------------------------------------------- learned step


@pytest.mark.parametrize(
    ("v", "value", "slope_v", "slope_s"),
    [
        (1.3, 1.5, 1, 0.4),  # −2.6 + 3
        (9, 1.5, 0, 3),
        (-9, -2, 0, -4),
        (1.5, 1.5, 0, 3),  # v/s = Q_P is outside
        (-2, -2, 0, -4),
        (1.0, 1.0, 1, 0),
        (-1.6, -1.5, 1, 0.2),
        (-1.9, -2, 1, -0.2),
    ],
)
def test_the_learned_steps_gradient(v, value, slope_v, slope_s):
    """At s = ½, Q_N = 4, Q_P = 3: ∂v̂/∂s = −v/s + round(v/s) inside, −Q_N and Q_P outside; times g.

    Source: Esser et al. 2019, eq. 1, 2, 3 and 5.
    """
    v, s = real(v).requires_grad_(), real(0.5)[0].requires_grad_()
    y = learned_step(v, s, -4, 3, 0.7)
    laws.assert_close(y.detach(), real(value))
    found = torch.autograd.grad(y, (v, s), real(2.0))
    laws.assert_close(found[0], real(2.0 * slope_v))
    laws.assert_close(found[1], real(0.7 * 2.0 * slope_s)[0])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("per_sample", [True, False])
def test_the_learned_steps_initialisation_and_gradient_scale(signed, per_sample):
    """s is initialised to 2⟨|v|⟩/√Q_P of the first batch and then trained; its gradient is scaled by 1/√(N Q_P).

    Source: Esser et al. 2019, sections 2.1 and 2.2: N weights, or N features of a sample.
    """
    quantizer = LearnedStepQuantizer(3, signed, per_sample).double()
    most, least = (3, -4) if signed else (7, 0)
    x = normal(4, 5, 6)
    y = quantizer(x)
    start = 2 * x.abs().mean() / most**0.5
    laws.assert_close(quantizer.scale.detach(), start)
    laws.assert_close(y.detach(), (x / start).clamp(least, most).round() * start)
    cotangent = normal(4, 5, 6, seed=1)
    (found,) = torch.autograd.grad(y, quantizer.scale, cotangent)
    ratio = x / start
    outside = torch.where(ratio <= least, least, torch.where(ratio >= most, most, ratio.round() - ratio))
    laws.assert_close(found, (cotangent * outside).sum() / ((30 if per_sample else 120) * most) ** 0.5)
    quantizer(9 * x)
    laws.assert_close(quantizer.scale.detach(), start)
    grid = quantizer.grid()
    assert (grid.zero_point, grid.quant_min, grid.quant_max) == (0, least, most) and not grid.scale.requires_grad
    laws.assert_same(grid.scale, quantizer.scale.detach())


def test_evaluation_does_not_initialise_the_step():
    """In evaluation s is what it is, 1 at first; signed and all weights are the default.

    Source: Esser et al. 2019, section 2.1; evaluation changes no state.
    """
    quantizer = LearnedStepQuantizer().double().eval()
    laws.assert_close(quantizer(real(-200, 0.6, 2.4, 200)).detach(), real(-128, 1, 2, 127))
    assert quantizer.scale == 1
    quantizer.train()(torch.zeros(0, 3).double())  # no batch to initialise it
    assert quantizer.scale == 1
    quantizer(real(1, -1))
    laws.assert_close(quantizer.scale.detach(), real(2 / 127**0.5)[0])


def test_a_step_is_learned_to_fit_its_data():
    """Descending ‖v̂ − v‖² from twice the initial step, s ends within 15 % of the best of a fine search.

    Measured: 0.97 to 1.04 times the best step (4 seeds), 2.6 times at the beginning.

    Source: Esser et al. 2019, section 2.1: the gradient is sensitive to the distance from the transition points.
    """
    v = normal(400)
    quantizer = LearnedStepQuantizer(3).double()
    quantizer(v)
    quantizer.scale.data.mul_(2)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        (quantizer(v) - v).square().mean().backward()
        optimizer.step()
    steps = torch.linspace(0.1, 3, 300, dtype=torch.float64)
    errors = ((v / steps[:, None]).clamp(-4, 3).round() * steps[:, None] - v).square().mean(1)
    ratio = quantizer.scale.item() / steps[errors.argmin()].item()
    assert 0.85 < ratio < 1.15, f"expected the best step, found {ratio:.2f} times as large"


# ---------------------------------------------------------------------------------------------- the layer


def trained(bits=8, per_channel=True, bias=True, seed=0):
    """A layer after three training batches, in eval mode, and the last batch."""
    layer = laws.randomise(QATLinear(7, 5, bias, bits, per_channel).double(), seed)
    for n in range(3):
        x = normal(40, 7, seed=seed + n) + 0.5
        layer(x)
    return layer.eval(), x


@given(seed=seeds(), bits=st.integers(2, 8), per_channel=st.booleans(), bias=st.booleans())
def test_the_layer_is_a_linear_layer_on_grids(seed, bits, per_channel, bias):
    """y = Q(Q(x) Q(W)ᵀ + b): 8-bit affine grids for x and y, symmetric for W, none for b.

    Source: Jacob et al. 2017, section 3 and figure 1.1b: fake quantization of weights, and after each activation.
    """
    layer, x = trained(bits, per_channel, bias, seed)
    weight = dequantize(quantize(layer.weight.detach(), *(g := weight_grid(layer.weight, bits, per_channel))), *g[:2])

    def on_grid(t, grid):
        assert grid[2:] == (0, 255, 0)
        return dequantize(quantize(t, *grid), *grid[:2])

    expected = on_grid(x, layer.input_quantizer.grid()) @ weight.T
    expected = expected if layer.bias is None else expected + layer.bias.detach()
    laws.assert_close(layer(x).detach(), on_grid(expected, layer.output_quantizer.grid()))


@pytest.mark.parametrize(
    "make",
    [
        lambda linear: QATLinear.from_float(linear),
        lambda linear: prepare_qat(nn.Sequential(linear))[0],
        lambda linear: QATLinear(7, 5),
    ],
    ids=["from_float", "prepare_qat", "constructor"],
)
def test_by_default_weights_have_8_bits_and_a_scale_a_channel(make):
    """W is on the grid of −127 … 127 with a scale for each row, unless fewer bits or one scale are asked for.

    Source: Jacob et al. 2017, section 3: 8 bits; Krishnamoorthi 2018, arXiv:1806.08342, §3.1: a scale a channel.
    """
    layer = make(nn.Linear(7, 5))
    scale, _, low, high, axis = layer.weight_quantizer.grid(layer.weight)
    assert (low, high, axis) == (-127, 127, 0), f"expected -127, 127 and axis 0, got {(low, high, axis)}"
    laws.assert_close(scale, layer.weight.detach().abs().amax(1) / 127)


@pytest.mark.states("equivalence")
@given(seed=seeds(), bits=st.integers(2, 8), per_channel=st.booleans(), bias=st.booleans())
def test_the_integer_layer_is_the_trained_one_in_evaluation(seed, bits, per_channel, bias):
    """convert() changes outputs by at most one step of the output's grid, and only where the sum was near a tie.

    The bias of inference is rounded to S₁S₂ and the multiplier to 31 bits: a sum moves by S₁S₂/2 at most, so only what
    was as near to a tie as S₁S₂/2S₃ of a step may round to the other side.

    Source: Jacob et al. 2017, section 3: the training simulates the inference that section 2 describes.
    """
    layer, x = trained(bits, per_channel, bias, seed)
    found, expected = convert(layer)(x), layer(x).detach()
    step = layer.output_quantizer.grid().scale
    moved = ((found - expected) / step).abs()
    assert isinstance(convert(layer), QuantizedLinear)
    assert moved.max() < 1.001, f"expected at most one step, found {moved.max():.2f}"
    total = layer.input_quantizer(x) @ layer.weight_quantizer(layer.weight).T / step
    total = (total if layer.bias is None else total + layer.bias / step).detach()
    products = layer.input_quantizer.grid().scale * layer.weight_quantizer.grid(layer.weight).scale
    from_a_tie = (total - total.floor() - 0.5).abs()
    assert not (moved > 0.5)[from_a_tie > bias * products / step / 2 + 1e-6].any()


def test_converting_finds_every_layer_and_changes_none():
    """prepare_qat and convert copy: the float model, the trained model and the integer model live side by side.

    Source: Jacob et al. 2017, algorithm 1.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4, bias=False))).double()
    before = copy.deepcopy(model.state_dict())
    ready = prepare_qat(model, bits=3, per_channel=False)
    x = normal(30, 6)
    ready(x).sum().backward()
    with torch.no_grad():
        for p in ready.parameters():
            p.sub_(0.1 * p.grad)
    laws.assert_all_close(model.state_dict(), before)
    assert type(model[0]) is nn.Linear and isinstance(ready[0], QATLinear) and isinstance(ready[2][0], QATLinear)
    grid = ready[0].weight_quantizer.grid(ready[0].weight)
    assert (grid.quant_min, grid.quant_max, grid.scale.shape) == (-3, 3, ())
    final = convert(ready)
    assert isinstance(final[0], QuantizedLinear) and isinstance(final[2][0], QuantizedLinear)
    assert ready.training and isinstance(ready[0], QATLinear) and not any(m.training for m in final.modules())
    step = ready[2][0].output_quantizer.grid().scale
    assert (final(x) - ready.eval()(x)).abs().max() < 3.5 * step


def test_preparing_keeps_weights_mode_and_dtype():
    """A prepared layer has the float layer's weights, mode and dtype, and its state dict the float layer's names.

    Source: Jacob et al. 2017, algorithm 1: train a floating-point model on, with fake quantization.
    """
    model = laws.randomise(nn.Linear(6, 4)).double().eval()
    ready = prepare_qat(model)
    laws.assert_same(ready.weight, model.weight)
    laws.assert_same(ready.bias, model.bias)
    assert ready.weight is not model.weight and not ready.training and not ready.input_quantizer.training
    model.load_state_dict(dict(ready.named_parameters()))
    ready.train()(normal(3, 6))
    assert ready.input_quantizer.grid().scale.dtype == ready.output_quantizer.grid().scale.dtype == torch.float64
    assert prepare_qat(nn.Linear(6, 4, bias=False)).bias is None
    torch.manual_seed(0)
    bound = QATLinear(100, 50).weight.abs().max()
    assert 0.095 < bound <= 0.1  # initialised as Linear is


@given(seed=seeds())
def test_weights_are_trained_in_floating_point(seed):
    """Steps of 0.3·S move the quantized weight after two of them, not after one: what is below the grid adds up.

    Source: Jacob et al. 2017, section 3: weights are stored in floating point and nudged by small amounts.
    """
    layer, x = trained(bits=4, per_channel=False, seed=seed)
    with torch.no_grad():
        layer.weight[0, 0] = 3.5  # keeps the step at ½
        layer.weight[1:] = 0
        layer.weight.clamp_(-3.5, 3.5)
        for expected in (0, 0.5, 0.5, 0.5, 1.0):
            seen = layer.weight_quantizer(layer.weight)[1, 2].item()
            layer.weight[1, 2] += 0.15
            seen = layer.weight_quantizer(layer.weight)[1, 2].item()
            assert seen == expected, f"expected {expected} at a weight of {layer.weight[1, 2]:.2f}, found {seen}"
    laws.assert_close(layer.weight[1, 2].detach(), real(0.75)[0])


def test_gradients_reach_weight_bias_and_input():
    """∂L/∂W = (g·1_y)ᵀ Q(x), ∂L/∂x = (g·1_y) Q(W): the quantized values multiply, the masks clip, nothing is detached.

    Source: Jacob et al. 2017, section 3: backpropagation as usual.
    """
    layer, _ = trained(bits=4)
    x, cotangent = (1.5 * normal(6, 7, seed=9)).requires_grad_(), normal(6, 5, seed=3)
    found = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), cotangent)
    seen = layer.input_quantizer(x).detach()
    weight = layer.weight_quantizer(layer.weight).detach()
    before = seen @ weight.T + layer.bias.detach()
    grids = layer.input_quantizer.grid(), layer.output_quantizer.grid()
    q = [(t / grid.scale).round() + grid.zero_point for t, grid in zip((x.detach(), before), grids)]
    inside = [(n >= 0) & (n <= 255) for n in q]
    assert all(not m.all() and m.any() for m in inside)
    g = cotangent * inside[1]
    laws.assert_close(found[0], g @ weight * inside[0])
    laws.assert_close(found[1], g.T @ seen)
    laws.assert_close(found[2], g.sum(0))


def test_a_learned_step_fits_into_the_layer():
    """With a LearnedStepQuantizer for the weight the layer trains its step and converts on that step, −2ᵇ⁻¹ included.

    Source: Esser et al. 2019, section 2.3: weights and activations are quantized to learned steps.
    """
    layer = laws.randomise(QATLinear(7, 5).double())
    layer.weight_quantizer = LearnedStepQuantizer(3).double()
    x = normal(40, 7)
    loss = layer(x).square().sum()
    laws.gradient_reaches(loss, dict(layer.named_parameters()))
    layer.weight_quantizer.scale.data.mul_(0.2)
    layer(x)
    integer = convert(layer)
    assert (integer.weight.min(), integer.weight.max()) == (-4, 3)
    laws.assert_close(integer.weight_scale, layer.weight_quantizer.scale.detach().expand(5))
    moved = (integer(x) - layer.eval()(x)).abs().max() / layer.output_quantizer.grid().scale
    assert moved < 1.001


def test_bfloat16_is_computed_in_the_scales_type():
    """A bfloat16 input gives the float32 result, rounded once; the gradient is bfloat16.

    Source: the contract of torch's mixed precision.
    """
    x = normal(300, dtype=torch.float32).bfloat16().requires_grad_()
    grid = Grid(torch.tensor(0.0123), whole(128)[0], 0, 255)
    y = fake_quantize(x, *grid)
    laws.assert_same(y.detach(), fake_quantize(x.detach().float(), *grid).bfloat16())
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16
