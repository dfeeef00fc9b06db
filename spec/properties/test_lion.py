"""Lion: steps of one length along the sign of an interpolated momentum.  Chen et al. 2023, arXiv:2302.06675."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.lion import Lion
from spec import laws, optimizer_laws
from spec.optimizer_laws import START, drive, parameters, script
from spec.strategies import floats, gradient_sequences, seeds

pytestmark = pytest.mark.item("lion")

trajectory = partial(optimizer_laws.trajectory, Lion)


def directions(gradients, betas):
    """c_1 … c_T, the momentum written out as a sum over the gradients before."""
    (beta1, beta2), gradients = betas, np.asarray(gradients, dtype=np.float64)
    found = []
    for t, g in enumerate(gradients):
        age = np.arange(t - 1, -1, -1.0)[:, None]
        momentum = ((1 - beta2) * beta2**age * gradients[:t]).sum(0)
        found.append(beta1 * momentum + (1 - beta1) * g)
    return np.stack(found)


def algorithm_2(gradients, start, lr, betas, weight_decay=0.0, schedule=None):
    """The paper's algorithm 2 in NumPy; the schedule multiplies the learning rate."""
    theta = np.array(start, dtype=np.float64)
    path = [theta]
    for t, c in enumerate(directions(gradients, betas)):
        eta = lr if schedule is None else lr * schedule[t]
        theta = theta - eta * (np.sign(c) + weight_decay * theta)
        path.append(theta)
    return torch.from_numpy(np.stack(path))


def decided(gradients, betas):
    """Whether every direction is zero as no gradient came yet, or so far from zero that rounding cannot turn it."""
    c, g = directions(gradients, betas), np.asarray(gradients)
    nothing_yet = np.cumsum(np.abs(g), axis=0) == 0
    return bool((nothing_yet | (np.abs(c) > 1e-12)).all())


# ---------------------------------------------------------------------------------------------- the algorithm


@pytest.mark.states("equivalence")
@given(
    gradients=gradient_sequences(steps=8),
    lr=floats(1e-3, 0.5),
    beta1=floats(0, 0.99),
    beta2=floats(0, 0.99),
    weight_decay=floats(0, 0.5),
    schedule=st.lists(floats(0, 2), min_size=8, max_size=8),
)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 4 + [[-1.0, 0.1, -1e-3]] * 4), 0.1, 0.9, 0.99, 0.1, [1.0, 0.5] * 4)
@example(torch.tensor([[5.0, -5.0, 1e-5]] * 2 + [[-1e-3, 0.1, 1e-3]] * 6), 0.1, 0.5, 0.9, 0.3, [1.0, 2.0] * 4)
def test_it_follows_the_papers_algorithm(gradients, lr, beta1, beta2, weight_decay, schedule):
    """θ_t = θ_{t−1} − η_t (sign(β₁ m_{t−1} + (1 − β₁) g_t) + λ θ_{t−1}), every step, under any schedule.

    Source: Chen et al. 2023, algorithm 2.  Convention: λ is multiplied by the scheduled rate.
    """
    betas = (beta1, beta2)
    assume(decided(gradients, betas))
    theta = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = Lion([theta], lr=lr, betas=betas, weight_decay=weight_decay)
    path = [theta.detach().clone()]
    for g, factor in zip(gradients, schedule):
        optimizer.param_groups[0]["lr"] = lr * factor
        drive(optimizer, [theta], [[g.double()]])
        path.append(theta.detach().clone())
    laws.assert_close(torch.stack(path), algorithm_2(gradients, START, lr, betas, weight_decay, schedule))


def test_the_defaults_are_the_papers():
    """lr = 1e-4, β = (0.9, 0.99), no decay, descent: ten steps without any setting are those of the algorithm.

    Source: Chen et al. 2023, section 4.4 for the β; the authors' code for the rate and the decay.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=10)])
    path, optimizer = trajectory(gradients)
    assert decided(gradients, (0.9, 0.99))
    laws.assert_close(path, algorithm_2(gradients, START, 1e-4, (0.9, 0.99)))
    defaults = optimizer.defaults
    expected = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0}
    assert {name: defaults[name] for name in expected} == expected


@pytest.mark.states("dependence")
def test_groups_have_settings_of_their_own():
    """Two groups, the second with its own rate, β and decay, each follow their own algorithm for twelve steps.

    Source: Chen et al. 2023, algorithm 2, twice.
    """
    params, gradients = parameters((3,), (4,)), script((3,), (4,), steps=12)
    starts = [p.detach().clone() for p in params]
    second = {"lr": 0.02, "betas": (0.6, 0.8), "weight_decay": 0.4}
    drive(Lion([{"params": params[:1]}, {"params": params[1:], **second}], lr=0.1), params, gradients)
    for n, settings in enumerate(({"lr": 0.1, "betas": (0.9, 0.99)}, second)):
        column = torch.stack([row[n] for row in gradients])
        assert decided(column, settings["betas"])
        laws.assert_close(params[n].detach(), algorithm_2(column, starts[n].numpy(), **settings)[-1])


# ---------------------------------------------------------------------------------------------- the step


@given(gradients=gradient_sequences())
def test_every_coordinate_moves_equally_far(gradients):
    """At λ = 0 each coordinate moves by exactly η or, before its first gradient, not at all: ‖Δ‖₂ = η√d.

    Source: Chen et al. 2023, section 3.2, sign update: a uniform magnitude across all dimensions.
    """
    assume(decided(gradients, (0.8, 0.95)))
    path, _ = trajectory(gradients, lr=0.1, betas=(0.8, 0.95))
    has_begun = gradients.abs().cumsum(0) > 0
    laws.assert_close(path.diff(dim=0).abs(), 0.1 * has_begun.double())


@pytest.mark.states("limiting case")
def test_no_gradient_yet_no_step():
    """sign(0) = 0: a coordinate whose gradients are all zero only decays, θ_t = (1 − ηλ)ᵗ θ_0.

    Source: Chen et al. 2023, algorithm 2.  Convention: sign(0) = 0 as in every library; ±1 would be a drift.
    """
    gradients = torch.tensor([[1.0, 0.0, -1.0]] * 8, dtype=torch.float64)
    path, _ = trajectory(gradients, lr=0.1, weight_decay=0.5)
    laws.assert_close(path[:, 1], -0.5 * 0.95 ** torch.arange(9, dtype=torch.float64))
    laws.assert_close(trajectory(gradients, lr=0.1)[0][:, 1], torch.full((9,), -0.5, dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(scale=st.lists(floats(0.01, 100), min_size=3, max_size=3), seed=seeds())
def test_the_scale_of_a_gradient_is_no_information(scale, seed):
    """g → c·g, with a c > 0 for each coordinate, leaves the trajectory unchanged, weight decay included.

    Source: Chen et al. 2023, algorithm 2: c·m and c·g have the signs of m and g, and there is no ε.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=12, seed=seed)])
    assume(decided(gradients, (0.8, 0.95)))
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3}
    scaled = gradients * torch.tensor(scale, dtype=torch.float64)
    laws.assert_close(trajectory(scaled, **settings)[0], trajectory(gradients, **settings)[0])


@pytest.mark.states("symmetry")
@given(gradients=gradient_sequences(steps=8))
def test_it_is_odd(gradients):
    """Gradients and initial point with the other sign give the trajectory with the other sign.

    Source: Chen et al. 2023, algorithm 2: sign is odd and the rest linear.
    """
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3}
    path, _ = trajectory(gradients, **settings)
    mirrored, _ = trajectory(-gradients, [-x for x in START], **settings)
    laws.assert_close(mirrored, -path)


# ---------------------------------------------------------------------------------------------- the two betas


@pytest.mark.states("dependence")
def test_the_direction_comes_from_the_old_momentum():
    """After ten gradients of 1, where m = 0.0956, g = −1 turns the step, 0.9·0.0956 − 0.1 < 0, and g = −0.05 does not.

    The sign of the new momentum, 0.99·0.0956 − 0.01 > 0, would not turn; nor would an average of m_t and g.

    Source: Chen et al. 2023, algorithm 2, lines 5 and 7: c_t from m_{t−1}, with β₁; then m_t, with β₂.
    """
    path, optimizer = trajectory([[1.0, -1.0, 1.0]] * 10 + [[-1.0, 1.0, -0.05]] * 4, [1.0, 1.0, 1.0], lr=0.1)
    steps = path.diff(dim=0)
    laws.assert_close(steps[9], torch.tensor([-0.1, 0.1, -0.1], dtype=torch.float64))
    laws.assert_close(steps[10], torch.tensor([0.1, -0.1, -0.1], dtype=torch.float64))
    laws.assert_close(path[-1, 2], -0.4)
    _, optimizer = trajectory([[1.0] * 3] * 10, lr=0.1)
    (state,) = optimizer.state.values()
    laws.assert_close(state["exp_avg"], torch.full((3,), 1 - 0.99**10, dtype=torch.float64))


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.9), (0.75, 0.25)])
def test_how_large_a_gradient_turns_the_step(betas):
    """Once the momentum has converged under g = 1, a gradient reverses the step only below −β₁/(1−β₁).

    Source: Chen et al. 2023, section 3.2: β₁ = 0.9 gives the present gradient ten times the weight that it has in the
    momentum with β₂ = 0.99.
    """
    limit = betas[0] / (1 - betas[0])
    history = [[1.0, 1.0, -1.0]] * 900
    path, _ = trajectory(history + [[-0.99 * limit, -1.01 * limit, 1.01 * limit]], lr=0.1, betas=betas)
    laws.assert_close(path[-1] - path[-2], torch.tensor([-0.1, 0.1, -0.1], dtype=torch.float64))


@pytest.mark.states("limiting case")
@given(gradients=gradient_sequences(steps=8), beta=floats(0.05, 0.95))
def test_with_equal_betas_it_is_the_sign_of_the_momentum(gradients, beta):
    """β₁ = β₂: c_t = m_t, the new momentum, and Lion is sign descent with momentum; β₁ = 0 is sign descent.

    Source: Chen et al. 2023, section 3.2, momentum tracking: other sign methods have one β.
    """
    assume(decided(gradients, (beta, beta)))
    momentum, theta = torch.zeros(3, dtype=torch.float64), torch.tensor(START, dtype=torch.float64)
    for g in gradients:
        momentum = beta * momentum + (1 - beta) * g
        theta = theta - 0.1 * momentum.sign()
    laws.assert_close(trajectory(gradients, lr=0.1, betas=(beta, beta))[0][-1], theta)
    expected = torch.tensor(START, dtype=torch.float64) - 0.1 * gradients.sign().sum(0)
    laws.assert_close(trajectory(gradients, lr=0.1, betas=(0.0, beta))[0][-1], expected)


# ---------------------------------------------------------------------------------------------- the decay


@given(gradients=gradient_sequences(steps=8), other=st.lists(floats(-3, 3), min_size=3, max_size=3))
def test_the_initial_point_is_forgotten_at_the_rate_of_the_decay(gradients, other):
    """The difference of two runs under the same gradients shrinks by (1 − ηλ) a step, whatever the gradients are.

    Source: Chen et al. 2023, algorithm 2: decoupled weight decay. With λθ inside of the sign the runs would keep their
    distance wherever the gradients are large.
    """
    settings = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.95)}
    one, two = (trajectory(gradients, start, **settings)[0] for start in (START, other))
    rate = 0.95 ** torch.arange(len(one), dtype=torch.float64)[:, None]
    laws.assert_close(one - two, rate * (one[0] - two[0]))


def test_the_decay_bounds_the_weights():
    """A constant gradient drives θ to −sign(g)/λ, the distance falling by 1 − ηλ a step: at λ = 0.5 to ∓2.

    Source: Chen et al. 2023, algorithm 2: η(sign + λθ) = 0 at |θ| = 1/λ; Chen, Liu, Liang & Liu 2023, arXiv:2310.05898:
    Lion with decay λ minimizes under the constraint ‖θ‖_∞ ≤ 1/λ.
    """
    path, _ = trajectory([[3.0, -1e-3, 0.2]] * 450, lr=0.1, weight_decay=0.5)
    ends = torch.tensor([-2.0, 2.0, -2.0], dtype=torch.float64)
    rate = 0.95 ** torch.arange(451, dtype=torch.float64)[:, None]
    laws.assert_close(path - ends, rate * (path[0] - ends))
    laws.assert_close(path[-1], ends, rtol=1e-8, atol=1e-8, because="0.95^450 = 1e-10 of the distance is left")


@given(gradients=gradient_sequences(steps=8), weight_decay=floats(0.1, 2), lr=floats(1e-3, 0.4))
def test_no_weight_leaves_the_box(gradients, weight_decay, lr):
    """|θ_t| ≤ max(|θ_{t−1}|, 1/λ) while ηλ ≤ 1, whatever the gradients do.

    Source: Chen et al. 2023, algorithm 2: |(1 − ηλ)θ − η sign| ≤ (1 − ηλ)|θ| + ηλ/λ.
    """
    path, _ = trajectory(gradients, lr=lr, weight_decay=weight_decay)
    bound = path[:-1].abs().clamp(min=1 / weight_decay)
    assert (path[1:].abs() <= bound + 1e-12).all(), f"expected at most {bound.tolist()}, found {path[1:].tolist()}"


def test_the_decay_takes_the_weight_before_the_step():
    """Δ = −η(sign(c) + λθ_{t−1}): one step from θ = 2 with η = 0.1, λ = 0.5 ends at 1.8; decayed afterwards at 1.805.

    Source: Chen et al. 2023, algorithm 2, line 6.
    """
    path, _ = trajectory([[1.0, -4.0, 1e-5]], [2.0, 2.0, -2.0], lr=0.1, weight_decay=0.5)
    laws.assert_close(path[1], torch.tensor([1.8, 2.0, -2.0], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- the state


@given(gradients=gradient_sequences())
def test_the_state_is_the_momentum(gradients):
    """exp_avg = (1−β₂) Σ β₂^{t−i} g_i, with β₂ alone, uncorrected and without the decay.

    Source: Chen et al. 2023, algorithm 2, line 7.  Convention: the name in the authors' code.
    """
    _, optimizer = trajectory(gradients, lr=0.1, betas=(0.8, 0.95), weight_decay=0.5)
    (state,) = optimizer.state.values()
    age = torch.arange(5, -1, -1, dtype=torch.float64)[:, None]
    laws.assert_close(state["exp_avg"], (0.05 * 0.95**age * gradients).sum(0))


@pytest.mark.states("cost")
def test_the_state_is_half_of_adams():
    """The state holds one element for each parameter and no more, where AdamW's holds two.

    Source: Chen et al. 2023, section 3.2, memory: Lion only saves the momentum.
    """
    shapes = ((5, 7), (11,))
    params, others = parameters(*shapes), parameters(*shapes)
    lion, adam = Lion(params), torch.optim.AdamW(others)
    drive(lion, params, script(*shapes, steps=2))
    drive(adam, others, script(*shapes, steps=2))
    held, double = (sum(t.numel() for s in o.state.values() for t in s.values() if t.dim()) for o in (lion, adam))
    assert held == 46 and double == 92


def test_a_run_of_the_authors_code_goes_on():
    """A state dict of the authors' PyTorch code, exp_avg and lr, betas, weight_decay for each group, is continued.

    Source: Chen et al. 2023, the published code: these names and no others.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=9)])
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3}
    whole = algorithm_2(gradients, START, **settings)
    momentum = torch.zeros(3, dtype=torch.float64)
    for g in gradients[:4]:
        momentum = 0.95 * momentum + 0.05 * g
    theta = nn.Parameter(whole[4].clone())
    optimizer = Lion([theta])
    saved = {"state": {0: {"exp_avg": momentum.clone()}}, "param_groups": [{**settings, "params": [0]}]}
    optimizer.load_state_dict(copy.deepcopy(saved))
    drive(optimizer, [theta], [[g] for g in gradients[4:]])
    laws.assert_close(theta.detach(), whole[-1])


def test_to_maximize_survives_a_foreign_state():
    """An optimizer that was built to maximize still does after loading a state dict without that setting.

    Convention: a setting that a foreign state dict does not have stays as it was built.
    """
    theta = nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = Lion([theta], maximize=True)
    group = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.0, "params": [0]}
    optimizer.load_state_dict({"state": {0: {"exp_avg": torch.zeros(3, dtype=torch.float64)}}, "param_groups": [group]})
    drive(optimizer, [theta], [[torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)]])
    expected = torch.tensor(START, dtype=torch.float64) + 0.1 * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    laws.assert_close(theta.detach(), expected)


@pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "weight_decay"])
def test_zero_is_a_setting(name):
    """Each setting may be zero, and has its limit: no motion, the gradient's sign, no memory, no decay.

    Source: Chen et al. 2023, algorithm 2; η = 0 is the end of a schedule.
    """
    values = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.3} | {name: 0.0}
    settings = {"betas": (values.pop("beta1"), values.pop("beta2"))} | values
    gradients = torch.stack([g for (g,) in script((3,), steps=9)])
    laws.assert_close(trajectory(gradients, **settings)[0], algorithm_2(gradients, START, **settings))
