"""RMSprop: gradients over their recent size.  Tieleman & Hinton 2012, lecture 6.5; Graves 2013, arXiv:1308.0850."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.rmsprop import RMSprop
from spec import laws, optimizer_laws
from spec.optimizer_laws import START, drive, script
from spec.strategies import floats, gradient_sequences, seeds

pytestmark = pytest.mark.item("rmsprop")

trajectory = partial(optimizer_laws.trajectory, RMSprop)

VARIANTS = [(False, 0.0), (True, 0.0), (False, 0.7), (True, 0.7)]
variants = pytest.mark.parametrize(("centered", "momentum"), VARIANTS)


def equations(gradients, start, lr, alpha, eps, weight_decay=0.0, momentum=0.0, centered=False):
    """The lecture's rule, Graves' eq. 38-45 with ε outside, in NumPy: averages and buffer written out as sums."""
    theta, seen, steps, path = np.array(start, dtype=np.float64), [], [], [np.array(start, dtype=np.float64)]
    for t, g in enumerate(np.asarray(gradients, dtype=np.float64), 1):
        seen.append(g + weight_decay * theta)
        weights = (1 - alpha) * alpha ** np.arange(t - 1, -1, -1.0)[:, None]
        square, mean = (weights * np.square(seen)).sum(0), (weights * np.array(seen)).sum(0)
        # The variance as a sum of squares: Σw(g − ḡ)² = v − ḡ²(2 − Σw), as the weights do not sum to one yet.
        spread = (weights * (np.array(seen) - mean) ** 2).sum(0) + mean**2 * (1 - weights.sum())
        steps.append(seen[-1] / (np.sqrt(spread if centered else square) + eps))
        buffer = (momentum ** np.arange(t - 1, -1, -1.0)[:, None] * np.array(steps)).sum(0)
        theta = theta - lr * buffer
        path.append(theta)
    return torch.from_numpy(np.stack(path))


# ---------------------------------------------------------------------------------------------- the algorithm


@pytest.mark.states("equivalence")
@given(
    gradients=gradient_sequences(),
    lr=floats(1e-3, 0.5),
    alpha=floats(0, 0.99),
    eps=floats(1e-2, 1),
    weight_decay=floats(0, 0.5),
    momentum=floats(0, 0.95),
)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 3 + [[-1.0, 0.1, 1e-3]] * 3), 0.1, 0.9, 1e-2, 0.1, 0.8)
@example(torch.tensor([[5.0, -5.0, 1e-5]] * 2 + [[-1e-3, 0.1, 1e-3]] * 4), 0.1, 0.5, 1e-2, 0.1, 0.0)
def test_it_follows_the_equations(gradients, lr, alpha, eps, weight_decay, momentum):
    """θ_t = θ_{t−1} − η b_t, b_t = Σ_i μ^{t−i} g_i/(√v_i + ε), v_i the decaying mean of squares; every step.

    Source: Tieleman & Hinton 2012, lecture 6.5.
    Convention: g with the penalty's λθ, ε outside the root, η outside the buffer: torch.optim.RMSprop.
    """
    settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
    path, _ = trajectory(gradients, **settings)
    laws.assert_close(path, equations(gradients, START, **settings))


@given(
    gradients=gradient_sequences(),
    alpha=floats(0.5, 0.99),
    eps=floats(1e-2, 1),
    weight_decay=floats(0.1, 0.5),
    momentum=floats(0, 0.95),
)
def test_centered_it_follows_graves(gradients, alpha, eps, weight_decay, momentum):
    """Centered, the divisor is √(v_t − ḡ_t²) + ε with ḡ_t the decaying mean of the gradients, this one included.

    Source: Graves 2013, eq. 38-45.  Convention: ε outside the root; Graves has √(v − ḡ² + 10⁻⁴).
    """
    settings = {"lr": 0.1, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
    path, _ = trajectory(gradients, **settings, centered=True)
    expected = equations(gradients, START, **settings, centered=True)
    why = "v − ḡ² and a sum of squared differences cancel differently under the root"
    laws.assert_close(path, expected, rtol=1e-6, atol=1e-6, because=why)


# ---------------------------------------------------------------------------------------------- the divisor


def test_a_constant_gradient_starts_with_long_steps():
    """Under a constant g step t has length η/√(1 − αᵗ): at η = 0.01, α = 0.9 the first 0.0316, θ_10 = −0.1733.

    Source: Tieleman & Hinton 2012, lecture 6.5, with v_0 = 0: v_t = (1 − αᵗ)g².
    Convention: no correction of the bias; with Adam's every step would be η.
    """
    path, _ = trajectory([[3.0, -1e-3, 0.2]] * 10, [0.0] * 3, lr=0.01, alpha=0.9, eps=0.0)
    sizes = torch.tensor([0.01 / math.sqrt(1 - 0.9**t) for t in range(1, 11)], dtype=torch.float64)
    laws.assert_close(path.diff(dim=0), sizes[:, None] * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    laws.assert_close(path[1, 1], 0.03162277660168379)
    laws.assert_close(path[-1, 0], -0.1733249762961454)


def test_centered_a_constant_gradient_is_known_to_be_constant():
    """Centered, a constant g has the divisor √((1 − αᵗ)αᵗ)·|g|; five steps of η = 0.01, α = 0.9: −0.1227.

    Source: Graves 2013, eq. 38-40 with v_0 = ḡ_0 = 0: v = (1 − αᵗ)g², ḡ = (1 − αᵗ)g.
    """
    path, _ = trajectory([[3.0, -1e-3, 0.2]] * 5, [0.0] * 3, lr=0.01, alpha=0.9, eps=0.0, centered=True)
    sizes = torch.tensor([0.01 / math.sqrt((1 - 0.9**t) * 0.9**t) for t in range(1, 6)], dtype=torch.float64)
    laws.assert_close(path.diff(dim=0), sizes[:, None] * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    laws.assert_close(path[-1, 0], -0.12271044610409959)


@pytest.mark.states("symmetry")
@variants
@given(scale=st.lists(floats(0.01, 100), min_size=3, max_size=3), seed=seeds())
def test_the_scale_of_a_gradient_is_no_information(scale, seed, centered, momentum):
    """g → c·g, with a c > 0 for each coordinate, leaves the trajectory unchanged at ε = 0.

    Source: Tieleman & Hinton 2012, lecture 6.5: dividing by the root mean square removes the size of a gradient.
    """
    gradients = torch.stack([g for (g,) in script((3,), seed=seed)])
    settings = {"lr": 0.1, "alpha": 0.8, "eps": 0.0, "centered": centered, "momentum": momentum}
    scaled = gradients * torch.tensor(scale, dtype=torch.float64)
    path, expected = trajectory(scaled, **settings)[0], trajectory(gradients, **settings)[0]
    if centered:
        why = "v − ḡ² cancels, so that rounding of the scaled gradients shows"
        laws.assert_close(path, expected, rtol=1e-8, atol=1e-8, because=why)
    else:
        laws.assert_close(path, expected)


@pytest.mark.states("limiting case")
@given(gradient=st.lists(floats(-5, 5, away_from_zero=1e-4), min_size=3, max_size=3))
def test_without_memory_it_is_the_sign(gradient):
    """At α = 0 and ε = 0 every step is −η sign(g): rprop with steps of one length.

    Source: Tieleman & Hinton 2012, lecture 6.5: rprop is equivalent to using the gradient but also dividing by the
    size of the gradient; rmsprop keeps the divisor similar from one mini-batch to the next.
    """
    path, _ = trajectory([gradient, [-2.0 * g for g in gradient]], lr=0.1, alpha=0.0, eps=0.0)
    signs = torch.tensor(gradient, dtype=torch.float64).sign()
    laws.assert_close(path.diff(dim=0), torch.stack([-0.1 * signs, 0.1 * signs]))


@pytest.mark.states("limiting case", "equivalence")
@given(gradients=gradient_sequences())
def test_with_a_long_memory_it_is_adagrad(gradients):
    """For α → 1 v_t/(1 − α) tends to Σ g²: steps are AdaGrad's with the rate η/√(1 − α).

    Source: Duchi, Hazan & Singer 2011, JMLR 12, figure 1, against lecture 6.5. The weights α^{t−i} differ from 1 by
    at most 5(1 − α) = 5e-7 here.
    """
    alpha, tiny = 1 - 1e-7, 1e-300
    path, optimizer = trajectory(gradients, lr=0.1, alpha=alpha, eps=tiny)
    (state,) = optimizer.state.values()
    sums = gradients.square().cumsum(0)
    why = "the limit is reached to the order of 1 − α = 1e-7"
    laws.assert_close(state["square_avg"] / (1 - alpha), sums[-1], rtol=1e-6, atol=1e-6, because=why)
    steps = torch.where(sums > 0, -0.1 * gradients / sums.sqrt().clamp(min=tiny), 0.0)
    laws.assert_close(path.diff(dim=0) * math.sqrt(1e-7), steps, rtol=1e-6, atol=1e-6, because=why)


@pytest.mark.states("dependence")
def test_a_large_gradient_is_forgotten():
    """After one gradient of 100 a gradient of 1 takes steps that grow back to η, as the square decays by αᵗ.

    Source: Tieleman & Hinton 2012, lecture 6.5: a moving average of the squared gradient; AdaGrad's sum never falls.
    """
    path, _ = trajectory([[100.0, -100.0, 100.0]] + [[1.0, 1.0, -1.0]] * 200, lr=0.1, alpha=0.9, eps=0.0)
    sizes = path.diff(dim=0)[1:].abs()
    # v = (1 − α)αᵗ·100² + (1 − αᵗ)
    expected = [0.1 / math.sqrt(0.1 * 0.9**t * 1e4 + 1 - 0.9**t) for t in range(1, 201)]
    laws.assert_close(sizes, torch.tensor(expected, dtype=torch.float64)[:, None].expand(200, 3))
    assert sizes[0, 0] < 0.004 and sizes[-1, 0] > 0.0999


@pytest.mark.parametrize("centered", [False, True])
def test_a_gradient_of_the_size_of_eps_moves_half_as_far(centered):
    """A divisor of the size of ε gives half of the step without ε: ε is added to the root.

    Convention: ε outside the root, as in torch.optim; inside (Graves' eq. 45, TensorFlow, optax's default) the first
    step at v = ε² = 10⁻⁴ would be η·|g|/√(10⁻⁴ + 10⁻²) = a tenth of √v's.
    """
    share = 0.25 * (0.75 if centered else 1.0)  # v or v − ḡ² at step 1, in units of g²; α = 0.75
    g = 1e-2 / math.sqrt(share)
    path, _ = trajectory([[g, -g, 3 * g]], lr=0.1, alpha=0.75, eps=1e-2, centered=centered)
    unit = 0.1 / math.sqrt(share)
    expected = torch.tensor([-unit / 2, unit / 2, -unit * 0.75], dtype=torch.float64)
    laws.assert_close(path[1] - path[0], expected)


def test_centered_only_the_noise_about_the_mean_counts():
    """For gradients 1 ± 0.1 in turn the centered divisor is the spread 0.1, not the size 1: steps ten times as long.

    Source: Graves 2013, eq. 40: n − g² estimates the variance. In the long run of an alternation a ± b the mean is
    a ± b(1−α)/(1+α), the square a² + b² ± 2ab(1−α)/(1+α).
    """
    alpha, a, b = 0.99, 1.0, 0.1
    gradients = [[a + b * (-1.0) ** t] for t in range(3000)]
    path, _ = trajectory(gradients, [0.0], lr=1e-3, alpha=alpha, eps=0.0, centered=True)
    wobble = b * (1 - alpha) / (1 + alpha)
    spread = [a * a + b * b + 2 * a * s * wobble - (a + s * wobble) ** 2 for s in (1, -1)]
    expected = [-1e-3 * (a + s * b) / math.sqrt(x) for s, x in zip((1, -1), spread)]
    laws.assert_close(path.diff(dim=0)[-2:, 0], torch.tensor(expected, dtype=torch.float64))
    assert -path.diff(dim=0)[-1, 0] > 8e-3


@pytest.mark.project_convention
@pytest.mark.parametrize(("dtype", "alpha"), [(torch.float32, 0.5), (torch.float64, 0.5), (torch.float64, 0.9)])
def test_centered_a_spread_of_zero_is_not_rounded_below_zero(dtype, alpha):
    """After 400 equal gradients v − ḡ² is zero but for rounding: the divisor is then ε, and no parameter is NaN.

    Source: Graves 2013, eq. 40: an estimate of a variance.
    Convention: the difference is cut at zero; torch.optim.RMSprop takes its root as it is, and is NaN here.
    """
    theta = nn.Parameter(torch.zeros(5, dtype=dtype))
    optimizer = RMSprop([theta], lr=1.0, alpha=alpha, eps=1.0, centered=True)
    gradient = torch.tensor([0.1, -0.3, 7.7, 1e-3, -1.1], dtype=dtype)
    drive(optimizer, [theta], [[gradient]] * 400)
    before = theta.detach().clone()
    drive(optimizer, [theta], [[gradient]])
    why = "rounding leaves a spread of order 1e-4·g in float32, where ε = 1"
    laws.assert_close((theta.detach() - before) / gradient, torch.full((5,), -1.0, dtype=dtype), rtol=0.01, because=why)


# ---------------------------------------------------------------------------------------------- momentum


@pytest.mark.states("dependence")
@given(gradients=gradient_sequences(), rates=st.lists(floats(0.01, 1), min_size=6, max_size=6))
def test_the_learning_rate_stays_outside_the_buffer(gradients, rates):
    """θ_t = θ_{t−1} − η_t b_t with b_t = Σ_i μ^{t−i} g_i/d_i: a new rate counts at once and for the whole buffer.

    Convention: torch.optim; with η inside (Graves' eq. 44, TensorFlow) past steps keep the rate that they were made
    with. The two agree while η is constant.
    """
    theta = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = RMSprop([theta], alpha=0.8, eps=1e-2, momentum=0.7)
    unit, _ = trajectory(gradients, lr=1.0, alpha=0.8, eps=1e-2, momentum=0.7)
    expected = unit[0].clone()
    for g, rate, step in zip(gradients, rates, unit.diff(dim=0)):
        optimizer.param_groups[0]["lr"] = rate
        drive(optimizer, [theta], [[g]])
        expected += rate * step
    laws.assert_close(theta.detach(), expected)
    laws.assert_close(optimizer.state[theta]["momentum_buffer"], -unit.diff(dim=0)[-1])


def test_momentum_carries_on():
    """After the last gradient the parameter coasts: steps fall by μ each, and sum to η b/(1 − μ) in all.

    Source: Tieleman & Hinton 2012, lecture 6.5: rmsprop with standard momentum.
    Convention: the buffer is a sum, not a mean: no factor 1 − μ.
    """
    path, _ = trajectory([[2.0, -1e-3, 0.1]] + [[0.0] * 3] * 60, lr=0.1, alpha=0.75, eps=0.0, momentum=0.5)
    first = 0.1 / 0.5 * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)  # 1/√(1 − α) = 2
    laws.assert_close(path[1] - path[0], first)
    laws.assert_close(path[2] - path[1], first / 2)
    laws.assert_close(path[-1] - path[0], 2 * first)


# ---------------------------------------------------------------------------------------------- the decay


@variants
def test_the_decay_is_the_gradient_of_a_penalty(centered, momentum):
    """λ on gradients g is λ = 0 on the gradients g + λθ of the loss with ½λ‖θ‖² added: averages see it too.

    Convention: torch.optim.RMSprop's weight_decay; a decoupled one would not pass through the division.
    """
    gradients = torch.stack([g for (g,) in script((3,))])
    settings = {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "centered": centered, "momentum": momentum}
    path, _ = trajectory(gradients, **settings, weight_decay=0.3)
    laws.assert_close(trajectory(gradients + 0.3 * path[:-1], **settings)[0], path)


def test_the_decay_has_the_length_of_a_step():
    """With zero gradients the first step is η/√(1 − α) towards zero for every weight, large or small.

    Convention: the penalty passes through the division; decoupled decay would take η·λ of the weight.
    """
    path, _ = trajectory([[0.0] * 3], lr=0.1, alpha=0.75, eps=0.0, weight_decay=0.3)
    laws.assert_close(path[1] - path[0], torch.tensor([-0.2, 0.2, -0.2], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- the state


@pytest.mark.states("cost")
@variants
def test_the_state_is_the_averages(centered, momentum):
    """square_avg = (1−α) Σ α^{t−i} g_i²; centered grad_avg = (1−α) Σ α^{t−i} g_i; a buffer only with momentum.

    Source: Graves 2013, eq. 38-39.  Convention: names of torch.optim.RMSprop's state; one tensor for each average.
    """
    gradients = torch.stack([g for (g,) in script((3,))])
    _, optimizer = trajectory(gradients, lr=0.1, alpha=0.8, eps=1e-2, centered=centered, momentum=momentum)
    (state,) = optimizer.state.values()
    names = ["grad_avg"] * centered + ["momentum_buffer"] * (momentum > 0) + ["square_avg"]
    assert sorted(state.keys() - {"step"}) == sorted(names)  # the rule needs no count; torch.optim has one
    weights = 0.2 * 0.8 ** torch.arange(5, -1, -1, dtype=torch.float64)[:, None]
    laws.assert_close(state["square_avg"], (weights * gradients**2).sum(0))
    if centered:
        laws.assert_close(state["grad_avg"], (weights * gradients).sum(0))


@pytest.mark.parametrize("name", ["alpha", "momentum"])
def test_one_is_a_setting(name):
    """With α = 1 the average never leaves zero and g/d is g/ε; with μ = 1 the buffer sums all steps without decay.

    Convention: torch.optim.RMSprop has no upper bound for either; above α = 1 the average would turn negative.
    """
    settings = {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.3, "momentum": 0.7} | {name: 1.0}
    gradients = torch.stack([g for (g,) in script((3,))])
    laws.assert_close(trajectory(gradients, **settings)[0], equations(gradients, START, **settings))
