"""Lookahead: k steps forward, one step back.  Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.optim.lookahead import Lookahead
from spec import laws
from spec.optimizer_laws import drive, parameters, script
from spec.strategies import floats, gradient_sequences

pytestmark = pytest.mark.item("lookahead")

START = [2.0, -0.5, 0.25]
BASES = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.8, nesterov=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.3),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.1, alpha=0.9, eps=1e-2, momentum=0.5),
}
over_each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())


def parameter(values=START):
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float64).clone())


def slow(optimizer, theta):
    return optimizer.state[theta]["slow_params"]


def trajectory(gradients, base=BASES["SGD"], **settings):
    """θ after each step and φ after each step, both (T + 1, coordinates), under prescribed gradients."""
    theta = parameter()
    optimizer = Lookahead(base([theta]), **settings)
    fast_path, slow_path = [theta.detach().clone()], [slow(optimizer, theta).clone()]
    for gradient in gradients:
        drive(optimizer, [theta], [[torch.as_tensor(gradient, dtype=torch.float64)]])
        fast_path.append(theta.detach().clone())
        slow_path.append(slow(optimizer, theta).clone())
    return torch.stack(fast_path), torch.stack(slow_path)


def algorithm_1(gradients, k, alpha, lr):
    """The paper's algorithm 1 as printed, over SGD, in NumPy: θ and φ after each inner step."""
    phi = theta = np.array(START)
    fast_path, slow_path = [theta], [phi]
    for t, g in enumerate(np.asarray(gradients, dtype=np.float64), 1):
        theta = theta - lr * g
        if t % k == 0:
            phi = phi + alpha * (theta - phi)
            theta = phi
        fast_path.append(theta)
        slow_path.append(phi)
    return torch.from_numpy(np.stack(fast_path)), torch.from_numpy(np.stack(slow_path))


def many_gradients(steps: int):
    return torch.stack([g for (g,) in script((3,), steps=steps)])


# ---------------------------------------------------------------------------------------------- the algorithm


@given(gradients=gradient_sequences(), k=st.integers(1, 7), alpha=floats(0, 1), lr=floats(1e-3, 0.5))
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 3 + [[-1.0, 0.1, 1e-3]] * 3), 2, 0.3, 0.1)
@example(torch.tensor([[0.5, -5.0, 1e-5]] * 3 + [[-1.0, 0.1, 1e-3]] * 3), 3, 0.8, 0.1)
def test_it_follows_the_papers_algorithm(gradients, k, alpha, lr):
    """φ_t = φ_{t−1} + α (θ_{t,k} − φ_{t−1}) and θ_{t+1,0} = φ_t, after every k inner steps and at no other time.

    Source: Zhang et al. 2019, algorithm 1.
    """
    found = trajectory(gradients, lambda p: torch.optim.SGD(p, lr=lr), k=k, alpha=alpha)
    for path, expected in zip(found, algorithm_1(gradients, k, alpha, lr)):
        laws.assert_close(path, expected)


@over_each_base
def test_the_inner_optimizer_runs_on_undisturbed(base):
    """Between synchronizations θ moves as the inner optimizer alone would from φ, with the state it has by then.

    Source: Zhang et al. 2019, algorithm 1, line 5, and §2.  Convention: the inner optimizer's state goes through a
    synchronization unchanged (pullback_momentum "none"), not reset and not interpolated.
    """
    params, alone, gradients = parameters(), parameters(), script(steps=11)
    optimizer, inner = Lookahead(base(params), k=4, alpha=0.3), base(alone)
    phi = [p.detach().clone() for p in alone]
    for t, row in enumerate(gradients, 1):
        drive(optimizer, params, [row])
        drive(inner, alone, [row])
        if t % 4 == 0:
            with torch.no_grad():
                for p, f in zip(alone, phi):
                    f.copy_(0.7 * f + 0.3 * p)
                    p.copy_(f)
        for p, q, f in zip(params, alone, phi):
            laws.assert_close(p.detach(), q.detach(), what=f"fast weights after step {t}")
            laws.assert_close(slow(optimizer, p), f, what=f"slow weights after step {t}")
            for name, value in inner.state[q].items():
                laws.assert_close(optimizer.base_optimizer.state[p][name], value, what=f"{name} after step {t}")


@pytest.mark.states("limiting case")
@over_each_base
@pytest.mark.parametrize("k", [1, 4])
def test_with_alpha_one_it_is_the_inner_optimizer(base, k):
    """With α = 1 nothing is held back, and the run is bitwise equal to the inner optimizer's.

    Source: Zhang et al. 2019, algorithm 1: φ_t = θ_{t,k}.
    """
    params, alone, gradients = parameters(), parameters(), script(steps=9)
    drive(Lookahead(base(params), k=k, alpha=1.0), params, gradients)
    drive(base(alone), alone, gradients)
    for a, b in zip(params, alone):
        laws.assert_same(a.detach(), b.detach(), what="parameter")


@pytest.mark.states("limiting case")
def test_with_alpha_zero_every_cycle_ends_where_it_began():
    """With α = 0 φ never moves, and after every k steps θ is back at exactly φ_0; between them it moves.

    Source: Zhang et al. 2019, algorithm 1: φ_t = φ_{t−1}.
    """
    fast, slow_path = trajectory(many_gradients(6), k=3, alpha=0.0)
    laws.assert_same(slow_path, fast[:1].expand_as(slow_path), what="slow weights")
    laws.assert_same(fast[3::3], fast[:1].expand(2, 3), what="fast weights after k and 2k steps")
    laws.assert_differs(fast[2], fast[0], by=0.01, what="fast weights in mid-cycle")


@pytest.mark.states("equivalence")
@given(gradients=gradient_sequences(), alpha=floats(0, 1), lr=floats(1e-3, 0.5))
def test_with_a_period_of_one_it_scales_the_learning_rate(gradients, alpha, lr):
    """k = 1 over SGD is SGD with the learning rate α·η.

    Source: Zhang et al. 2019, algorithm 1: φ_t = φ_{t−1} − α η g.
    """
    theta = parameter()
    drive(torch.optim.SGD([theta], lr=alpha * lr), [theta], [[g] for g in gradients])
    fast, _ = trajectory(gradients, lambda p: torch.optim.SGD(p, lr=lr), k=1, alpha=alpha)
    laws.assert_close(fast[-1], theta.detach())


@pytest.mark.states("equivalence")
@over_each_base
def test_slow_weights_are_a_moving_average_of_the_final_fast_weights(base):
    """φ_T = (1−α)^T φ_0 + α Σ_t (1−α)^{T−t} θ_{t,k}, over the fast weights as they are just before each pull-back.

    Source: Zhang et al. 2019, §2, "Slow weights trajectory".
    """
    theta, gradients, alpha, finals = parameter(), many_gradients(15), 0.3, []
    optimizer = Lookahead(base([theta]), k=3, alpha=alpha)
    inner = optimizer.base_optimizer
    inner.register_step_post_hook(lambda *_: finals.append(theta.detach().clone()))
    drive(optimizer, [theta], [[g] for g in gradients])
    weights = alpha * (1 - alpha) ** torch.arange(4, -1, -1, dtype=torch.float64)[:, None]
    expected = (1 - alpha) ** 5 * parameter().detach() + (weights * torch.stack(finals[2::3])).sum(0)
    laws.assert_close(slow(optimizer, theta), expected)


def test_defaults():
    """Without settings k = 5 and α = 0.5.

    Source: Zhang et al. 2019, §2 and figure 1 (α = 0.5), §5.1 (k = 5).
    """
    gradients = many_gradients(12)
    found = trajectory(gradients)
    for path, expected in zip(found, algorithm_1(gradients, k=5, alpha=0.5, lr=0.1)):
        laws.assert_close(path, expected)


# ---------------------------------------------------------------------------------------------- slow weights


def test_slow_weights_begin_at_the_construction():
    """φ_0 are the parameters as they were when the optimizer was made, whatever is done to them before the first step.

    Source: Zhang et al. 2019, algorithm 1: "Require: initial parameters φ_0".  Convention: a checkpoint that is loaded
    into the model later moves θ alone; it belongs into the model first, or with its optimizer's state.
    """
    theta = parameter()
    optimizer = Lookahead(torch.optim.SGD([theta], lr=0.1), k=1, alpha=0.25)
    moved = torch.tensor([7.0, 3.0, -4.0], dtype=torch.float64)
    with torch.no_grad():
        theta.copy_(moved)
    gradient = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    drive(optimizer, [theta], [[gradient]])
    laws.assert_close(theta.detach(), 0.75 * parameter().detach() + 0.25 * (moved - 0.1 * gradient))


@given(h=floats(0.1, 3), lr=floats(0.01, 0.3), k=st.integers(1, 8), alpha=floats(0, 1))
@example(2.0, 0.1, 5, 0.2)
def test_a_cycle_on_a_quadratic_contracts(h, lr, k, alpha):
    """On ½hx² one cycle over SGD multiplies x by 1 − α + α (1 − ηh)^k; h = 2, η = 0.1, k = 5, α = 0.2 gives 0.865536.

    Source: Zhang et al. 2019, §3.2 and appendix B: the expected iterates.  A slow copy that shares the parameter's
    memory contracts by (1 − ηh)^k.
    """
    theta = parameter()
    optimizer = Lookahead(torch.optim.SGD([theta], lr=lr), k=k, alpha=alpha)
    for _ in range(2 * k):
        drive(optimizer, [theta], [[h * theta.detach()]])
    factor = 1 - alpha + alpha * (1 - lr * h) ** k
    laws.assert_close(theta.detach(), factor**2 * parameter().detach())
    if (h, lr, k, alpha) == (2.0, 0.1, 5, 0.2):
        laws.assert_close(torch.tensor(factor, dtype=torch.float64), torch.tensor(0.865536, dtype=torch.float64))


@pytest.mark.parametrize(("gamma", "k", "alpha"), [(0.1, 5, 0.5), (0.5, 5, 0.5), (0.1, 10, 0.8), (1.2, 3, 0.3)])
def test_variance_on_a_noisy_quadratic(gamma, k, alpha):
    """V_LA = α²(1−q^2k) / (α²(1−q^2k) + 2α(1−α)(1−q^k)) · V_SGD, V_SGD = γ²a²σ²/(1−q²), with q = 1 − γa.

    The loss is ½a(x − c)², c ~ N(0, σ²) sampled anew at each step. θ is linear in the samples, so each coordinate has
    one sample of c = 1 at a step of its own, and V = σ² Σ θ_i²: the law itself, without sampling.

    Source: Zhang et al. 2019, proposition 2.
    """
    a, sigma, cycles = 0.9, 1.7, 200
    steps = cycles * k
    theta = nn.Parameter(torch.zeros(steps, dtype=torch.float64))
    optimizer = Lookahead(torch.optim.SGD([theta], lr=gamma), k=k, alpha=alpha)
    for c in torch.eye(steps, dtype=torch.float64):
        drive(optimizer, [theta], [[a * (theta.detach() - c)]])
    q = 1 - gamma * a
    sgd = gamma**2 * a**2 * sigma**2 / (1 - q**2)
    share = alpha**2 * (1 - q ** (2 * k))
    expected = share / (share + 2 * alpha * (1 - alpha) * (1 - q**k)) * sgd
    laws.assert_close(sigma**2 * theta.detach().square().sum(), torch.tensor(expected, dtype=torch.float64))
    assert expected < sgd


# ---------------------------------------------------------------------------------------------- groups, gaps, closures


@pytest.mark.states("dependence")
def test_the_gradient_is_taken_at_the_fast_weights():
    """The closure runs once a step, at θ and not at φ, with gradients enabled; its loss comes back.

    Source: Zhang et al. 2019, algorithm 1, line 5: A(L, θ_{t,i−1}, d); optax #263 had the slow weights there.
    """
    theta, expected, seen = parameter(), parameter().detach().clone(), []
    optimizer = Lookahead(torch.optim.SGD([theta], lr=0.1), k=3, alpha=0.5)
    curvature = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    phi = expected.clone()

    def closure():
        optimizer.zero_grad()
        seen.append(theta.detach().clone())
        loss = (0.5 * curvature * theta**2).sum()
        loss.backward()
        return loss

    for t in range(1, 8):
        with torch.no_grad():
            loss = optimizer.step(closure)
        assert len(seen) == t, f"expected one call a step, found {len(seen)} after {t} steps"
        laws.assert_close(seen[-1], expected, what=f"point of call {t}")
        laws.assert_close(loss.detach(), (0.5 * curvature * expected**2).sum(), what="loss")
        expected = expected - 0.1 * curvature * expected
        if t % 3 == 0:
            phi = expected = 0.5 * (phi + expected)
    laws.assert_close(theta.detach(), expected)


def test_no_gradient_no_change():
    """A parameter that never has a gradient keeps its bits through synchronizations; so does everything without any.

    Source: algorithm 1 with A = 0: φ + α (φ − φ) = φ; the contract of torch.optim: `grad is None` means absent.
    """
    params, gradients = parameters(), script(steps=9)
    optimizer, before = Lookahead(BASES["AdamW"](params), k=2, alpha=0.3), [p.detach().clone() for p in params]
    drive(optimizer, params, [[row[0], None] for row in gradients])
    laws.assert_same(params[1].detach(), before[1], what="a parameter without a gradient")
    laws.assert_same(slow(optimizer, params[1]), before[1], what="its slow weights")
    laws.assert_differs(params[0].detach(), before[0], by=0.01, what="the other parameter")
    params = parameters()
    optimizer = Lookahead(BASES["AdamW"](params), k=2, alpha=0.3)
    for _ in range(5):
        assert optimizer.step() is None
    for p, b in zip(params, before):
        laws.assert_same(p.detach(), b, what="parameter after steps without gradients")
    assert not optimizer.base_optimizer.state, "expected no state of the inner optimizer"


def test_a_parameter_without_gradient_is_pulled_back_too():
    """A weight whose gradient is missing at step k is synchronized all the same, and then stays at φ.

    Source: Zhang et al. 2019, algorithm 1, line 7, which is about all of θ: an expert that was used early in a cycle
    and not at its last step would otherwise keep its steps whole.  Convention: not skipped, as in timm; skipped in
    pytorch_optimizer.
    """
    theta, idle = parameter(), parameter([1.0, 2.0])
    optimizer = Lookahead(torch.optim.SGD([theta, idle], lr=0.1), k=3, alpha=0.25)
    gradient, other = torch.tensor([4.0, -8.0], dtype=torch.float64), many_gradients(6)
    drive(optimizer, [theta, idle], [[other[0], gradient]] + [[g, None] for g in other[1:]])
    laws.assert_close(idle.detach(), torch.tensor([1.0 - 0.1, 2.0 + 0.2], dtype=torch.float64))


@pytest.mark.states("dependence")
def test_groups_have_their_own_period_and_step():
    """`lookahead_k` and `lookahead_alpha` of a group are its own; a group that says nothing has the constructor's.

    Source: the contract of torch.optim's parameter groups.
    """
    names = {"lookahead_k": 2, "lookahead_alpha": 0.75}
    first, second = parameter(), parameter()
    optimizer = Lookahead(torch.optim.SGD([{"params": [first]}, {"params": [second], **names}], lr=0.1), k=3, alpha=0.2)
    gradients = many_gradients(5)
    drive(optimizer, [first, second], [[g, g] for g in gradients])
    laws.assert_close(first.detach(), algorithm_1(gradients, 3, 0.2, 0.1)[0][-1])
    laws.assert_close(second.detach(), algorithm_1(gradients, 2, 0.75, 0.1)[0][-1])


@pytest.mark.parametrize("name", ["alpha", "k", "step", "betas"])
def test_settings_of_the_inner_optimizer_are_not_its_own(name):
    """An inner setting called alpha (RMSprop has one), k or step is not Lookahead's, and not overwritten by it.

    Source: torch.optim.RMSprop(alpha=0.99) under Lookahead(alpha=0.5).  Convention: groups hold `lookahead_k`,
    `lookahead_alpha` and `lookahead_step`.
    """
    theta, plain, gradients = parameter(), parameter(), many_gradients(7)
    base = torch.optim.RMSprop([theta], lr=0.1, alpha=0.9, eps=1e-2)
    base.param_groups[0].setdefault(name, 17)
    before = base.param_groups[0][name]
    optimizer = Lookahead(base, k=2, alpha=0.5)
    inner = torch.optim.RMSprop([plain], lr=0.1, alpha=0.9, eps=1e-2)
    phi = plain.detach().clone()
    for t, g in enumerate(gradients, 1):
        drive(optimizer, [theta], [[g]])
        drive(inner, [plain], [[g]])
        if t % 2 == 0:
            phi = 0.5 * (phi + plain.detach())
            with torch.no_grad():
                plain.copy_(phi)
    laws.assert_close(theta.detach(), plain.detach())
    assert base.param_groups[0][name] == before


def test_a_group_that_joins_begins_its_own_cycle():
    """A group added after three steps has φ_0 from that moment and is synchronized k steps later, with its own α.

    Source: the contract of Optimizer.add_param_group.  Convention: the count of steps belongs to the group.
    """
    first, late, gradients = parameter(), parameter(), many_gradients(8)
    optimizer = Lookahead(torch.optim.SGD([first], lr=0.1), k=4, alpha=0.2)
    drive(optimizer, [first], [[g] for g in gradients[:3]])
    optimizer.add_param_group({"params": [late], "lr": 0.3, "lookahead_alpha": 0.75})
    drive(optimizer, [first, late], [[g, g] for g in gradients[3:]])
    laws.assert_close(first.detach(), algorithm_1(gradients, 4, 0.2, 0.1)[0][-1])
    laws.assert_close(late.detach(), algorithm_1(gradients[3:], 4, 0.75, 0.3)[0][-1])


@pytest.mark.parametrize("side", ["wrapper", "inner"])
def test_a_schedule_of_either_side_steers_both(side):
    """A scheduler may hold the wrapper or the optimizer inside: the groups are the same, after loading a state too.

    Source: the contract of torch.optim.lr_scheduler.
    """
    theta, expected, gradients = parameter(), parameter().detach().clone(), many_gradients(6)
    optimizer = Lookahead(torch.optim.SGD([theta], lr=0.1), k=2, alpha=0.5)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = optimizer if side == "wrapper" else optimizer.base_optimizer
    scheduler = torch.optim.lr_scheduler.StepLR(held, step_size=1, gamma=0.5)
    phi = expected.clone()
    for t, g in enumerate(gradients, 1):
        drive(optimizer, [theta], [[g]])
        scheduler.step()
        expected = expected - 0.1 * 0.5 ** (t - 1) * g
        if t % 2 == 0:
            phi = expected = 0.5 * (phi + expected)
    laws.assert_close(theta.detach(), expected)


def test_no_group_is_left_half_added():
    """A group with a bad setting is refused before the inner optimizer has it, and the run goes on as before.

    Source: the contract of Optimizer.add_param_group: it raises or it adds.
    """
    theta, other, gradients = parameter(), parameter(), many_gradients(6)
    optimizer = Lookahead(torch.optim.SGD([theta], lr=0.1), k=3, alpha=0.2)
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": [other], "lookahead_alpha": 2.0})
    drive(optimizer, [theta], [[g] for g in gradients])
    laws.assert_close(theta.detach(), algorithm_1(gradients, 3, 0.2, 0.1)[0][-1])
    assert len(optimizer.param_groups) == len(optimizer.base_optimizer.param_groups) == 1


# ---------------------------------------------------------------------------------------------- state


@over_each_base
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_it_resumes_in_mid_cycle(base, stop):
    """Saved at any step of a cycle, slow weights, count and inner state resume: the run is the uninterrupted one.

    The second optimizer is made with other settings and at other weights, so everything must come from the state.

    Source: the contract of Optimizer.state_dict; slow weights were missing in kozistr #310 and jettify #349.
    """
    params, gradients = parameters(), script(steps=9)
    optimizer = Lookahead(base(params), k=4, alpha=0.3)
    drive(optimizer, params, gradients[:stop])
    file = io.BytesIO()
    torch.save({"weights": [p.data for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = parameters(seed=5)
    second = Lookahead(torch.optim.SGD(resumed, lr=9.0) if base is BASES["SGD"] else base(resumed), k=2, alpha=0.9)
    with torch.no_grad():
        for p, w in zip(resumed, saved["weights"]):
            p.copy_(w)
    second.load_state_dict(saved["optimizer"])
    drive(optimizer, params, gradients[stop:])
    drive(second, resumed, gradients[stop:])
    for a, b in zip(resumed, params):
        laws.assert_same(a.detach(), b.detach(), what="resumed parameter")
        laws.assert_same(slow(second, a), slow(optimizer, b), what="resumed slow weights")


def test_a_loaded_state_has_its_own_slow_weights():
    """Loading copies φ: two optimizers that start from one state do not pull at the same slow weights.

    Source: a state that is shared would be synchronized twice.
    """
    params, others, gradients = parameters(), parameters(), script(steps=6)
    optimizer, other = (Lookahead(BASES["SGD"](p), k=3, alpha=0.3) for p in (params, others))
    other.load_state_dict(optimizer.state_dict())
    drive(optimizer, params, gradients)
    for a, b in zip(others, parameters()):
        laws.assert_same(slow(other, a), b.detach(), what="loaded slow weights while the first optimizer steps")
    drive(other, others, gradients)
    for a, b in zip(others, params):
        laws.assert_same(a.detach(), b.detach(), what="parameter of the second optimizer")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_takes_the_dtype_of_the_parameters(dtype):
    """A float64 state loaded for parameters of another dtype is cast to it, slow weights included.

    Source: the contract of Optimizer.load_state_dict.
    """
    params = parameters()
    optimizer = Lookahead(BASES["momentum"](params), k=3, alpha=0.3)
    drive(optimizer, params, script(steps=4))
    narrow = [nn.Parameter(p.detach().to(dtype)) for p in params]
    second = Lookahead(BASES["momentum"](narrow), k=3, alpha=0.3)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(narrow, params):
        laws.assert_same(slow(second, p), slow(optimizer, q).to(dtype), what="loaded slow weights")
    drive(second, narrow, script(steps=3, dtype=dtype))


@pytest.mark.states("cost")
def test_it_costs_one_tensor_a_parameter():
    """Lookahead's own state is one element for each parameter, before, within and after a cycle.

    Source: Zhang et al. 2019, §2: memory for one more copy of the weights.
    """
    params, gradients = parameters((5, 7), (11,)), script((5, 7), (11,), steps=6)
    optimizer = Lookahead(BASES["SGD"](params), k=3)
    for row in [None, *gradients]:
        if row is not None:
            drive(optimizer, params, [row])
        held = [sum(t.numel() for t in optimizer.state[p].values()) for p in params]
        assert held == [35, 11], f"expected 35 and 11 elements, found {held}"
