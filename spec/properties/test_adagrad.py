"""AdaGrad: a learning rate for each coordinate.  Duchi, Hazan & Singer 2011, JMLR 12 (2011) 2121-2159."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.adagrad import Adagrad
from spec import laws, optimizer_laws
from spec.optimizer_laws import START, drive, parameters, script
from spec.strategies import floats, gradient_sequences, permutations, seeds

pytestmark = pytest.mark.item("adagrad")

trajectory = partial(optimizer_laws.trajectory, Adagrad)

TINY = 1e-300  # as good as δ = 0, without 0/0 where a coordinate has had no gradient yet


def figure_1(gradients, start, lr, eps, lr_decay=0.0, weight_decay=0.0, initial=0.0):
    """The paper's update with its sum over all past gradients written out, in NumPy."""
    theta, seen, path = np.array(start, dtype=np.float64), [], [np.array(start, dtype=np.float64)]
    for t, g in enumerate(np.asarray(gradients, dtype=np.float64)):
        seen.append(g + weight_decay * theta)
        h = eps + np.sqrt(initial + np.sum(np.square(seen), axis=0))
        theta = theta - lr / (1 + t * lr_decay) * seen[-1] / h
        path.append(theta)
    return torch.from_numpy(np.stack(path))


# ---------------------------------------------------------------------------------------------- the algorithm


@given(
    gradients=gradient_sequences(),
    lr=floats(1e-3, 0.5),
    lr_decay=floats(0, 0.5),
    weight_decay=floats(0, 0.5),
    initial=floats(0, 2),
    eps=floats(1e-3, 1),
)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 3 + [[-1.0, 0.1, 1e-3]] * 3), 0.1, 0.3, 0.1, 0.4, 1e-2)
def test_it_follows_the_papers_algorithm(gradients, lr, lr_decay, weight_decay, initial, eps):
    """θ_t = θ_{t−1} − η_t g_t / (√(s_0 + Σ_{τ≤t} g_τ²) + δ), every step, for gradients that change sign and size.

    Source: Duchi, Hazan & Singer 2011, figure 1, diagonal matrices.
    Convention: η_t = η/(1 + (t−1)·lr_decay), g_t with the penalty's λθ_{t−1}, s_0 the initial value: torch.optim.
    """
    settings = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
    path, _ = trajectory(gradients, **settings, initial_accumulator_value=initial)
    laws.assert_close(path, figure_1(gradients, START, **settings, initial=initial))


# ---------------------------------------------------------------------------------------------- the step's length


@pytest.mark.states("limiting case")
def test_a_constant_gradient_moves_by_a_harmonic_sum():
    """Under a constant g: θ_T = θ_0 − η sign(g) Σ_{t≤T} 1/√t whatever |g|; η = 0.1, T = 100: 1.8589603824784149.

    Source: Duchi, Hazan & Singer 2011, figure 1: s_t = t·g². With a running mean for the sum it would be 10 at T = 100.
    """
    path, _ = trajectory([[3.0, -1e-3, 0.2]] * 100, lr=0.1, eps=TINY)
    moved = 0.1 * sum(1 / math.sqrt(t) for t in range(1, 101))
    laws.assert_close(path[-1] - path[0], moved * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    laws.assert_close(path[0, 0] - path[-1, 0], 1.8589603824784149)


@pytest.mark.states("symmetry")
@given(scale=st.lists(floats(0.01, 100), min_size=3, max_size=3), seed=seeds())
def test_the_scale_of_a_gradient_is_no_information(scale, seed):
    """g → c·g, with a c > 0 for each coordinate, leaves the trajectory unchanged at δ = 0.

    Source: Duchi, Hazan & Singer 2011, figure 1: c cancels in g/√Σg².
    """
    gradients = torch.stack([g for (g,) in script((3,), seed=seed)])
    scaled = gradients * torch.tensor(scale, dtype=torch.float64)
    laws.assert_close(trajectory(scaled, lr=0.1, eps=0.0)[0], trajectory(gradients, lr=0.1, eps=0.0)[0])


@pytest.mark.states("limiting case")
@given(gradient=st.lists(floats(-5, 5, away_from_zero=1e-4), min_size=3, max_size=3), late=st.sampled_from([0, 1, 7]))
def test_the_first_gradient_moves_by_the_learning_rate(gradient, late):
    """The first gradient of a coordinate, however late and small, moves it by η: Δ = −η sign(g) at δ = 0.

    Source: Duchi, Hazan & Singer 2011, section 1.1: infrequent features are given high learning rates, to take notice
    when they occur. The sum has the present gradient in it already.
    """
    path, _ = trajectory([[0.0] * 3] * late + [gradient], lr=0.1, eps=TINY)
    laws.assert_close(path[-1] - path[0], -0.1 * torch.tensor(gradient, dtype=torch.float64).sign())


@pytest.mark.states("dependence")
@given(gradients=gradient_sequences(), pauses=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_nothing_is_forgotten_in_a_pause(gradients, pauses):
    """Zero gradients in between change nothing: the parameter goes through the same points in the same order.

    Source: Duchi, Hazan & Singer 2011, figure 1: a sum over what has been seen, without decay. A running mean would
    fade in the pauses and the steps after them grow.
    """
    with_pauses = [g for gradient, n in zip(gradients, pauses) for g in [torch.zeros(3)] * n + [gradient]]
    settings = {"lr": 0.1, "eps": 1e-2}
    laws.assert_close(trajectory(with_pauses, **settings)[0][-1], trajectory(gradients, **settings)[0][-1])


@pytest.mark.states("symmetry")
@given(gradients=gradient_sequences(), order=permutations(5))
def test_the_order_of_the_past_is_no_information(gradients, order):
    """The last step is the same for every order of the gradients before it.

    Source: Duchi, Hazan & Singer 2011, section 1.1: the matrix is the sum of outer products of all past gradients.
    """
    other = torch.cat([gradients[:5][order], gradients[5:]])
    steps = [trajectory(g, lr=0.1, eps=1e-2)[0].diff(dim=0)[-1] for g in (gradients, other)]
    laws.assert_close(steps[1], steps[0])


@given(gradients=gradient_sequences())
def test_no_step_is_longer_than_the_learning_rate(gradients):
    """|Δ_t| = η|g_t|/‖g_{1:t}‖ ≤ η, and the rate η/‖g_{1:t}‖ never rises.

    Source: Duchi, Hazan & Singer 2011, section 1.1: s_{t,i} = ‖g_{1:t,i}‖₂.
    """
    path, _ = trajectory(gradients, lr=0.1, eps=TINY)
    lengths = torch.stack([gradients[: t + 1].square().sum(0).sqrt() for t in range(6)])
    expected = torch.where(lengths > 0, -0.1 * gradients / lengths.clamp(min=TINY), 0.0)
    laws.assert_close(path.diff(dim=0), expected)
    assert (path.diff(dim=0).abs() <= 0.1 * (1 + 1e-9)).all()


def test_a_gradient_of_the_size_of_eps_moves_half_as_far():
    """|g| = δ gives a first step of η/2: δ is outside the root.

    Source: Duchi, Hazan & Singer 2011, figure 1: H = δI + diag(s), s the root.  Convention: inside the root, as in
    optax, the step would be η/√(1 + 1/δ) = 0.0995 η for δ = 0.01.
    """
    path, _ = trajectory([[1e-2, -1e-2, 3e-2]], lr=0.1, eps=1e-2)
    laws.assert_close(path[1] - path[0], torch.tensor([-0.05, 0.05, -0.075], dtype=torch.float64))


def test_a_sum_that_begins_above_zero_shortens_the_first_steps():
    """s_0 = 3 and g = ±1: the first step is η/√(3 + 1) = η/2, the second η/√5.

    Source: Duchi, Hazan & Singer 2011, figure 1, where δ > 0 has this purpose.  Convention: inside the root, once.
    """
    path, _ = trajectory([[1.0, -1.0, 1.0]] * 2, lr=0.1, eps=TINY, initial_accumulator_value=3.0)
    signs = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    laws.assert_close(path.diff(dim=0), torch.stack([0.1 / 2 * signs, 0.1 / math.sqrt(5) * signs]))


@pytest.mark.states("dependence")
@pytest.mark.project_convention
def test_a_group_has_an_initial_sum_of_its_own():
    """s_0 = 3 in one group and 8 in the other: the first steps are η g/√(3 + g²) and η g/√(8 + g²), at δ = 0.

    Convention: every setting belongs to its group; torch.optim.Adagrad has one initial sum for all.
    """
    params, (gradients, *_) = parameters((2,), (3,)), script((2,), (3,), seed=2)
    groups = [{"params": params[:1]}, {"params": params[1:], "initial_accumulator_value": 8.0}]
    optimizer = Adagrad(groups, lr=0.6, eps=0.0, initial_accumulator_value=3.0)
    before = [p.detach().clone() for p in params]
    drive(optimizer, params, [gradients])
    for p, start, g, initial in zip(params, before, gradients, (3.0, 8.0)):
        laws.assert_close(p.detach() - start, -0.6 * g / (initial + g**2).sqrt())


def test_the_rate_decays_from_the_second_step_on():
    """η_t = η/(1 + (t−1)·lr_decay): the first step is undiminished, the third at lr_decay = ½ has η/2.

    Convention: torch.optim.Adagrad's lr_decay; the paper's η is constant. Counted from t the first step had η/1.5.
    """
    path, _ = trajectory([[1.0, -2.0, 0.1]] * 3, lr=0.1, lr_decay=0.5, eps=TINY)
    sizes = torch.tensor([0.1, 0.1 / 1.5 / math.sqrt(2), 0.05 / math.sqrt(3)], dtype=torch.float64)
    laws.assert_close(path.diff(dim=0), sizes[:, None] * torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- the decay


def test_the_decay_is_a_penalty():
    """With zero gradients the penalty is the gradient: the first step has length η for every weight, not η·λ·|θ|.

    Convention: λθ is part of g and of the sum, as in torch.optim.Adagrad; decoupled decay would shrink by 1 − η·λ.
    """
    path, optimizer = trajectory([[0.0] * 3], lr=0.1, eps=TINY, weight_decay=0.3)
    laws.assert_close(path[1] - path[0], torch.tensor([-0.1, 0.1, -0.1], dtype=torch.float64))
    (state,) = optimizer.state.values()
    laws.assert_close(state["sum"], (0.3 * path[0]) ** 2)


@given(gradients=gradient_sequences(), weight_decay=floats(0.01, 1))
def test_the_decay_is_the_gradient_of_a_penalty(gradients, weight_decay):
    """λ on gradients g is λ = 0 on the gradients g + λθ of the loss with ½λ‖θ‖² added.

    Convention: torch.optim.Adagrad's weight_decay; the paper has the penalty in its composite term φ instead.
    """
    settings = {"lr": 0.1, "eps": 1e-2, "lr_decay": 0.1}
    path, _ = trajectory(gradients, **settings, weight_decay=weight_decay)
    laws.assert_close(trajectory(gradients + weight_decay * path[:-1], **settings)[0], path)


# ---------------------------------------------------------------------------------------------- regret


@given(gradients=gradient_sequences(steps=8))
def test_the_work_done_is_bounded_by_the_length_of_the_gradients(gradients):
    """Σ_t g_t·(θ_{t−1} − θ_t) ≤ 2η‖g_{1:T}‖₂ in each coordinate, and ≥ η‖g_{1:T}‖₂.

    Source: Duchi, Hazan & Singer 2011, lemma 4: Σ_t g_t²/‖g_{1:t}‖ ≤ 2‖g_{1:T}‖; from below, ‖g_{1:t}‖ ≤ ‖g_{1:T}‖.
    """
    path, _ = trajectory(gradients, lr=0.1, eps=TINY)
    work = -(gradients * path.diff(dim=0)).sum(0)
    length = gradients.square().sum(0).sqrt()
    assert (work <= 0.2 * length + 1e-12).all(), f"expected at most {0.2 * length}, found {work}"
    assert (work >= 0.1 * length - 1e-12).all(), f"expected at least {0.1 * length}, found {work}"


@given(gradients=gradient_sequences(steps=12))
@example(torch.tensor([[1.0, -1.0, 5.0]] * 6 + [[-1.0, 1.0, 1.0]] * 6, dtype=torch.float64))
def test_the_regret_is_bounded(gradients):
    """On linear losses over a box of width D, η = D/√2: Σ_t g_t·(θ_{t−1} − θ*) ≤ √2·D Σ_i ‖g_{1:T,i}‖₂.

    θ* is the best fixed point in hindsight; after each step the point is projected into the box.

    Source: Duchi, Hazan & Singer 2011, theorem 5 and corollary 6.
    """
    theta = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Adagrad([theta], lr=2 / math.sqrt(2), eps=TINY)
    paid = torch.zeros(3, dtype=torch.float64)
    for g in gradients:
        paid += g * theta.detach()
        drive(optimizer, [theta], [[g]])
        with torch.no_grad():
            theta.clamp_(-1, 1)
    regret = (paid + gradients.sum(0).abs()).sum()
    bound = math.sqrt(2) * 2 * gradients.square().sum(0).sqrt().sum()
    assert regret <= bound + 1e-12, f"expected a regret of at most {bound:.4f}, found {regret:.4f}"


@pytest.mark.states("equivalence")
def test_on_axes_it_is_the_full_matrix_method():
    """Gradients along one axis at a time: the diagonal method is the full one, θ −= η G_t^{−1/2} g_t, G_t = Σ g gᵀ.

    Source: Duchi, Hazan & Singer 2011, figure 1, full matrices; G is diagonal here. G^{−1/2} through eigenvectors, and
    zero where G is.
    """
    rng = np.random.default_rng(0)
    gradients = np.zeros((12, 3))
    gradients[np.arange(12), rng.integers(3, size=12)] = rng.normal(size=12) * 3
    theta, outer = np.array(START), np.zeros((3, 3))
    for g in gradients:
        outer += np.outer(g, g)
        values, vectors = np.linalg.eigh(outer)
        roots = np.where(values > 1e-12, 1 / np.sqrt(np.maximum(values, 1e-12)), 0)
        theta = theta - 0.1 * vectors @ np.diag(roots) @ vectors.T @ g
    laws.assert_close(trajectory(gradients, lr=0.1, eps=TINY)[0][-1], torch.from_numpy(theta))


# ---------------------------------------------------------------------------------------------- the state


@pytest.mark.states("cost")
@given(gradients=gradient_sequences())
def test_the_state_is_the_sum_of_squares(gradients):
    """The state is sum = s_0 + Σ g², one element for each parameter, and next to it a count at most.

    Source: Duchi, Hazan & Singer 2011, figure 1.  Convention: names of torch.optim.Adagrad's state.
    """
    _, optimizer = trajectory(gradients, lr=0.1, initial_accumulator_value=0.25)
    (state,) = optimizer.state.values()
    assert state.keys() - {"step"} == {"sum"}
    laws.assert_close(state["sum"], 0.25 + gradients.square().sum(0))
