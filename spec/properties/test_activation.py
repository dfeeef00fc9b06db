"""Activation functions: rectifiers and gates, what their papers promise at every x."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.layers.activation import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, SiLU, Swish
from spec import cost, laws
from spec.strategies import floats, shapes, tensors, varied

ROOT = 3.0  # of Hardsigmoid and Hardswish, on both sides


def line(low=-8.0, high=8.0, step=1 / 64):
    """Evenly spaced points in float64, both ends and 0 among them."""
    return torch.arange(round((high - low) / step) + 1, dtype=torch.float64) * step + low


def derivative(function, x):
    """dy/dx of an elementwise function."""
    x = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(function(x).sum(), x)
    return found


def curvature(function, x):
    """d²y/dx² of an elementwise function."""
    x = x.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return second


def each(*rows):
    """Parametrize over (item, id, *values): each row marked with its item."""
    return [pytest.param(*values, id=name, marks=marks) for marks, name, *values in rows]


EVERY_ONE = each(
    (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda: LeakyReLU(0.2)),
    (pytest.mark.item("prelu"), "PReLU", lambda: PReLU(init=0.4)),
    (pytest.mark.item("elu"), "ELU", lambda: ELU(1.7)),
    (pytest.mark.item("gelu"), "GELU", GELU),
    (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh")),
    (pytest.mark.item("silu"), "SiLU", SiLU),
    (pytest.mark.item("silu"), "Swish", lambda: Swish(1.5)),
    (pytest.mark.item("silu"), "Swish-trainable", lambda: Swish(0.75, trainable=True)),
    (pytest.mark.item("mish"), "Mish", Mish),
    (pytest.mark.item("hard-sigmoid"), "Hardsigmoid", Hardsigmoid),
    (pytest.mark.item("hard-swish"), "Hardswish", Hardswish),
)
TWICE_DIFFERENTIABLE = [p for p in EVERY_ONE if p.id != "Hardsigmoid"]


# ---------------------------------------------------------------------------------------------- every one of them


@pytest.mark.parametrize("build", EVERY_ONE)
def test_each_element_is_transformed_by_itself(build):
    """y_i depends on x_i and on no other element: the Jacobian is diagonal.

    Source: every one of the papers defines a function of one real number.
    """
    x = torch.tensor([[-2.5, 0.7, 1.9], [-0.4, 2.2, -1.1]], dtype=torch.float64)
    laws.depends_only_on(build().double(), x, torch.eye(6, dtype=torch.bool))


@pytest.mark.parametrize("build", TWICE_DIFFERENTIABLE)
def test_second_derivatives_are_right(build):
    """The gradient of the gradient equals central differences: gradient penalties train through it.

    Source: the definition of the derivative. What a forward pass computes without a graph must not be taken for a
        constant by the backward pass.
    """
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2
    laws.gradient_correct(build().double(), x, second_order=True)


@pytest.mark.own_code
@pytest.mark.item("hard-sigmoid")
def test_hardsigmoid_has_a_second_derivative():
    """Hardsigmoid″ = 0 off its kinks, and autograd says so rather than stopping a gradient penalty.

    Convention: torch 2.13 has no second derivative of its own kernel, so peers are not asked.
    """
    x = torch.tensor([-4.0, -2.5, 0.3, 2.9, 5.0], dtype=torch.float64)
    laws.gradient_correct(Hardsigmoid(), x, second_order=True)
    laws.assert_same(curvature(Hardsigmoid(), x), torch.zeros_like(x))


@pytest.mark.parametrize("build", EVERY_ONE)
def test_not_a_number_stays_visible(build):
    """f(NaN) = NaN: a run that went wrong must not look healthy one layer later.

    Source: IEEE 754; comparisons with NaN are false, so a clamp or a mask can swallow it.
    """
    y = build()(torch.tensor([1.0, float("nan"), -1.0]))
    assert y.isnan().tolist() == [False, True, False]


FAR = [1e4, 1e3, 100.0, -100.0, -1e3, -1e4]
AT_THE_ENDS = each(
    (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda: LeakyReLU(0.2), lambda x: 0.2 * x, 0.2, 1.0),
    (pytest.mark.item("prelu"), "PReLU", lambda: PReLU(init=0.4), lambda x: 0.4 * x, 0.4, 1.0),
    (pytest.mark.item("elu"), "ELU", lambda: ELU(1.7), lambda x: torch.full_like(x, -1.7), 0.0, 1.0),
    (pytest.mark.item("gelu"), "GELU", GELU, torch.zeros_like, 0.0, 1.0),
    (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh"), torch.zeros_like, 0.0, 1.0),
    (pytest.mark.item("silu"), "SiLU", SiLU, torch.zeros_like, 0.0, 1.0),
    (pytest.mark.item("silu"), "Swish", lambda: Swish(2.5), torch.zeros_like, 0.0, 1.0),
    (pytest.mark.item("mish"), "Mish", Mish, torch.zeros_like, 0.0, 1.0),
    (pytest.mark.item("hard-swish"), "Hardswish", Hardswish, torch.zeros_like, 0.0, 1.0),
)


@pytest.mark.states("limiting case")
@pytest.mark.parametrize(("build", "left", "left_slope", "right_slope"), AT_THE_ENDS)
def test_far_from_zero_values_and_gradients_are_finite(build, left, left_slope, right_slope):
    """In float32 f(x) is x and f′ = 1 far to the right; to the left they reach their limits; ±10⁴ overflows nothing.

    Source: the limits x → ±∞ of each definition. (e^89 overflows float32, and 0·∞ in a backward pass is NaN.)
    """
    x = torch.tensor(FAR)
    laws.assert_close(build()(x), torch.where(x > 0, x, left(x)))
    laws.assert_close(derivative(build(), x), torch.where(x > 0, right_slope, left_slope))


@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("elu"), "ELU", lambda: ELU(1.7)),
        (pytest.mark.item("gelu"), "GELU", GELU),
        (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh")),
        (pytest.mark.item("silu"), "SiLU", SiLU),
        (pytest.mark.item("silu"), "Swish", lambda: Swish(2.5)),
        ([pytest.mark.item("mish"), pytest.mark.own_code], "Mish", Mish),
    ),
)
def test_far_from_zero_second_derivatives_vanish(build):
    """f″ → 0 at both ends in float32, never NaN.

    Source: each function is asymptotically a straight line on both sides.
    Convention: torch 2.13's own Mish has NaN there for x > 88, so peers are not asked about Mish.
    """
    x = torch.tensor(FAR)
    laws.assert_close(curvature(build(), x), torch.zeros_like(x))


# ---------------------------------------------------------------------------------------------- Leaky ReLU, PReLU


@pytest.mark.item("leaky-relu")
@pytest.mark.states("equivalence")
@given(x=tensors(shapes()), a=floats(-2, 3))
def test_leaky_relu_is_max_plus_scaled_min(x, a):
    """LeakyReLU(x) = max(0, x) + a·min(0, x) for every slope a, above 1 and below 0 as well.

    Source: Maas, Hannun & Ng 2013, §2.
    """
    laws.assert_close(LeakyReLU(a)(x), torch.maximum(x, 0 * x) + a * torch.minimum(x, 0 * x))


@pytest.mark.item("leaky-relu")
def test_leaky_relu_default_slope_is_one_hundredth():
    """LeakyReLU(−3) = −0.03: the slope is 0.01 by default.

    Source: Maas, Hannun & Ng 2013, §2.  Convention: some libraries have 0.2 or 0.3.
    """
    laws.assert_close(LeakyReLU()(torch.tensor([-3.0, 3.0])), torch.tensor([-0.03, 3.0]))
    laws.assert_close(derivative(LeakyReLU(), torch.tensor([-3.0, 3.0])), torch.tensor([0.01, 1.0]))


@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda a: LeakyReLU(a)),
        (pytest.mark.item("prelu"), "PReLU", lambda a: PReLU(init=a)),
    ),
)
@given(x=tensors(shapes()), scale=floats(0.01, 50), a=floats(-2, 2))
def test_rectifiers_are_positively_homogeneous(build, x, scale, a):
    """f(c·x) = c·f(x) for every c > 0: a rectifier has no scale of its own.

    Source: He et al. 2015, eq. 1; its initialisation (eq. 15) rests on it.
    """
    laws.equivariant(build(a).double(), x, lambda t: scale * t)


@pytest.mark.states("limiting case")
@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda a: LeakyReLU(a)),
        (pytest.mark.item("prelu"), "PReLU", lambda a: PReLU(init=a)),
    ),
)
@given(x=tensors(shapes()))
def test_slopes_one_zero_minus_one_are_known_functions(build, x):
    """a = 1 is the identity, a = 0 is ReLU, a = −1 is |x|.

    Source: He et al. 2015, §2.1; max(0, x) − min(0, x) = |x|.
    """
    laws.assert_same(build(1.0).double()(x), x)
    laws.assert_close(build(0.0).double()(x), x.relu())
    laws.assert_same(build(-1.0).double()(x), x.abs())


@pytest.mark.item("leaky-relu")
@given(x=tensors(shapes()), a=floats(0.05, 4))
def test_leaky_relu_is_undone_by_the_reciprocal_slope(x, a):
    """LeakyReLU_{1/a}(LeakyReLU_a(x)) = x for a > 0: nothing is lost, unlike in ReLU.

    Source: the definition; invertible networks use it.
    """
    laws.assert_close(LeakyReLU(1 / a)(LeakyReLU(a)(x)), x)


@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda: LeakyReLU(1.05)),
        (pytest.mark.item("prelu"), "PReLU", lambda: PReLU(init=1.05)),
        (pytest.mark.item("elu"), "ELU", lambda: ELU(1.05)),
    ),
)
def test_positive_values_pass_bitwise_equal(build):
    """f(x) = x and f′(x) = 1 exactly for x > 0, in float32 too.

    Source: the identity branch of each definition; a + (1 − a) rounds for a = 1.05 in float32.
    """
    x = torch.rand(500, generator=torch.Generator().manual_seed(3)) * 9 + 1e-3
    laws.assert_same(build()(x), x)
    laws.assert_same(derivative(build(), x), torch.ones_like(x))


@pytest.mark.parametrize(
    ("build", "left"),
    each(
        (pytest.mark.item("leaky-relu"), "LeakyReLU", lambda: LeakyReLU(0.2), 0.2),
        (pytest.mark.item("prelu"), "PReLU", lambda: PReLU(init=0.4), 0.4),
        (pytest.mark.item("elu"), "ELU", lambda: ELU(1.7), 1.7),
    ),
)
def test_at_the_kink_the_left_slope_counts(build, left):
    """f(0) = 0 and f′(0) is the slope of the left side: a, or α.

    Convention: torch's; any value between the two slopes is a subgradient.
    """
    zero = torch.tensor([0.0, -0.0], dtype=torch.float64)
    laws.assert_same(build().double()(zero) + 0.0, zero.abs())
    laws.assert_close(
        derivative(build().double(), zero), torch.full_like(zero, left), rtol=1e-7, because="a is float32"
    )


@pytest.mark.item("leaky-relu")
@pytest.mark.states("gradient routing")
def test_leaky_relu_revives_a_dead_layer():
    """Where every preactivation is negative, ReLU gives the layer's weights exactly no gradient, LeakyReLU a share a.

    Source: Maas, Hannun & Ng 2013, §2: a unit that is not active never adjusts its weights.
    """
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    grads = {}
    for name, activation in (("relu", nn.ReLU()), ("leaky", LeakyReLU(0.05)), ("linear", nn.Identity())):
        torch.manual_seed(5)
        layer = nn.Linear(5, 3).double()
        layer.bias.data.sub_(9.0)
        (grads[name],) = torch.autograd.grad((activation(layer(x)) * target).sum(), layer.weight)
    laws.assert_same(grads["relu"], torch.zeros_like(grads["relu"]))
    laws.assert_close(grads["leaky"], 0.05 * grads["linear"])


# ---------------------------------------------------------------------------------------------- PReLU

# (N, C, …) with C = 3: the last dimension of one shape is 3 as well, so that a slope along it does not merely crash.
CHANNELS_IN_DIMENSION_ONE = [(4, 3), (2, 3, 5), (2, 3, 4, 3)]


def per_channel(a, dims):
    return a.view(1, 3, *[1] * (dims - 2))


@pytest.mark.item("prelu")
@pytest.mark.parametrize("shape", CHANNELS_IN_DIMENSION_ONE, ids=str)
def test_prelu_scales_negatives_by_their_channels_slope(shape):
    """f(y_i) = max(0, y_i) + a_i·min(0, y_i), i the channel: dimension 1 for (N, C) and for (N, C, H, W).

    Source: He et al. 2015, eq. 1.  Convention: channels in dimension 1, as torch.nn.
    """
    module = laws.randomise(PReLU(3).double(), seed=6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    a = per_channel(module.weight, len(shape))
    laws.assert_close(module(x), torch.where(x > 0, x, a * x))


@pytest.mark.item("prelu")
@pytest.mark.states("gradient routing")
@pytest.mark.parametrize("shape", CHANNELS_IN_DIMENSION_ONE, ids=str)
def test_prelu_slope_gradient_sums_over_batch_and_positions(shape):
    """∂L/∂a_c = Σ_{n,h,w} ∂L/∂f · min(0, y): a sum, not a mean, one value per channel.

    Source: He et al. 2015, eq. 3 and the sum over all positions of the feature map below it.
    """
    module = laws.randomise(PReLU(3).double(), seed=8)
    generator = torch.Generator().manual_seed(9)
    x, cotangent = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    (found,) = torch.autograd.grad(module(x), module.weight, cotangent)
    expected = (cotangent * x.clamp(max=0)).movedim(1, 0).flatten(1).sum(1)
    laws.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.item("prelu")
def test_prelu_shared_slope_sums_over_all_channels():
    """With one shared slope ∂L/∂a sums over channels as well: the "channel-shared variant".

    Source: He et al. 2015, §2.1, the sum Σ_i over all channels of the layer.
    """
    module = PReLU(init=0.7).double()
    generator = torch.Generator().manual_seed(10)
    x, cotangent = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    (found,) = torch.autograd.grad(module(x), module.weight, cotangent)
    laws.assert_close(found, (cotangent * x.clamp(max=0)).sum().view(1), rtol=1e-12, atol=1e-12)


@pytest.mark.item("prelu")
@pytest.mark.states("gradient routing")
def test_prelu_input_gradient_is_one_or_the_slope():
    """∂f/∂y_i = 1 where y_i > 0, else a_i.

    Source: He et al. 2015, eq. 1, differentiated.
    """
    module = laws.randomise(PReLU(3).double(), seed=11)
    x = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    expected = torch.where(x > 0, 1.0, per_channel(module.weight.detach(), 4))
    laws.assert_close(derivative(module, x), expected)


@pytest.mark.item("prelu")
def test_prelu_is_initialised_to_a_quarter_and_has_few_parameters():
    """PReLU has one slope per channel, or one in all, initialised to 0.25 and learned: C (or 1) extra parameters.

    Source: He et al. 2015, §2.1: the initialisation a_i = 0.25, and the number of extra parameters.
    """
    laws.assert_same(PReLU().weight.detach(), torch.full((1,), 0.25))
    laws.assert_same(PReLU(num_parameters=3).weight.detach(), torch.full((3,), 0.25))
    laws.assert_close(PReLU(num_parameters=3, init=0.1).weight.detach(), torch.full((3,), 0.1))
    assert all(p.requires_grad for p in PReLU(3).parameters())
    assert [n for n, _ in PReLU(3).named_parameters()] == ["weight"]


@pytest.mark.item("prelu")
@pytest.mark.parametrize("channels", [2, 300])
def test_prelu_has_a_slope_for_every_channel_however_many(channels):
    """PReLU(C) takes C channels and gives channel i its own slope a_i, for 2 channels as for 300.

    Source: He et al. 2015, eq. 1: a_i of the ith channel.
    """
    slopes = torch.arange(1, channels + 1) / channels
    module = PReLU(channels)
    module.load_state_dict({"weight": slopes})
    laws.assert_close(module(torch.stack([-3 * slopes, -slopes])).detach(), -torch.stack([3 * slopes**2, slopes**2]))


@pytest.mark.item("prelu")
@pytest.mark.parametrize("shape", [(), (4,), (2, 5), (2, 3, 4, 5)], ids=str)
def test_prelu_shared_slope_fits_every_shape(shape):
    """The channel-shared variant takes any number of dimensions and keeps the shape.

    Source: He et al. 2015, §2.1, channel-shared variant.
    """
    x = torch.full(shape, -2.0)
    laws.assert_close(PReLU(1, init=0.3)(x), torch.full(shape, -0.6))


# ---------------------------------------------------------------------------------------------- ELU


@pytest.mark.item("elu")
@given(x=tensors(shapes()), alpha=floats(0.0625, 3))
def test_elu_is_identity_or_scaled_exponential(x, alpha):
    """ELU(x) = x for x > 0, α(e^x − 1) for x ≤ 0.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3, the definition of the ELU.
    """
    laws.assert_close(ELU(alpha)(x), torch.where(x > 0, x, alpha * (x.clamp(max=0).exp() - 1)))


@pytest.mark.item("elu")
@given(x=tensors(shapes(), low=-10, high=0), alpha=floats(0.0625, 3))
def test_elu_derivative_is_the_value_plus_alpha(x, alpha):
    """f′(x) = f(x) + α for x ≤ 0, hence f″ = f′ for x < 0.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3, the derivative next to the definition.
    """
    laws.assert_close(derivative(ELU(alpha), x), ELU(alpha)(x) + alpha)
    left = x[x < 0]
    laws.assert_close(curvature(ELU(alpha), left), ELU(alpha)(left) + alpha)


@pytest.mark.item("elu")
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_elu_is_smooth_at_zero_only_for_alpha_one(alpha):
    """f is continuous at 0, f′(0−) = α and f′(0+) = 1: no kink if and only if α = 1.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3.
    """
    x = torch.tensor([-1e-8, 1e-8], dtype=torch.float64)
    laws.assert_close(ELU(alpha)(x), torch.tensor([-alpha * 1e-8, 1e-8], dtype=torch.float64), atol=1e-15)
    expected = torch.tensor([alpha, 1.0], dtype=torch.float64)
    laws.assert_close(derivative(ELU(alpha), x), expected, rtol=1e-7, because="f′(−1e-8) = α(1 − 1e-8)")


@pytest.mark.item("elu")
@pytest.mark.states("limiting case")
def test_elu_saturates_at_minus_alpha():
    """f(x) → −α with vanishing derivative: exactly −α and a derivative of exactly 0 at x = −200, and never below −α.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3: α controls the value to which an ELU saturates.
    """
    far = torch.tensor([-200.0, -1e4])
    laws.assert_same(ELU(0.75)(far), torch.full((2,), -0.75))
    laws.assert_same(derivative(ELU(0.75), far).abs(), torch.zeros(2))
    assert ELU(0.75)(line(-40, 40)).min() >= -0.75


@pytest.mark.item("elu")
def test_elu_keeps_the_digits_of_small_values():
    """ELU(−10⁻⁶) = −9.999995·10⁻⁷ in float32: e^x − 1 taken as a difference has an error of 1.3 percent there.

    Source: e^x − 1 = x + x²/2 + …; the reason why expm1 exists.
    """
    x = torch.tensor([-1e-6, -1e-4, -1e-2])
    exact = torch.tensor([-9.999995e-07, -9.9995000e-05, -9.9501663e-03])
    laws.assert_close(ELU()(x) / exact, torch.ones(3), rtol=1e-6, atol=0)


@pytest.mark.item("elu")
@pytest.mark.states("limiting case")
@given(x=tensors(shapes()))
def test_elu_without_its_negative_part_is_relu(x):
    """α = 0 leaves ReLU.

    Source: the definition; the limiting case α → 0.
    """
    laws.assert_close(ELU(0.0)(x), x.relu())


@pytest.mark.item("elu")
def test_elu_has_a_scale_of_its_own():
    """ELU(c·x) ≠ c·ELU(x): unlike a rectifier it is not homogeneous.

    Source: the definition: e^(cx) − 1 ≠ c(e^x − 1).
    """
    x = line(-4, 0, 1 / 4)
    laws.assert_differs(ELU(1.0)(3 * x), 3 * ELU(1.0)(x), by=1.0)


# ---------------------------------------------------------------------------------------------- gates

GATES_WITH_AN_ODD_PART = each(
    (pytest.mark.item("gelu"), "GELU", GELU),
    (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh")),
    (pytest.mark.item("silu"), "SiLU", SiLU),
    (pytest.mark.item("silu"), "Swish", lambda: Swish(0.3)),
    (pytest.mark.item("silu"), "Swish-negative", lambda: Swish(-2.0)),
    (pytest.mark.item("hard-swish"), "Hardswish", Hardswish),
)


@pytest.mark.parametrize("build", GATES_WITH_AN_ODD_PART)
@given(x=tensors(shapes()))
def test_gate_and_mirrored_gate_add_up_to_one(build, x):
    """f(x) − f(−x) = x: the gates g(x) and g(−x) sum to 1, as distribution functions of symmetric noise do.

    Source: Hendrycks & Gimpel 2016, §2 (Φ); σ(x) + σ(−x) = 1.
    """
    laws.assert_close(build()(x) - build()(-x), x)


@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("gelu"), "GELU", GELU),
        (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh")),
        (pytest.mark.item("silu"), "SiLU", SiLU),
        (pytest.mark.item("silu"), "Swish", lambda: Swish(1.5)),
        (pytest.mark.item("mish"), "Mish", Mish),
        (pytest.mark.item("hard-swish"), "Hardswish", Hardswish),
    ),
)
def test_gates_dip_below_zero_once(build):
    """f falls, then rises: negative for small negative x, one minimum, f(0) = 0, positive for positive x.

    Source: Ramachandran et al. 2017, §3; Misra 2019, §3: the non-monotonic bump sets them apart from rectifiers.
    """
    x = line(-4, 8)  # further left the tanh formula of some implementations is flat to the last bit
    y = build()(x)
    steps = (y[1:] - y[:-1]).sign()
    falls, rises = (steps < 0).nonzero(), (steps > 0).nonzero()
    assert falls.max() < rises.min()
    assert (y[x > 0] > 0).all() and (y[(x < 0) & (x > -3)] < 0).all() and y[x == 0].abs().item() == 0


@pytest.mark.states("limiting case")
@pytest.mark.parametrize(
    ("build", "gap"),
    each(
        (pytest.mark.item("gelu"), "GELU", GELU, 0.17),
        (pytest.mark.item("gelu"), "GELU-tanh", lambda: GELU("tanh"), 0.1701),
        (pytest.mark.item("silu"), "SiLU", SiLU, 0.27847),
        (pytest.mark.item("mish"), "Mish", Mish, 0.30885),
        (pytest.mark.item("hard-swish"), "Hardswish", Hardswish, 0.375),
    ),
)
@given(x=tensors(shapes(), low=-40, high=40), scale=floats(1, 100))
def test_gates_are_relu_seen_from_afar(build, gap, x, scale):
    """f(c·x)/c → ReLU(x): it differs from ReLU by no more than gap/c, everywhere.

    Source: Hendrycks & Gimpel 2016, §4: as σ → 0 with µ = 0 the GELU becomes a ReLU; likewise β → ∞ for Swish.
    """
    assert (build()(scale * x) / scale - x.relu()).abs().max() <= gap / scale + 1e-12


@pytest.mark.item("hard-sigmoid")
def test_hard_sigmoid_stores_nothing():
    """There are no parameters and no buffers: an empty state moves both ways between Hardsigmoid and torch.nn's.

    Source: the definition, which has nothing to learn.
    """
    ours, theirs = Hardsigmoid(), nn.Hardsigmoid()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    laws.assert_close(ours(line()), theirs(line()))


# ---------------------------------------------------------------------------------------------- GELU


def normal_density(x):
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@pytest.mark.item("gelu")
@given(x=tensors(shapes()))
def test_gelu_weights_the_input_by_its_percentile(x):
    """GELU(x) = x·Φ(x) = x/2·(1 + erf(x/√2)).

    Source: Hendrycks & Gimpel 2016, §2.
    """
    laws.assert_close(GELU()(x), x * torch.special.ndtr(x))


@pytest.mark.item("gelu")
@given(x=tensors(shapes()))
def test_gelu_derivative_is_percentile_plus_weighted_density(x):
    """GELU′(x) = Φ(x) + x·φ(x), and GELU″(x) = (2 − x²)·φ(x).

    Source: Hendrycks & Gimpel 2016, §2, differentiated; Φ′ = φ, φ′ = −xφ.
    """
    laws.assert_close(derivative(GELU(), x), torch.special.ndtr(x) + x * normal_density(x))
    laws.assert_close(curvature(GELU(), x), (2 - x * x) * normal_density(x))


@pytest.mark.item("gelu")
@given(x=tensors(shapes()))
def test_gelu_tanh_is_the_papers_approximation(x):
    """GELU_tanh(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))).

    Source: Hendrycks & Gimpel 2016, §2.
    """
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    laws.assert_close(GELU("tanh")(x), x / 2 * (1 + inner.tanh()))
    width = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    laws.assert_close(derivative(GELU("tanh"), x), (1 + inner.tanh()) / 2 + x / 2 * (1 - inner.tanh() ** 2) * width)


@pytest.mark.item("gelu")
def test_gelu_variants_are_told_apart():
    """sup |GELU − GELU_tanh| = 4.73·10⁻⁴: close, and not the same function.

    Source: Hendrycks & Gimpel 2016, §2; the distance evaluated at |x| = 2.69894.
    Convention: the default is the exact one; a checkpoint trained with one and served with the other drifts.
    """
    x = line(-6, 6, 1 / 1024)
    gap = (GELU()(x) - GELU("tanh")(x)).abs()
    assert 4.7e-4 < gap.max() < 4.75e-4
    assert abs(x[gap.argmax()].abs().item() - 2.699) < 5e-3
    laws.assert_same(GELU()(x), GELU(approximate="none")(x))


@pytest.mark.item("gelu")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_not_the_sigmoid_shortcut(approximate):
    """sup |GELU − x·σ(1.702x)| = 0.0203: the quick approximation is forty times further off than the tanh one.

    Source: Hendrycks & Gimpel 2016, §2: x·σ(1.702x) if a simpler form is worth the loss of exactness.
    """
    x = line(-6, 6, 1 / 1024)
    gap = (GELU(approximate)(x) - x * torch.sigmoid(1.702 * x)).abs().max()
    assert 0.0198 < gap < 0.0209


@pytest.mark.project_convention
@pytest.mark.item("gelu")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_the_digits_of_its_left_tail(approximate, compiled):
    """GELU(−5) = −1.433·10⁻⁶ to five digits in float32, under the compiler as well.

    Source: Φ(−5) = 2.867·10⁻⁷; 1 + erf and 1 + tanh round to multiples of 6·10⁻⁸ there.
    Convention: torch's own kernel rounds so, hence peers are not asked.
    """
    x = torch.linspace(-5, -2, 25)
    inner = math.sqrt(2 / math.pi) * (x.double() + 0.044715 * x.double() ** 3)
    gate = torch.special.ndtr(x.double()) if approximate == "none" else (1 + inner.tanh()) / 2
    gelu = GELU(approximate)
    if compiled:
        torch._dynamo.reset()
        gelu = torch.compile(gelu, backend="eager", fullgraph=True)
    with laws.without_shape_checks():  # they do not trace
        ratio = gelu(x).double() / (x.double() * gate)
    laws.assert_close(ratio, torch.ones_like(ratio), rtol=1e-5, because="float32; the exponent of 12.5 loses four bits")


# ---------------------------------------------------------------------------------------------- SiLU and Swish


@pytest.mark.item("silu")
@given(x=tensors(shapes()))
def test_silu_is_the_input_times_its_sigmoid(x):
    """SiLU(x) = x·σ(x) = x/(1 + e^−x).

    Source: Elfwing, Uchibe & Doya 2017, §2.1.
    """
    laws.assert_close(SiLU()(x), x / (1 + torch.exp(-x)))


@pytest.mark.item("silu")
@given(x=tensors(shapes()))
def test_silu_derivative_has_the_papers_form(x):
    """SiLU′(x) = σ(x)·(1 + x·(1 − σ(x))) = SiLU(x) + σ(x)·(1 − SiLU(x)).

    Source: Elfwing, Uchibe & Doya 2017, §2.1, the dSiLU; Ramachandran et al. 2017, §2.1 writes the second form.
    """
    gate = 1 / (1 + torch.exp(-x))
    laws.assert_close(derivative(SiLU(), x), gate * (1 + x * (1 - gate)))
    laws.assert_close(derivative(SiLU(), x), SiLU()(x) + gate * (1 - SiLU()(x)))


@pytest.mark.item("silu")
@given(x=tensors(shapes()), beta=floats(-3, 3))
def test_swish_puts_beta_inside_the_sigmoid(x, beta):
    """Swish_β(x) = x·σ(βx); for β = 1 it is SiLU, and β·Swish_β(x) = SiLU(βx).

    Source: Ramachandran, Zoph & Le 2017, §3.
    """
    laws.assert_close(Swish(beta)(x), x / (1 + torch.exp(-beta * x)))
    laws.assert_close(Swish(1.0)(x), SiLU()(x))
    laws.assert_close(beta * Swish(beta)(x), SiLU()(beta * x))


@pytest.mark.item("silu")
def test_swish_runs_from_linear_to_relu():
    """β → 0 gives x/2 (9.0·10⁻⁴ apart on [−6, 6] at β = 10⁻⁴), β → ∞ gives ReLU (2.785·10⁻³ apart at β = 100).

    Source: Ramachandran, Zoph & Le 2017, §3: a nonlinear interpolation between the linear function and ReLU.
    """
    x = line(-6, 6, 1 / 4096)
    assert 8.9e-4 < (Swish(1e-4)(x) - x / 2).abs().max() < 9.1e-4
    assert 2.77e-3 < (Swish(100.0)(x) - x.relu()).abs().max() < 2.80e-3
    laws.assert_close(Swish(0.0)(x), x / 2)


@pytest.mark.item("silu")
@pytest.mark.states("gradient routing")
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5)], ids=str)
def test_swish_learns_one_beta(shape):
    """Trainable, β is one parameter with ∂L/∂β = Σ ∂L/∂f·x²·σ(βx)·(1 − σ(βx)); fixed, there is none.

    Source: Ramachandran, Zoph & Le 2017, §3: β is a constant or a trainable parameter.
    """
    module = Swish(0.75, trainable=True).double()
    assert [(name, p.numel()) for name, p in module.named_parameters()] == [("beta", 1)]
    generator = torch.Generator().manual_seed(16)
    x, cotangent = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    (beta,) = module.parameters()
    (found,) = torch.autograd.grad(module(x), beta, cotangent)
    gate = torch.sigmoid(0.75 * x)
    laws.assert_close(found.sum(), (cotangent * x * x * gate * (1 - gate)).sum())
    assert not list(Swish(0.75).parameters())


@pytest.mark.item("silu")
def test_swish_is_silu_by_default():
    """By default β is 1 and fixed; a trainable β is initialised to the given value.

    Source: Ramachandran, Zoph & Le 2017, §3: β = 1 is the SiLU of Elfwing et al.
    """
    x = line(-3, 3, 1 / 8)
    laws.assert_close(Swish()(x), SiLU()(x))
    laws.assert_close(Swish(trainable=True).double()(x), SiLU()(x))
    laws.assert_close(Swish(-0.5, trainable=True).double()(x), x * torch.sigmoid(-x / 2))


# ---------------------------------------------------------------------------------------------- Mish


@pytest.mark.item("mish")
@given(x=tensors(shapes()))
def test_mish_gates_by_tanh_of_softplus(x):
    """Mish(x) = x·tanh(ln(1 + e^x)).

    Source: Misra 2019, eq. 1.
    """
    laws.assert_close(Mish()(x), x * torch.tanh(torch.log1p(x.exp())))


@pytest.mark.item("mish")
@given(x=tensors(shapes()))
def test_mish_derivative_has_the_papers_form(x):
    """Mish′(x) = sech²(softplus(x))·x·σ(x) + tanh(softplus(x)).

    Source: Misra 2019, §3, the derivative written as Δ(x)·swish(x) + f(x)/x with Δ = sech²(softplus).
    """
    gate = torch.tanh(torch.log1p(x.exp()))
    laws.assert_close(derivative(Mish(), x), (1 - gate**2) * x * torch.sigmoid(x) + gate)


@pytest.mark.item("mish")
def test_mish_keeps_the_digits_of_its_left_tail():
    """Mish(−20) = −4.12230725·10⁻⁸ and Mish(−40) ≈ −40·e^−40 in float32, where ln(1 + e^x) formed naively is 0.

    Source: Mish(x) → x·e^x for x → −∞; 1 + e^x rounds to 1 below x = −17 in float32.
    """
    x = torch.tensor([-10.0, -20.0, -40.0])
    exact = torch.tensor([-4.5398898693e-04, -4.1223072448e-08, -1.6993417021e-16])
    laws.assert_close(Mish()(x) / exact, torch.ones(3), atol=0)
    laws.assert_close(derivative(Mish(), x[1:]) / ((1 + x[1:]) * x[1:].exp()), torch.ones(2), atol=0)


@pytest.mark.item("mish")
def test_mish_is_no_symmetric_gate():
    """Mish(x) − Mish(−x) ≠ x: its gate is no symmetric distribution function, unlike GELU's and SiLU's.

    Source: Misra 2019, eq. 1; the gate at 0 is tanh(ln 2) = 0.6.
    """
    x = line(-4, 4, 1 / 8)
    laws.assert_differs(Mish()(x) - Mish()(-x), x, by=0.1)
    laws.assert_close(derivative(Mish(), torch.zeros(1, dtype=torch.float64)), torch.tensor([0.6], dtype=torch.float64))


@pytest.mark.item("mish")
def test_mish_is_bounded_below_and_unbounded_above():
    """Mish ≥ −0.30884 everywhere, reached near x = −1.1924, and Mish(x) → x above.

    Source: Misra 2019, §3: range ≈ [−0.31, ∞).
    """
    x = line(-30, 30)
    y = Mish()(x)
    assert -0.308844 < y.min() < -0.3088
    assert abs(x[y.argmin()].item() + 1.1924) < 0.02
    laws.assert_close(y[x > 20], x[x > 20])


# ---------------------------------------------------------------------------------------------- hard gates


@pytest.mark.item("hard-sigmoid")
@given(x=tensors(shapes()))
def test_hard_sigmoid_is_a_clipped_line(x):
    """h(x) = ReLU6(x + 3)/6 = min(max(x + 3, 0), 6)/6.

    Source: Howard et al. 2019, §5.2.
    Convention: slope 1/6, cut at ±3; an older Keras has 0.2x + 0.5, cut at ±2.5, BinaryConnect (x + 1)/2, cut at ±1.
    """
    laws.assert_close(Hardsigmoid()(x), torch.minimum(torch.maximum(x + 3, 0 * x), 0 * x + 6) / 6)


@pytest.mark.item("hard-sigmoid")
@pytest.mark.states("limiting case")
def test_hard_sigmoid_is_exactly_zero_and_one_outside():
    """h(x) = 0 for x ≤ −3 and h(x) = 1 for x ≥ 3, bit for bit and at the ends too; inside it is neither.

    Source: Howard et al. 2019, §5.2, ReLU6.
    """
    for dtype in (torch.float32, torch.float64):
        outside = torch.tensor([-1e4, -3.5, -ROOT, ROOT, 3.5, 1e4], dtype=dtype)
        laws.assert_same(Hardsigmoid()(outside), torch.tensor([0, 0, 0, 1, 1, 1], dtype=dtype))
        inside = Hardsigmoid()(torch.tensor([-2.75, -2.0, 0.0, 2.0, 2.75], dtype=dtype))
        assert ((inside > 0) & (inside < 1)).all()


@pytest.mark.item("hard-sigmoid")
@given(x=tensors(shapes()))
def test_hard_sigmoid_is_point_symmetric(x):
    """h(x) + h(−x) = 1, as σ has it.

    Source: Howard et al. 2019, §5.2: a replacement for σ.
    """
    laws.assert_close(Hardsigmoid()(x) + Hardsigmoid()(-x), torch.ones_like(x))


@pytest.mark.item("hard-sigmoid")
def test_hard_sigmoid_slope_is_a_sixth_inside_and_nothing_outside():
    """h′ = 1/6 for |x| < 3, and 0 for |x| ≥ 3.

    Source: Howard et al. 2019, §5.2.  Convention: 0 at ±3 themselves, as torch.
    """
    x = torch.tensor([-9.0, -ROOT, -2.9375, -0.5, 0.0, 2.75, 2.9375, ROOT, 9.0])
    expected = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 0]) / 6
    laws.assert_close(derivative(Hardsigmoid(), x), expected)


@pytest.mark.item("hard-sigmoid")
def test_hard_sigmoid_stays_near_the_sigmoid():
    """sup |σ(x) − h(x)| = 0.0692, at |x| = 1.317: the scale 6 is chosen to fit σ.

    Source: Howard et al. 2019, §5.2, figure 6; the distance evaluated where σ(1 − σ) = 1/6.
    """
    x = line(-8, 8, 1 / 1024)
    gap = (torch.sigmoid(x) - Hardsigmoid()(x)).abs()
    assert 0.0691 < gap.max() < 0.0693
    assert abs(x[gap.argmax()].abs().item() - 1.317) < 0.01


@pytest.mark.item("hard-swish")
@given(x=tensors(shapes()))
def test_hard_swish_gates_by_relu6(x):
    """h-swish(x) = x·ReLU6(x + 3)/6.

    Source: Howard et al. 2019, §5.2.
    """
    laws.assert_close(Hardswish()(x), x * torch.minimum(torch.maximum(x + 3, 0 * x), 0 * x + 6) / 6)


@pytest.mark.item("hard-swish")
def test_hard_swish_is_exactly_zero_or_the_input_outside():
    """h-swish(x) = 0 for x ≤ −3, bit for bit and at the end too, and x for x ≥ 3.

    Source: Howard et al. 2019, §5.2, ReLU6.  (To the right x·6/6 may round.)
    """
    for dtype in (torch.float32, torch.float64):
        left = torch.tensor([-1e4, -7.3, -3.5, -ROOT], dtype=dtype)
        laws.assert_same(Hardswish()(left).abs(), torch.zeros_like(left))
        right = torch.tensor([ROOT, 3.5, 7.3, 1e4], dtype=dtype)
        laws.assert_close(Hardswish()(right), right)


@pytest.mark.item("hard-swish")
def test_hard_swish_derivative_is_linear_inside():
    """h-swish′ = (2x + 3)/6 for |x| < 3, 0 to the left, 1 to the right: −1/6 at −2, 0 at −4, 1 at 4.

    Source: Howard et al. 2019, §5.2, differentiated.  Convention: 0 at −3 and 1 at 3 themselves, as torch.
    """
    x = torch.tensor([-4.0, -ROOT, -2.9375, -2.0, -1.5, 0.0, 2.0, 2.9375, ROOT, 4.0], dtype=torch.float64)
    expected = torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6))
    laws.assert_close(derivative(Hardswish(), x), expected)
    laws.assert_close(curvature(Hardswish(), x[2:-2]), torch.full((6,), 1 / 3, dtype=torch.float64))


@pytest.mark.item("hard-swish")
def test_hard_swish_is_a_parabola_inside():
    """Third differences vanish for |x| < 3 and the minimum is −3/8 at x = −3/2.

    Source: Howard et al. 2019, §5.2: x(x + 3)/6.
    """
    x = line(-3, 3)
    y = Hardswish()(x)
    third = y[3:] - 3 * y[2:-1] + 3 * y[1:-2] - y[:-3]
    laws.assert_close(third, torch.zeros_like(third), atol=1e-14)
    laws.assert_differs(y[2:], y[:-2], by=1e-2)
    assert x[y.argmin()].item() == -1.5 and abs(y.min().item() + 0.375) < 1e-15


@pytest.mark.item("hard-swish")
def test_hard_swish_needs_only_integers():
    """6·h-swish(n) = n·min(max(n + 3, 0), 6) for whole n: quantized inference computes it exactly.

    Source: Howard et al. 2019, §5.2: in quantized mode it removes the loss of differing sigmoid implementations.
    """
    n = torch.arange(-128, 128)
    sixfold = 6 * Hardswish()(n.double())
    laws.assert_same(sixfold.round().long(), n * (n + 3).clamp(0, 6))
    laws.assert_close(sixfold, sixfold.round())


@pytest.mark.item("hard-swish")
def test_hard_swish_stays_near_the_silu():
    """sup |SiLU(x) − h-swish(x)| = 0.1423, at |x| = 3: σ's tail is what it cuts off.

    Source: Howard et al. 2019, §5.2, figure 6; 3·(1 − σ(3)) = 0.14228.
    """
    x = line(-8, 8)
    gap = (x * torch.sigmoid(x) - Hardswish()(x)).abs()
    laws.assert_close(gap.max(), torch.tensor(3 / (1 + math.exp(3)), dtype=torch.float64))
    assert x[gap.argmax()].abs().item() == 3


@pytest.mark.parametrize(
    "build",
    each(
        (pytest.mark.item("hard-sigmoid"), "Hardsigmoid", Hardsigmoid),
        (pytest.mark.item("hard-swish"), "Hardswish", Hardswish),
    ),
)
def test_hard_gates_need_no_transcendental_function(build):
    """Neither forward nor backward evaluates an exponential, a logarithm, a sigmoid, a tanh or an erf.

    Source: Howard et al. 2019, §5.2: the sigmoid is expensive on mobile devices; that is the point.
    """
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(17))
    found = cost.operators(lambda: laws.gradients(build(), (x,)))
    names = {name.rpartition("::")[2].strip("_").removesuffix("_backward") for name in found}
    assert names and not names & {"exp", "exp2", "expm1", "log", "log1p", "sigmoid", "tanh", "erf", "softplus", "pow"}


@pytest.mark.parametrize("build", EVERY_ONE)
@given(x=varied(shapes()))
def test_order_of_the_numbers_does_not_matter(build, x):
    """f(P·x) = P·f(x) for every reordering P: no position is treated specially.

    Source: every one of the papers defines a function of one real number.
    """
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(x.numel()))
    laws.equivariant(build().double(), x, lambda t: t.flatten()[order].view(t.shape))
