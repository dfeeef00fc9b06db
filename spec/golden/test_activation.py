"""Activation functions against torch.nn, mpmath, scipy and jax."""

import pytest
import torch

from impl.layers.activation import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, SiLU, Swish
from spec import laws
from spec.golden import load


def derivative(function, x, order=1):
    """The first or second derivative of an elementwise function."""
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(x).sum(), x, create_graph=order > 1)
    for _ in range(order - 1):
        (found,) = torch.autograd.grad(found.sum(), x)
    return found


def check_moments(golden, function):
    """Mean and mean square over a standard normal input, by the frozen Gauss rule."""
    y, weights = function(golden["nodes"]).detach(), golden["weights"]
    golden.check("mean", (weights * y).sum())
    golden.check("mean_square", (weights * y * y).sum())


def check_tail(golden, function):
    """Relative agreement in float32 where the values are tiny."""
    ratio = function(golden["tail_x"]).double() / -golden["tail"].exp()
    laws.assert_close(
        ratio, torch.ones_like(ratio), rtol=2e-6, because="float32 has 24 bits, a few operations in a row"
    )


def check_minimum(golden, function, prefix=""):
    argmin = golden[f"{prefix}argmin"]
    golden.check(f"{prefix}minimum", function(argmin))
    laws.assert_close(derivative(function, argmin), torch.zeros_like(argmin), what="derivative at the minimum")


# ---------------------------------------------------------------------------------------------- rectifiers


@pytest.mark.item("leaky-relu")
@pytest.mark.states("equivalence")
def test_leaky_relu_agrees_with_torch_and_arithmetic():
    """LeakyReLU with a = 0.2 and its slope on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Maas, Hannun & Ng 2013, §2.
    """
    golden = load("leaky-relu")
    golden.check("y", LeakyReLU(0.2)(golden["x"]))
    golden.check("slope", derivative(LeakyReLU(0.2), golden["smooth_x"]))


@pytest.mark.item("leaky-relu")
def test_leaky_relu_halves_the_second_moment_by_its_slope():
    """For z ~ N(0, 1): E f(z)² = (1 + a²)/2 and E f(z) = (1 − a)/√(2π).

    Source: He et al. 2015, eq. 15: the factor that rectifier initialisation divides by.
    """
    check_moments(load("leaky-relu"), LeakyReLU(0.2))


@pytest.mark.item("prelu")
@pytest.mark.parametrize("name", ["features", "images"])
def test_prelu_agrees_with_torch_and_flax(name):
    """Outputs, input gradients and slope gradients for (N, C) and (N, C, H, W) are torch's and flax's.

    Source: He et al. 2015, eq. 1-3.  Convention: channels in dimension 1.
    """
    golden = load("prelu")
    module = PReLU(3).double()
    module.load_state_dict(golden.state_dict(f"{name}_state"))
    x = golden[f"{name}.x"].requires_grad_()
    y = module(x)
    d_x, d_weight = torch.autograd.grad(y, [x, module.weight], golden[f"{name}.cotangent"])
    golden.check(f"{name}.y", y)
    golden.check(f"{name}.d_x", d_x)
    golden.check(f"{name}.d_weight", d_weight)


@pytest.mark.item("prelu")
def test_a_new_prelu_has_a_second_moment_of_17_32():
    """For z ~ N(0, 1) and the initial a = 1/4: E f(z)² = (1 + a²)/2 = 17/32.

    Source: He et al. 2015, eq. 15, with the a_i = 0.25 of §2.1.
    """
    check_moments(load("prelu"), PReLU().double())


@pytest.mark.item("elu")
@pytest.mark.states("equivalence")
def test_elu_agrees_with_torch_and_arithmetic():
    """ELU with α = 1.5, its derivative and its second derivative on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3.
    """
    golden = load("elu")
    golden.check("y", ELU(1.5)(golden["x"]))
    golden.check("slope", derivative(ELU(1.5), golden["smooth_x"]))
    golden.check("curvature", derivative(ELU(1.5), golden["smooth_x"], order=2))


@pytest.mark.item("elu")
def test_elu_pushes_the_mean_towards_zero():
    """For z ~ N(0, 1): E f(z) = 1/√(2π) + √e·Φ(−1) − ½ = 0.1605 (ReLU: 0.3989), E f(z)² = 0.6449.

    Source: Clevert, Unterthiner & Hochreiter 2015, §3: mean activations closer to zero; the integrals by hand.
    """
    check_moments(load("elu"), ELU())


@pytest.mark.item("elu")
def test_elu_is_precise_near_zero_in_float32():
    """ELU(x) for x = −10⁻⁸ … −3 has a relative error below 2·10⁻⁶ in float32.

    Source: 30-digit arithmetic; e^x − 1 as a difference is off by 1.3 percent at −10⁻⁶.
    """
    check_tail(load("elu"), ELU())


# ---------------------------------------------------------------------------------------------- smooth gates


@pytest.mark.item("gelu")
@pytest.mark.states("equivalence")
def test_gelu_agrees_with_torch_and_arithmetic():
    """GELU, its derivative and its second derivative on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Hendrycks & Gimpel 2016, §2.
    """
    golden = load("gelu")
    golden.check("y", GELU()(golden["x"]))
    golden.check("slope", derivative(GELU(), golden["smooth_x"]))
    golden.check("curvature", derivative(GELU(), golden["smooth_x"], order=2))


@pytest.mark.item("gelu")
@pytest.mark.states("equivalence")
def test_gelu_tanh_agrees_with_torch_and_arithmetic():
    """The tanh approximation, its derivative and second derivative on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Hendrycks & Gimpel 2016, §2.
    """
    golden = load("gelu")
    golden.check("tanh_y", GELU("tanh")(golden["x"]))
    golden.check("tanh_slope", derivative(GELU("tanh"), golden["smooth_x"]))
    golden.check("tanh_curvature", derivative(GELU("tanh"), golden["smooth_x"], order=2))


@pytest.mark.item("gelu")
def test_gelu_extrema_are_where_calculus_puts_them():
    """Minimum −0.16997 at −0.75179 (tanh: −0.17004 at −0.75246), largest derivative 1.12890 at √2.

    Source: Hendrycks & Gimpel 2016, §2; roots of GELU′ and GELU″ = (2 − x²)φ(x) with 30 digits.
    """
    golden = load("gelu")
    check_minimum(golden, GELU())
    check_minimum(golden, GELU("tanh"), prefix="tanh_")
    golden.check("steepest", derivative(GELU(), golden["steepest_x"]))


@pytest.mark.item("gelu")
def test_gelu_distances_to_its_approximations_are_exact():
    """sup |GELU − GELU_tanh| = 4.7324·10⁻⁴ and sup |GELU − x·σ(1.702x)| = 2.0335·10⁻².

    Source: Hendrycks & Gimpel 2016, §2, evaluated with 30 digits.
    """
    golden = load("gelu")
    x = golden["tanh_gap_x"]
    golden.check("tanh_gap", (GELU()(x) - GELU("tanh")(x)).abs())
    x = golden["quick_gap_x"]
    golden.check("quick_gap", (GELU()(x) - x * torch.sigmoid(1.702 * x)).abs())


@pytest.mark.item("gelu")
def test_gelu_has_known_moments():
    """For z ~ N(0, 1): E GELU(z) = 1/(2√π) = 0.28209, E GELU(z)² = 0.42522.

    Source: E z·Φ(z) = E φ(z) by parts (Stein); the square by quadrature with 30 digits.
    """
    check_moments(load("gelu"), GELU())


@pytest.mark.item("silu")
@pytest.mark.states("equivalence")
def test_silu_agrees_with_torch_and_arithmetic():
    """SiLU, its derivative and its second derivative on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Elfwing, Uchibe & Doya 2017, §2.1.
    """
    golden = load("silu")
    golden.check("y", SiLU()(golden["x"]))
    golden.check("slope", derivative(SiLU(), golden["smooth_x"]))
    golden.check("curvature", derivative(SiLU(), golden["smooth_x"], order=2))


@pytest.mark.item("silu")
def test_silu_extrema_are_where_the_paper_puts_them():
    """Minimum −0.27846 at −1.27846, largest derivative 1.09984 at 2.39936.

    Source: Elfwing, Uchibe & Doya 2017, §2.1: ≈ −0.28 for z ≈ −1.28, the dSiLU's maximum ≈ 1.1 for z ≈ 2.4.
    """
    golden = load("silu")
    check_minimum(golden, SiLU())
    golden.check("steepest", derivative(SiLU(), golden["steepest_x"]))
    laws.assert_close(SiLU()(golden["argmin"]), golden["argmin"] + 1, what="f* = x* + 1")


@pytest.mark.item("silu")
def test_silu_has_known_moments():
    """For z ~ N(0, 1): E SiLU(z) = 0.20662, E SiLU(z)² = 0.35578.

    Source: Elfwing, Uchibe & Doya 2017, §2.1; quadrature with 30 digits.
    """
    check_moments(load("silu"), SiLU())


@pytest.mark.item("silu")
def test_silu_is_precise_in_its_left_tail_in_float32():
    """SiLU(x) for x = −10 … −80 has a relative error below 2·10⁻⁶ in float32.

    Source: 30-digit arithmetic; SiLU(x) → x·e^x.
    """
    check_tail(load("silu"), SiLU())


@pytest.mark.item("silu")
@pytest.mark.states("equivalence")
def test_swish_agrees_with_torch_and_jax():
    """Swish with a trainable β = −0.75: value, derivative and ∂/∂β are those of torch's SiLU(βx)/β and of jax.

    Source: Ramachandran, Zoph & Le 2017, §3.
    """
    golden = load("silu")
    beta = golden["swish_state.beta"].item()
    module = Swish(beta, trainable=True).double()
    x = golden["x"].requires_grad_()
    y = module(x)
    d_x, d_beta = torch.autograd.grad(y.sum(), [x, module.beta])
    golden.check("swish.y", y)
    golden.check("swish.d_x", d_x)
    golden.check("swish.d_beta", d_beta.sum())
    golden.check("swish.y", Swish(beta)(x))


@pytest.mark.item("mish")
@pytest.mark.states("equivalence")
def test_mish_agrees_with_torch_and_arithmetic():
    """Mish, its derivative and its second derivative on [−8, 8] are torch's, and 30-digit arithmetic's.

    Source: Misra 2019, eq. 1.
    """
    golden = load("mish")
    golden.check("y", Mish()(golden["x"]))
    golden.check("slope", derivative(Mish(), golden["smooth_x"]))
    golden.check("curvature", derivative(Mish(), golden["smooth_x"], order=2))


@pytest.mark.item("mish")
def test_mish_extrema_are_where_the_paper_puts_them():
    """Minimum −0.30884 at −1.19243, largest derivative 1.08850 at 1.4907.

    Source: Misra 2019, §3: range ≈ [−0.31, ∞), the minimum ≈ −0.30884 at x ≈ −1.1924.
    """
    golden = load("mish")
    check_minimum(golden, Mish())
    golden.check("steepest", derivative(Mish(), golden["steepest_x"]))


@pytest.mark.item("mish")
def test_mish_has_known_moments():
    """For z ~ N(0, 1): the mean and mean square are those of 30-digit quadrature.

    Source: Misra 2019, eq. 1; quadrature by mpmath and by scipy.
    """
    check_moments(load("mish"), Mish())


@pytest.mark.item("mish")
def test_mish_is_precise_in_its_left_tail_in_float32():
    """Mish(x) for x = −10 … −80 has a relative error below 2·10⁻⁶ in float32: Mish(−20) = −4.1223·10⁻⁸.

    Source: 30-digit arithmetic; ln(1 + e^x) formed naively is 0 below −17 in float32.
    """
    check_tail(load("mish"), Mish())


# ---------------------------------------------------------------------------------------------- hard gates


@pytest.mark.item("hard-sigmoid")
@pytest.mark.states("equivalence")
def test_hard_sigmoid_agrees_with_torch_and_jax():
    """Hardsigmoid and its derivative on [−8, 8] are torch's and jax's.

    Source: Howard et al. 2019, §5.2.
    Convention: at ±3 the derivative is torch's. (In float64 torch's is 1/6 rounded to float32, hence the tolerance.)
    """
    golden = load("hard-sigmoid")
    golden.check("y", Hardsigmoid()(golden["x"]))
    golden.check("slope", derivative(Hardsigmoid(), golden["x"][golden["smooth"]]))
    golden.check("slope_at_minus_3_and_3", derivative(Hardsigmoid(), golden["x"][~golden["smooth"]]))


@pytest.mark.item("hard-sigmoid")
def test_hard_sigmoid_has_known_moments_and_distance():
    """For z ~ N(0, 1) the mean is ½ and the mean square 0.27764; sup |σ − h| = 0.069182 at 1.31696.

    Source: Howard et al. 2019, §5.2; quadrature and root with 30 digits.
    """
    golden = load("hard-sigmoid")
    check_moments(golden, Hardsigmoid())
    x = golden["sigmoid_gap_x"]
    golden.check("sigmoid_gap", (torch.sigmoid(x) - Hardsigmoid()(x)).abs())


@pytest.mark.item("hard-swish")
@pytest.mark.states("equivalence")
def test_hard_swish_agrees_with_torch_and_jax():
    """Hardswish and its derivative on [−8, 8] are torch's and jax's.

    Source: Howard et al. 2019, §5.2.  Convention: at ±3 the derivative is torch's.
    """
    golden = load("hard-swish")
    golden.check("y", Hardswish()(golden["x"]))
    golden.check("slope", derivative(Hardswish(), golden["x"][golden["smooth"]]))
    golden.check("slope_at_minus_3_and_3", derivative(Hardswish(), golden["x"][~golden["smooth"]]))


@pytest.mark.item("hard-swish")
def test_hard_swish_has_known_minimum_and_moments():
    """Minimum −3/8 at −3/2; for z ~ N(0, 1) mean and mean square are those of 30-digit quadrature.

    Source: Howard et al. 2019, §5.2: x(x + 3)/6.
    """
    golden = load("hard-swish")
    check_minimum(golden, Hardswish())
    check_moments(golden, Hardswish())
