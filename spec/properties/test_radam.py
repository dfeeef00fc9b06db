"""RAdam: Adam with a rectified adaptive rate.  Liu et al. 2019, arXiv:1908.03265."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.radam import RAdam
from spec import laws, optimizer_laws
from spec.optimizer_laws import START, drive, parameters, script
from spec.strategies import floats, gradient_sequences, seeds

pytestmark = pytest.mark.item("radam")

trajectory = partial(optimizer_laws.trajectory, RAdam)

SIGNS = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
CONSTANT = [2.0, -1e-3, 0.1]


def length(t, beta2):
    """ρ_t of algorithm 2, line 9."""
    return 2 / (1 - beta2) - 1 - 2 * t * beta2**t / (1 - beta2**t)


def rectification(t, beta2):
    """r_t of algorithm 2, line 12."""
    rho, rho_inf = length(t, beta2), 2 / (1 - beta2) - 1
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


def algorithm_2(gradients, start, lr, betas, eps, weight_decay=0.0, decoupled=False, threshold=5.0):
    """The paper's algorithm 2 in NumPy, with the moments as sums, ε added to √v, and both kinds of decay."""
    theta, (beta1, beta2), seen = np.array(start, dtype=np.float64), betas, []
    path = [theta]
    for t, g in enumerate(np.asarray(gradients, dtype=np.float64), 1):
        seen.append(g if decoupled else g + weight_decay * theta)
        age = np.arange(t - 1, -1, -1.0)[:, None]
        m_hat = ((1 - beta1) * beta1**age * np.array(seen)).sum(0) / (1 - beta1**t)
        root = np.sqrt(((1 - beta2) * beta2**age * np.square(seen)).sum(0))
        if length(t, beta2) > threshold:
            step = rectification(t, beta2) * m_hat * math.sqrt(1 - beta2**t) / (root + eps)
        else:
            step = m_hat
        theta = (1 - lr * weight_decay * decoupled) * theta - lr * step
        path.append(theta)
    return torch.from_numpy(np.stack(path))


# ---------------------------------------------------------------------------------------------- the algorithm


@pytest.mark.states("equivalence")
@given(
    gradients=gradient_sequences(steps=9),
    lr=floats(1e-3, 0.5),
    beta1=floats(0, 0.99),
    beta2=floats(0.3, 0.999),
    eps=floats(1e-3, 1),
    weight_decay=floats(0, 0.5),
    decoupled=st.booleans(),
)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 4 + [[-1.0, 0.1, 1e-3]] * 5), 0.1, 0.9, 0.999, 1e-2, 0.1, False)
@example(torch.tensor([[5.0, -5.0, 1e-5]] * 5 + [[-1e-3, 0.1, 1e-3]] * 4), 0.1, 0.8, 0.9, 1e-2, 0.1, True)
def test_it_follows_the_papers_algorithm(gradients, lr, beta1, beta2, eps, weight_decay, decoupled):
    """θ −= η r_t m̂_t √(1−β₂ᵗ)/(√v_t + ε) where ρ_t > 5, θ −= η m̂_t elsewhere; every step.

    Source: Liu et al. 2019, algorithm 2.
    Convention: threshold 5 for the paper's 4, ε before the bias correction, λθ in the gradient unless decoupled.
    """
    settings = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
    path, _ = trajectory(gradients, **settings, decoupled_weight_decay=decoupled)
    laws.assert_close(path, algorithm_2(gradients, START, **settings, decoupled=decoupled))


# ---------------------------------------------------------------------------------------------- the threshold


def test_five_steps_of_momentum_then_rectified_ones():
    """A constant g moves by η·g for five steps; the sixth is η r_6 sign(g), and at η = 0.01 it is 2.5821e-4.

    Source: Liu et al. 2019, algorithm 2: m̂ = g throughout; m̂·l = sign(g).
    Convention: ρ_t > 5 as in torch.optim; by the paper's ρ_t > 4 the fifth step is rectified already, and the authors'
    code by default does not move at all in the first five.
    """
    path, _ = trajectory([CONSTANT] * 7, lr=0.01, eps=0.0)
    steps = path.diff(dim=0)
    laws.assert_close(steps[:5], -0.01 * torch.tensor(CONSTANT, dtype=torch.float64).expand(5, 3))
    laws.assert_close(steps[5], 0.01 * 0.02582111280 * SIGNS)
    laws.assert_close(steps[6, 0], -3.273881441e-4)


@pytest.mark.parametrize(("beta2", "waiting"), [(0.8, 6), (0.9, 5), (0.99, 5), (0.999, 5)])
def test_the_number_of_waiting_steps(beta2, waiting):
    """ρ_t passes 5 at the sixth step for β₂ from 0.9 on, and at the seventh for β₂ = 0.8, where ρ_∞ = 9.

    Source: Liu et al. 2019, algorithm 2, lines 3 and 9.  Convention: threshold 5.
    """
    path, _ = trajectory([CONSTANT] * 12, lr=0.01, betas=(0.9, beta2), eps=0.0)
    plain = -0.01 * torch.tensor(CONSTANT, dtype=torch.float64)
    is_plain = ((path.diff(dim=0) - plain).abs() < 1e-12).all(1).tolist()
    assert is_plain == [True] * waiting + [False] * (12 - waiting)


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.6, 0.66])
def test_short_memories_are_never_rectified(beta2):
    """For β₂ ≤ 2/3 the length ρ_∞ is at most 5: every step is momentum alone, and v is kept without use.

    Source: Liu et al. 2019, algorithm 2, and section 4.2: β₂ ≤ 0.6 makes ρ_∞ ≤ 4 and RAdam gradient descent with
    momentum.  Convention: with the threshold 5 the bound is β₂ ≤ 2/3.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=30)])
    path, _ = trajectory(gradients, lr=0.01, betas=(0.8, beta2), eps=1e-2)
    weights = [[0.2 * 0.8 ** (t - i) * (i <= t) for i in range(30)] for t in range(30)]
    weights = torch.tensor(weights, dtype=torch.float64)
    m_hat = weights @ gradients / (1 - 0.8 ** torch.arange(1, 31, dtype=torch.float64))[:, None]
    expected = torch.cat([path[:1], path[:1] - 0.01 * m_hat.cumsum(0)])
    laws.assert_close(path, expected)


@pytest.mark.project_convention
def test_the_threshold_of_the_paper():
    """threshold = 4 rectifies from the fifth step on, r_5 = 0.0173115 at β₂ = 0.999; threshold = 8 from the ninth.

    Source: Liu et al. 2019, algorithm 2, line 7: ρ_t > 4.  Convention: the argument is this project's.
    """
    for threshold, first in ((4.0, 5), (5.0, 6), (8.0, 9)):
        path, _ = trajectory([CONSTANT] * 12, lr=0.01, eps=0.0, threshold=threshold)
        found = path.diff(dim=0)
        plain = torch.tensor(CONSTANT, dtype=torch.float64)
        expected = [-0.01 * plain if t < first else 0.01 * rectification(t, 0.999) * SIGNS for t in range(1, 13)]
        laws.assert_close(found, torch.stack(expected))
    path, _ = trajectory([CONSTANT] * 5, lr=1.0, eps=0.0, threshold=4.0)
    laws.assert_close(path[5, 0] - path[4, 0], -0.0173115032, rtol=1e-8, atol=1e-8, because="nine digits are printed")


@pytest.mark.project_convention
@given(threshold=floats(4, 12), seed=seeds())
def test_the_threshold_is_exceeded(threshold, seed):
    """With any threshold ≥ 4 the trajectory is the algorithm's: rectified exactly where ρ_t > threshold.

    Source: Liu et al. 2019, algorithm 2, line 7.  Convention: the argument is this project's; strictly greater.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=16, seed=seed)])
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "threshold": threshold}
    laws.assert_close(trajectory(gradients, **settings)[0], algorithm_2(gradients, START, **settings))


@pytest.mark.project_convention
def test_a_length_equal_to_the_threshold_waits():
    """ρ_t > threshold is strict: a threshold of exactly ρ_7 leaves the seventh step unrectified, and not the eighth.

    Source: Liu et al. 2019, algorithm 2, line 7.  Convention: the authors' code has ≥; ρ_t is rounded as printed.
    """
    path, _ = trajectory([CONSTANT] * 8, lr=0.01, eps=0.0, betas=(0.9, 0.5 + 0.375), threshold=length(7, 0.875))
    steps = path.diff(dim=0)
    laws.assert_close(steps[6], -0.01 * torch.tensor(CONSTANT, dtype=torch.float64))
    laws.assert_close(steps[7], 0.01 * rectification(8, 0.875) * SIGNS)


# ---------------------------------------------------------------------------------------------- the rectification


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999])
def test_the_rectification_grows_towards_one(beta2):
    """Under a constant gradient a rectified step is η r_t: below η, longer every time, and η in the end.

    Source: Liu et al. 2019, section 4.2, eq. 6: r_t compares Var of a scaled inverse χ² with ρ_t and ρ_∞ degrees.
    """
    steps = -trajectory([CONSTANT] * 400, lr=1.0, betas=(0.9, beta2), eps=0.0)[0].diff(dim=0)[5:, 0]
    expected = torch.tensor([rectification(t, beta2) for t in range(6, 401)], dtype=torch.float64)
    laws.assert_close(steps, expected)
    assert (steps > 0).all() and (steps < 1 + 1e-12).all()
    assert (steps.diff() > -1e-12).all() and (steps[:50].diff() > 0).all()
    if beta2 == 0.9:
        assert abs(steps[-1] - 1) < 1e-9


@pytest.mark.states("limiting case", "equivalence")
def test_in_the_long_run_it_is_adam():
    """For large t r_t → 1 and a RAdam step is an Adam step: at β₂ = 0.99, t = 1000, r_t = 0.99978.

    Source: Liu et al. 2019, section 4.2: when t → ∞ the update is Adam's.
    """
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-12}
    path, _ = trajectory(gradients, **settings)
    theta = nn.Parameter(path[-2].clone())
    adam = torch.optim.Adam([theta], **settings)
    for g in gradients:
        theta.data.copy_(path[-2])
        drive(adam, [theta], [[g]])
    ratio = (path[-1] - path[-2]) / (theta.detach() - path[-2])
    expected = torch.full((3,), 0.9997764, dtype=torch.float64)
    laws.assert_close(ratio, expected, rtol=1e-6, atol=1e-6, because="seven digits are printed")


def test_the_variance_of_the_adaptive_rate_is_constant():
    """For normal gradients Var[r_t l_t] is the same at every t ≥ 20, while Var[l_t] falls from 0.031 to 0.0034.

    Measured: at β₂ = 0.99 on 8000 coordinates Var[r_t l_t] is 0.0022, 0.0023, 0.0023, 0.0023 at t = 20, 50, 100, 200,
    the largest over the smallest 1.04 to 1.10 (6 seeds); without the rectification 8.7 to 9.3. The threshold is at
    1.25, more than six standard deviations of that ratio above its mean.

    Source: Liu et al. 2019, section 4.2: rectification holds the variance at Var[ψ(ρ_∞)].
    """
    generator = torch.Generator().manual_seed(0)
    theta = nn.Parameter(torch.zeros(8000, dtype=torch.float64))
    optimizer = RAdam([theta], lr=1.0, betas=(0.0, 0.99), eps=0.0)
    found = {}
    for t in range(1, 201):
        gradient = torch.randn(8000, generator=generator, dtype=torch.float64)
        before = theta.detach().clone()
        drive(optimizer, [theta], [[gradient]])
        if t in (20, 50, 100, 200):
            rate = (before - theta.detach()) / gradient  # β₁ = 0: the step is r_t·l_t·g
            found[t] = (rate.var().item(), (rate / rectification(t, 0.99)).var().item())
    rectified, plain = zip(*found.values())
    assert max(rectified) < 1.25 * min(rectified), f"expected equal variances, found {rectified}"
    assert plain[0] > 6 * plain[-1], f"expected the plain rate's variance to fall, found {plain}"


@pytest.mark.states("symmetry")
@given(scale=st.lists(floats(0.01, 100), min_size=3, max_size=3), seed=seeds())
def test_the_scale_of_a_gradient_is_no_information_once_rectified(scale, seed):
    """g → c·g, c > 0 for each coordinate: rectified steps are unchanged at ε = 0, those before are c times as long.

    Source: Liu et al. 2019, algorithm 2: c cancels in m̂·l, and does not in m̂.
    """
    gradients = torch.stack([g for (g,) in script((3,), steps=12, seed=seed)])
    c = torch.tensor(scale, dtype=torch.float64)
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.0}
    plain, scaled = (trajectory(g, [0.0] * 3, **settings)[0].diff(dim=0) for g in (gradients, c * gradients))
    laws.assert_close(scaled[:5], c * plain[:5], rtol=1e-9, atol=1e-9, because="differences of a path of length 100")
    laws.assert_close(scaled[5:], plain[5:], rtol=1e-9, atol=1e-9, because="differences of a path of length 100")


def test_eps_is_added_before_the_correction():
    """|g|·√(1−β₂ᵗ) = ε halves a rectified step: l_t = √(1−β₂ᵗ)/(√v_t + ε), and v_t = (1−β₂ᵗ)g² for a constant g.

    Source: Liu et al. 2019, algorithm 2, line 11, where ε is left out.
    Convention: torch.optim and the authors' code; added to √v̂_t, as in optax, ε would count √(1−β₂ᵗ) times as much,
    at t = 6 and β₂ = 0.95 half.
    """
    g = 1e-2 / math.sqrt(1 - 0.95**6)
    path, _ = trajectory([[g, -g, 3 * g]] * 6, lr=0.1, betas=(0.9, 0.95), eps=1e-2)
    expected = 0.1 * rectification(6, 0.95) * SIGNS * torch.tensor([0.5, 0.5, 0.75], dtype=torch.float64)
    laws.assert_close(path[6] - path[5], expected)


@pytest.mark.states("dependence")
def test_eps_has_no_part_in_the_waiting_steps():
    """Before the rectification nothing is divided: ε = 1 and ε = 10⁻⁸ take the same five steps.

    Source: Liu et al. 2019, algorithm 2, line 14.
    """
    gradients = torch.stack([g for (g,) in script((3,))])[:5]
    large, small = (trajectory(gradients, lr=0.1, eps=eps)[0] for eps in (1.0, 1e-8))
    laws.assert_close(large, small)
    laws.assert_close(large[1], large[0] - 0.1 * gradients[0])


# ---------------------------------------------------------------------------------------------- the decay


@given(gradients=gradient_sequences(steps=8), weight_decay=floats(0.01, 1))
def test_the_decay_is_the_gradient_of_a_penalty(gradients, weight_decay):
    """λ on gradients g is λ = 0 on the gradients g + λθ of the loss with ½λ‖θ‖² added: the moments see it too.

    Convention: torch.optim.RAdam's weight_decay unless decoupled.
    """
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2}
    path, _ = trajectory(gradients, **settings, weight_decay=weight_decay)
    laws.assert_close(trajectory(gradients + weight_decay * path[:-1], **settings)[0], path)


@given(gradients=gradient_sequences(steps=8), other=st.lists(floats(-3, 3), min_size=3, max_size=3))
def test_decoupled_the_initial_point_is_forgotten_at_the_rate_of_the_decay(gradients, other):
    """Decoupled, the difference of two runs under the same gradients shrinks by (1 − lr·λ) a step, waiting or not.

    Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.  Convention: decoupled_weight_decay of torch.optim.
    """
    settings = {"lr": 0.1, "weight_decay": 0.5, "eps": 1e-2, "decoupled_weight_decay": True}
    one, two = (trajectory(gradients, start, **settings)[0] for start in (START, other))
    rate = 0.95 ** torch.arange(len(one), dtype=torch.float64)[:, None]
    laws.assert_close(one - two, rate * (one[0] - two[0]))


# ---------------------------------------------------------------------------------------------- the state


@pytest.mark.states("cost")
@given(gradients=gradient_sequences())
def test_the_state_is_the_moments(gradients):
    """exp_avg = (1−β₁) Σ β₁^{t−i} g_i and exp_avg_sq = (1−β₂) Σ β₂^{t−i} g_i², from the first step on, uncorrected.

    Source: Liu et al. 2019, algorithm 2, lines 5-6: v is collected while it is not used yet.
    Convention: names and contents of torch.optim.RAdam's state: two tensors, and next to them a count at most.
    """
    _, optimizer = trajectory(gradients, lr=0.1, betas=(0.8, 0.95))
    (state,) = optimizer.state.values()
    assert state.keys() - {"step"} == {"exp_avg", "exp_avg_sq"}
    age = torch.arange(5, -1, -1, dtype=torch.float64)[:, None]
    laws.assert_close(state["exp_avg"], (0.2 * 0.8**age * gradients).sum(0))
    laws.assert_close(state["exp_avg_sq"], (0.05 * 0.95**age * gradients**2).sum(0))


@pytest.mark.states("dependence")
def test_each_parameter_waits_for_itself():
    """A parameter that joins after six steps waits five steps of its own, while the other is rectified.

    Source: Liu et al. 2019, section 4: the variance depends on the number of gradients seen, and those are its own.
    """
    old, young = (nn.Parameter(torch.tensor(START, dtype=torch.float64)) for _ in range(2))
    optimizer = RAdam([old, young], lr=0.01, eps=0.0)
    g = torch.tensor(CONSTANT, dtype=torch.float64)
    drive(optimizer, [old, young], [[g, None]] * 6)
    for t in range(1, 8):
        before = old.detach().clone(), young.detach().clone()
        drive(optimizer, [old, young], [[g, g]])
        laws.assert_close(old.detach() - before[0], 0.01 * rectification(t + 6, 0.999) * SIGNS)
        expected = -0.01 * g if t < 6 else 0.01 * rectification(t, 0.999) * SIGNS
        laws.assert_close(young.detach() - before[1], expected)


@pytest.mark.project_convention
def test_a_threshold_survives_a_foreign_state():
    """Loaded from torch.optim.RAdam, an optimizer built with threshold 4 keeps it, and one saved with 7 brings it.

    Convention: the argument is this project's; torch.optim's state dicts do not have it.
    """
    params, others = parameters(), parameters()
    ours = RAdam(params, threshold=4.0)
    ours.load_state_dict(torch.optim.RAdam(others).state_dict())
    assert ours.param_groups[0]["threshold"] == 4.0
    ours.load_state_dict(RAdam(others, threshold=7.0).state_dict())
    assert ours.param_groups[0]["threshold"] == 7.0
