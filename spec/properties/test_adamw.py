"""AdamW: Adam with decoupled weight decay.  Loshchilov & Hutter 2017, arXiv:1711.05101; Kingma & Ba 2014, 1412.6980."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.adamw import AdamW
from spec import laws, optimizer_laws
from spec.optimizer_laws import START, drive, parameters, script, state_tensors
from spec.strategies import floats, gradient_sequences, seeds

pytestmark = pytest.mark.item("adamw")

trajectory = partial(optimizer_laws.trajectory, AdamW)


def parameter(values=START):
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float64).clone())


def algorithm_2(gradients, start, lr, betas, eps, weight_decay, schedule=None, amsgrad=False):
    """The paper's algorithm 2 as printed, in NumPy; α = lr, λ = lr·weight_decay, η_t = schedule[t]."""
    theta, (beta1, beta2) = np.array(start, dtype=np.float64), betas
    m, v, largest, path = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta), [theta]
    for t, g in enumerate(np.asarray(gradients, dtype=np.float64), 1):
        eta = 1.0 if schedule is None else schedule[t - 1]
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        largest = np.maximum(largest, v)
        m_hat = m / (1 - beta1**t)
        v_hat = (largest if amsgrad else v) / (1 - beta2**t)
        theta = theta - eta * (lr * m_hat / (np.sqrt(v_hat) + eps) + lr * weight_decay * theta)
        path.append(theta)
    return torch.from_numpy(np.stack(path))


# ---------------------------------------------------------------------------------------------- the algorithm


@pytest.mark.states("equivalence")
@given(
    gradients=gradient_sequences(),
    lr=floats(1e-3, 0.5),
    beta1=floats(0, 0.99),
    beta2=floats(0.5, 0.999),
    eps=floats(1e-3, 1),
    weight_decay=floats(0, 0.5),
    amsgrad=st.booleans(),
)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 3 + [[-1.0, 0.1, 1e-3]] * 3), 0.1, 0.9, 0.999, 1e-2, 0.1, False)
@example(torch.tensor([[5.0, -5.0, 1e-5]] * 2 + [[-1e-3, 0.1, 1e-3]] * 4), 0.1, 0.8, 0.9, 1e-2, 0.1, True)
def test_it_follows_the_papers_algorithm(gradients, lr, beta1, beta2, eps, weight_decay, amsgrad):
    """θ_t = θ_{t−1} − η (m̂_t/(√v̂_t + ε) + λ θ_{t−1}), every step, for gradients that change sign and size.

    Source: Loshchilov & Hutter 2017, algorithm 2; Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2.
    Convention: λ = lr·weight_decay; with amsgrad the maximum is over the uncorrected v, as in torch.optim.
    """
    settings = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
    path, _ = trajectory(gradients, **settings)
    laws.assert_close(path, algorithm_2(gradients, START, **settings))


# ---------------------------------------------------------------------------------------------- the decay


def test_without_gradients_the_decay_is_geometric():
    """Zero gradients: θ_t = (1 − lr·λ)^t θ_0; at lr 0.01, λ 0.1, t = 10 from 2: 1.9800897604194965.

    Source: Loshchilov & Hutter 2017, eq. 1. Adam with λθ inside the gradient gives 1.90016777 instead.
    """
    path, _ = trajectory([[0.0] * 3] * 10, lr=0.01, weight_decay=0.1)
    expected = torch.tensor(START, dtype=torch.float64) * 0.999 ** torch.arange(11, dtype=torch.float64)[:, None]
    laws.assert_close(path, expected)
    laws.assert_close(path[-1, 0], 1.9800897604194965)


@pytest.mark.states("dependence")
@given(gradients=gradient_sequences(), other=st.lists(floats(-3, 3), min_size=3, max_size=3))
def test_the_initial_point_is_forgotten_at_the_rate_of_the_decay(gradients, other):
    """The difference of two runs under the same gradients shrinks by (1 − lr·λ) a step, whatever the gradients are.

    Source: Loshchilov & Hutter 2017, section 2: the decay is decoupled from the gradient-based update. With λθ inside
    the gradient the rate depends on the size of the gradients.
    """
    settings = {"lr": 0.1, "weight_decay": 0.5, "eps": 1e-2}
    one, two = (trajectory(gradients, start, **settings)[0] for start in (START, other))
    rate = 0.95 ** torch.arange(len(one), dtype=torch.float64)[:, None]
    laws.assert_close(one - two, rate * (one[0] - two[0]))


@pytest.mark.states("symmetry")
@given(scale=st.lists(floats(0.01, 100), min_size=3, max_size=3), seed=seeds())
def test_the_scale_of_a_gradient_is_no_information(scale, seed):
    """g → c·g, with a c > 0 for each coordinate, leaves the trajectory unchanged at ε = 0, weight decay included.

    Source: Kingma & Ba 2014, section 2.1: the scale c cancels in m̂/√v̂; decoupled decay adds no scale of its own.
    """
    gradients = torch.stack([g for (g,) in script((3,), seed=seed)])
    settings = {"lr": 0.1, "eps": 0.0, "weight_decay": 0.3}
    scaled = gradients * torch.tensor(scale, dtype=torch.float64)
    laws.assert_close(trajectory(scaled, **settings)[0], trajectory(gradients, **settings)[0])


@pytest.mark.states("limiting case", "equivalence")
@given(gradients=gradient_sequences())
def test_without_decay_it_is_adam(gradients):
    """At λ = 0 AdamW is Adam: the same trajectory as torch.optim.Adam.

    Source: Loshchilov & Hutter 2017, algorithm 2: the two coloured lines differ in λ alone.
    """
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2}
    theta = parameter()
    drive(torch.optim.Adam([theta], **settings), [theta], [[g] for g in gradients])
    laws.assert_close(trajectory(gradients, **settings, weight_decay=0.0)[0][-1], theta.detach())


def test_the_decay_is_not_an_l2_penalty():
    """With decay on, AdamW differs from Adam with λθ added to the gradient; under plain SGD the two would agree.

    Source: Loshchilov & Hutter 2017, propositions 1 and 2.
    """
    gradients = torch.stack([g for (g,) in script((3,))])
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}
    theta = parameter()
    drive(torch.optim.Adam([theta], **settings), [theta], [[g] for g in gradients])
    laws.assert_differs(trajectory(gradients, **settings)[0][-1], theta.detach(), by=0.01)


@given(sizes=st.lists(floats(0.05, 20), min_size=3, max_size=3), seed=seeds())
def test_with_a_fixed_preconditioner_the_decay_is_a_scaled_penalty(sizes, seed):
    """Where √v̂ = s is fixed, a step is s⁻¹ ∇[f + λ/2 ‖θ ⊙ √s‖²]: weights with large gradients are penalised more.

    Source: Loshchilov & Hutter 2017, proposition 3. Gradients ±s keep v̂ = s² from the first step on; β₁ = 0, ε = 0.
    """
    s = np.array(sizes)
    signs = np.sign(np.random.default_rng(seed).normal(size=(6, 3)))
    path, _ = trajectory(signs * s, lr=0.1, betas=(0.0, 0.9), eps=0.0, weight_decay=0.4)
    theta = np.array(START)
    for sign in signs:
        penalty = 0.4 * theta * np.sqrt(s) * np.sqrt(s)  # gradient of λ/2 ‖θ ⊙ √s‖²
        theta = theta - 0.1 * (sign * s + penalty) / s
    laws.assert_close(path[-1], torch.from_numpy(theta))


def test_the_schedule_multiplies_the_decay():
    """Under a schedule of the learning rate zero gradients give θ_T = θ_0 Π(1 − lr_t·λ).

    Source: Loshchilov & Hutter 2017, algorithm 2: η_t multiplies both terms.  Convention: lr·weight_decay, so that a
    change of lr changes the decay too; in the paper's notation α = lr and λ' = lr·weight_decay.
    """
    theta = parameter()
    optimizer = AdamW([theta], lr=0.2, weight_decay=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    expected = theta.detach().clone()
    for t in range(7):
        drive(optimizer, [theta], [[torch.zeros(3, dtype=torch.float64)]])
        scheduler.step()
        expected *= 1 - 0.1 * (1 + math.cos(math.pi * t / 7)) * 0.5
    laws.assert_close(theta.detach(), expected)


@given(gradients=gradient_sequences(), schedule=st.lists(floats(0, 2), min_size=6, max_size=6))
def test_it_follows_the_papers_schedule(gradients, schedule):
    """With η_t on both terms the trajectory is the paper's: θ_t = θ_{t−1} − η_t (α m̂/(√v̂ + ε) + λ θ_{t−1}).

    Source: Loshchilov & Hutter 2017, algorithm 2, line 12.
    """
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}
    theta = parameter()
    optimizer = AdamW([theta], **settings)
    path = [theta.detach().clone()]
    for g, eta in zip(gradients, schedule):
        optimizer.param_groups[0]["lr"] = 0.1 * eta
        drive(optimizer, [theta], [[g]])
        path.append(theta.detach().clone())
    laws.assert_close(torch.stack(path), algorithm_2(gradients, START, **settings, schedule=schedule))


# ---------------------------------------------------------------------------------------------- the adaptive step


@pytest.mark.states("limiting case")
@given(gradient=st.lists(floats(-5, 5, away_from_zero=1e-4), min_size=3, max_size=3))
def test_the_first_step_has_the_size_of_the_learning_rate(gradient):
    """Δ_1 = −lr·sign(g) − lr·λ·θ_0 at ε = 0, for every β: both bias corrections are exact from the start.

    Source: Kingma & Ba 2014, section 3: m̂_1 = g, v̂_1 = g².
    """
    for betas in ((0.9, 0.999), (0.5, 0.6), (0.0, 0.99)):
        path, _ = trajectory([gradient], lr=0.1, betas=betas, eps=0.0, weight_decay=0.2)
        expected = 0.98 * path[0] - 0.1 * torch.tensor(gradient, dtype=torch.float64).sign()
        laws.assert_close(path[1], expected)


def test_a_constant_gradient_moves_by_the_learning_rate():
    """Under a constant gradient every step is lr·sign(g), at every t: m̂ = g and v̂ = g² throughout.

    Source: Kingma & Ba 2014, section 3, eq. 4. Without the corrections the first steps are 3.2 times as long.
    """
    path, _ = trajectory([[3.0, -1e-3, 0.2]] * 40, lr=0.1, eps=0.0, weight_decay=0.0)
    expected = torch.tensor([-0.1, 0.1, -0.1], dtype=torch.float64).expand(40, 3)
    laws.assert_close(path.diff(dim=0), expected)


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_a_gradient_of_the_size_of_eps_moves_half_as_far(beta2):
    """|g| = ε gives Δ_1 = lr/2: ε is outside the root and is added after the bias correction.

    Source: Kingma & Ba 2014, algorithm 1: m̂/(√v̂ + ε). Inside the root it would be lr/1.41 at ε², and added before
    the correction lr·√(1−β₂)/(√(1−β₂) + 1): 0.03 lr at β₂ = 0.999.
    """
    path, _ = trajectory([[1e-2, -1e-2, 3e-2]], lr=0.1, betas=(0.9, beta2), eps=1e-2, weight_decay=0.0)
    laws.assert_close(path[1] - path[0], torch.tensor([-0.05, 0.05, -0.075], dtype=torch.float64))


def test_a_rare_gradient_moves_furthest():
    """After t−1 zero gradients one gradient moves lr·(1−β₁)/√(1−β₂)·√(1−β₂ᵗ)/(1−β₁ᵗ): 3.16 lr for large t.

    Source: Kingma & Ba 2014, section 2.1: the most severe case of sparsity, (1−β₁)/√(1−β₂) = 0.1/√0.001.
    """
    for t in (1, 5, 400):
        path, _ = trajectory([[0.0] * 3] * (t - 1) + [[4.0, -0.01, 1.0]], lr=0.01, eps=1e-300, weight_decay=0.0)
        size = 0.01 * 0.1 / math.sqrt(0.001) * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected = size * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
        laws.assert_close(path[-1] - path[0], expected)


def test_alternating_gradients_cancel():
    """Gradients ±g of changing sign move little: after 40 steps the pair of steps is below lr/10, though v̂ = g².

    Source: Kingma & Ba 2014, section 2.1: m̂/√v̂ is a signal-to-noise ratio, and small where the sign is uncertain.
    """
    gradients = [[(-1.0) ** t, 5 * (-1.0) ** t, 1e-3 * (-1.0) ** t] for t in range(40)]
    path, optimizer = trajectory(gradients, lr=0.1, eps=0.0, weight_decay=0.0)
    steps = path.diff(dim=0).abs()
    laws.assert_close(steps[0], torch.full((3,), 0.1, dtype=torch.float64))
    assert (steps[-1] < 0.01).all(), f"expected steps below 0.01, found {steps[-1].tolist()}"


@given(gradients=gradient_sequences())
def test_the_state_is_the_moments(gradients):
    """exp_avg = (1−β₁) Σ β₁^{t−i} g_i and exp_avg_sq = (1−β₂) Σ β₂^{t−i} g_i², uncorrected and without the decay.

    Source: Kingma & Ba 2014, section 3, eq. 1.  Convention: names and contents of torch.optim.AdamW's state.
    """
    _, optimizer = trajectory(gradients, lr=0.1, betas=(0.8, 0.95), weight_decay=0.5)
    (state,) = optimizer.state.values()
    assert state.keys() - {"step"} == {"exp_avg", "exp_avg_sq"}
    age = torch.arange(5, -1, -1, dtype=torch.float64)[:, None]
    laws.assert_close(state["exp_avg"], (0.2 * 0.8**age * gradients).sum(0))
    laws.assert_close(state["exp_avg_sq"], (0.05 * 0.95**age * gradients**2).sum(0))


@pytest.mark.states("cost")
@pytest.mark.parametrize(("amsgrad", "tensors"), [(False, 2), (True, 3)])
def test_the_state_is_two_tensors_a_parameter(amsgrad, tensors):
    """The state holds two elements for each parameter, three with AMSGrad, and next to them counts at most.

    Source: Loshchilov & Hutter 2017, algorithm 2, line 3: first and second moment; Reddi et al. 2018: v̂ next to v.
    """
    params = parameters((5, 7), (11,))
    optimizer = AdamW(params, amsgrad=amsgrad)
    drive(optimizer, params, script((5, 7), (11,), steps=2))
    held = [sum(t.numel() for t in state_tensors(optimizer, p) if t.dim()) for p in params]
    assert held == [tensors * 35, tensors * 11]


# ---------------------------------------------------------------------------------------------- AMSGrad


def test_amsgrad_remembers_the_largest_gradient():
    """After one large gradient AMSGrad's steps stay short where Adam's recover: the divisor never falls.

    Source: Reddi, Kale & Kumar 2018, section 3: the growing step after a rare, informative gradient breaks convergence.
    """
    gradients = torch.tensor([[5.0, -5.0, 5.0]] + [[0.01, 0.01, -0.01]] * 60, dtype=torch.float64)
    settings = {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.0}
    plain, _ = trajectory(gradients, **settings)
    path, optimizer = trajectory(gradients, **settings, amsgrad=True)
    (state,) = optimizer.state.values()
    laws.assert_close(state["max_exp_avg_sq"], torch.tensor([0.2 * 25] * 3, dtype=torch.float64))
    last, last_plain = path.diff(dim=0)[-1].abs(), plain.diff(dim=0)[-1].abs()
    # m̂ = 0.01; the divisor is √5 + ε with memory and 0.01 + ε without.
    expected = torch.full((3,), 0.1 * 0.01 / (math.sqrt(5) + 1e-3), dtype=torch.float64)
    laws.assert_close(last, expected, rtol=1e-5, because="the large gradient's share of m after 60 steps is 2^-60·250")
    assert (last_plain > 50 * last).all()


def test_amsgrad_is_adam_while_gradients_grow():
    """As long as v grows the maximum is v itself: with growing gradients amsgrad changes nothing.

    Source: Reddi, Kale & Kumar 2018, algorithm 2.  Convention: over the uncorrected v, which grows from zero.
    """
    gradients = [[0.1 * t, -1.0 * t, 1e-3 * t] for t in range(1, 9)]
    settings = {"lr": 0.1, "eps": 1e-2, "weight_decay": 0.3}
    laws.assert_close(trajectory(gradients, **settings, amsgrad=True)[0], trajectory(gradients, **settings)[0])
