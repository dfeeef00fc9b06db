"""Sharpness-aware minimization.  Foret, Kleiner, Mobahi & Neyshabur 2020, arXiv:2010.01412."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from impl.optim.sam import SAM, frozen_buffers
from spec import laws
from spec.optimizer_laws import drive, parameters, script
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("sam")

SGD = torch.optim.SGD


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def quadratic(seed, size=5):
    """A symmetric positive definite H and a point w."""
    root = torch.randn(size, size, generator=seeded(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64), torch.randn(
        size, generator=seeded(seed + 1), dtype=torch.float64
    )


def curved(params):
    """A loss that couples all parameters, whose gradient differs at every point."""
    total = sum(p.sin().sum() for p in params)
    return sum((p**4 / 4 - p).sum() for p in params) + total**2


def closure_of(optimizer, params, loss=curved, seen=None):
    """A closure as torch's optimizers want it; `seen` collects parameters and gradients at each of its calls."""

    def closure():
        optimizer.zero_grad()
        value = loss(params)
        value.backward()
        if seen is not None:
            seen.append([(p.detach().clone(), p.grad.clone()) for p in params])
        return value

    return closure


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def perturbations(seen):
    """From the two calls of a step: ε̂ and ∇L(w), as vectors of all parameters."""
    first, second = seen[-2:]
    return flat([b - a for (a, _), (b, _) in zip(first, second)]), flat([g for _, g in first])


# ---------------------------------------------------------------------------------------------- the step


@given(seed=seeds(), rho=floats(0, 3), lr=floats(0.001, 0.2))
def test_the_step_on_a_quadratic(seed, rho, lr):
    """On ½wᵀHw over SGD w⁺ = w − η H (w + ρ Hw/‖Hw‖).

    Source: Foret et al. 2020, eq. 2 and 3.
    """
    h, start = quadratic(seed)
    w = nn.Parameter(start.clone())
    optimizer = SAM([w], SGD, rho=rho, lr=lr)
    optimizer.step(closure_of(optimizer, [w], lambda params: 0.5 * params[0] @ h @ params[0]))
    g = (h @ start).numpy()
    expected = start.numpy() - lr * (h.numpy() @ (start.numpy() + rho * g / np.linalg.norm(g)))
    laws.assert_close(w.detach(), torch.from_numpy(expected))


@given(seed=seeds(), rho=floats(0.01, 3))
def test_the_second_gradient_is_taken_at_distance_rho_uphill(seed, rho):
    """The closure runs at w and at w + ε̂ with ε̂ = ρ ∇L/‖∇L‖, so that ‖ε̂‖ = ρ and ε̂·∇L = ρ‖∇L‖, the largest possible.

    Source: Foret et al. 2020, eq. 2: the maximum of the linear approximation over the ball of radius ρ.
    """
    params, seen = parameters(seed=seed), []
    optimizer = SAM(params, SGD, rho=rho, lr=0.01)
    before = [p.detach().clone() for p in params]
    optimizer.step(closure_of(optimizer, params, seen=seen))
    assert len(seen) == 2, f"expected two calls of the closure, found {len(seen)}"
    for (first, _), b in zip(seen[0], before):
        laws.assert_same(first, b, what="where the first gradient was taken")
    epsilon, gradient = perturbations(seen)
    laws.assert_close(epsilon.norm(), torch.tensor(rho, dtype=torch.float64))
    laws.assert_close(epsilon, rho * gradient / gradient.norm())
    laws.assert_close(epsilon @ gradient, rho * gradient.norm())


def test_the_norm_is_that_of_all_groups_together():
    """‖∇L‖ runs over every parameter of every group, and each group scales by its own ρ; a group without one has 0.05.

    Source: Foret et al. 2020, eq. 2: w is the vector of all weights. With a norm for each tensor the perturbation of n
    tensors is √n·ρ long.  Convention: `rho` is a setting of a group.
    """
    params, seen = parameters((2, 3), (4,), (), (5, 1)), []
    groups = [{"params": params[:2], "rho": 0.3}, {"params": params[2:3]}, {"params": params[3:], "rho": 0.0}]
    optimizer = SAM(groups, SGD, lr=0.01)
    optimizer.step(closure_of(optimizer, params, seen=seen))
    first, second = seen
    norm = math.sqrt(sum(g.square().sum().item() for _, g in first))
    for (a, g), (b, _), rho in zip(first, second, (0.3, 0.3, 0.05, 0.0)):
        laws.assert_close(b - a, rho / norm * g, what=f"perturbation of a group with rho {rho}")


def test_the_weights_come_back_exactly():
    """The base optimizer steps from exactly w: under a linear loss SAM is bitwise equal to the base optimizer.

    A perturbation that is taken off again instead leaves w + ε − ε, off by a rounding at almost every weight.

    Source: Foret et al. 2020, algorithm 1: the step starts at w.
    """
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        params, alone = parameters((40, 30), dtype=dtype), parameters((40, 30), dtype=dtype)
        slopes = torch.randn(40, 30, generator=seeded(2), dtype=torch.float64).to(dtype)
        optimizer, plain = SAM(params, SGD, rho=0.7, lr=0.1, momentum=0.9), SGD(alone, lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.step(closure_of(optimizer, params, lambda ps, s=slopes: (ps[0] * s).sum()))
            plain.zero_grad()
            (alone[0] * slopes).sum().backward()
            plain.step()
        laws.assert_same(params[0].detach(), alone[0].detach(), what=f"{dtype} weights")


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("adaptive", [False, True])
def test_with_radius_zero_it_is_the_base_optimizer(adaptive):
    """With ρ = 0 the trajectory is bitwise equal to the base optimizer's, under any loss.

    Source: Foret et al. 2020, eq. 1.
    """
    settings = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.3}
    params, alone = parameters(), parameters()
    optimizer = SAM(params, torch.optim.AdamW, rho=0.0, adaptive=adaptive, **settings)
    plain = torch.optim.AdamW(alone, **settings)
    for _ in range(5):
        optimizer.step(closure_of(optimizer, params))
        plain.step(closure_of(plain, alone))
    for a, b in zip(params, alone):
        laws.assert_same(a.detach(), b.detach(), what="parameter")


@pytest.mark.states("dependence")
def test_momentum_collects_the_second_gradient_alone():
    """After t steps the momentum buffer is Σ μ^{t−i} ∇L(w_i + ε̂_i): the gradients at w steer the perturbation only.

    Source: Foret et al. 2020, algorithm 1: the base optimizer is given g = ∇L(w + ε̂).
    """
    params, seen = parameters(), []
    optimizer = SAM(params, SGD, rho=0.3, lr=0.01, momentum=0.8)
    for _ in range(4):
        optimizer.step(closure_of(optimizer, params, seen=seen))
    for n, p in enumerate(params):
        expected = sum(0.8 ** (3 - t) * seen[2 * t + 1][n][1] for t in range(4))
        found = optimizer.base_optimizer.state[p]["momentum_buffer"]
        laws.assert_close(found, expected)
        laws.assert_differs(found, sum(0.8 ** (3 - t) * seen[2 * t][n][1] for t in range(4)), by=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_to_first_order_it_adds_the_curvature_along_the_gradient(seed):
    """∇L(w + ε̂) − ∇L(w) = ρ ∇²L ∇L/‖∇L‖ + O(ρ²): the difference from that falls by four as ρ is halved.

    Source: Foret et al. 2020, §2, the expansion before eq. 3: SAM descends along ∇(L + ρ‖∇L‖).
    """
    (start,) = parameters((6,), seed=seed)
    (gradient,) = torch.autograd.grad(curved([start]), start, create_graph=True)
    direction = (gradient / gradient.norm()).detach()
    (bent,) = torch.autograd.grad(gradient @ direction, start)
    errors = []
    for rho in (1e-3, 5e-4):
        (w,) = parameters((6,), seed=seed)
        seen = []
        optimizer = SAM([w], SGD, rho=rho, lr=0.01)
        optimizer.step(closure_of(optimizer, [w], seen=seen))
        errors.append((seen[1][0][1] - seen[0][0][1] - rho * bent).norm())
    ratio = errors[0] / errors[1]
    laws.assert_close(ratio, 4.0 + 0 * ratio, rtol=0.02, because="the next order is ρ ≤ 1e-3 relative")


@pytest.mark.states("limiting case")
def test_a_zero_gradient_perturbs_nothing():
    """Where ∇L = 0 there is no direction: w stays as it is, no NaN; the next gradient finds it unharmed.

    Source: Foret et al. 2020, eq. 2, whose quotient is 0/0 there.  Convention: ε̂ = 0.
    """
    for adaptive in (False, True):
        params, seen = parameters(), []
        optimizer = SAM(params, SGD, rho=0.3, adaptive=adaptive, lr=0.1)
        optimizer.step(closure_of(optimizer, params, lambda ps: sum((0 * p).sum() for p in ps), seen))
        for (a, _), (b, _), p, start in zip(*seen, params, parameters()):
            laws.assert_same(b, a, what="where the second gradient was taken")
            laws.assert_same(p.detach(), start.detach(), what="parameter")
        optimizer.step(closure_of(optimizer, params, seen=seen))
        assert all(p.isfinite().all() for p in params)
        assert perturbations(seen)[0].norm() > 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_gradient_that_is_not_finite_perturbs_nothing(adaptive, bad):
    """An inf or NaN anywhere in the first gradient leaves every weight as it is: there is no direction to go.

    Source: Foret et al. 2020, eq. 2, whose quotient is not defined there.  Convention: ε̂ = 0, as at zero.
    """
    params, (first, second) = parameters(), script(steps=2)
    optimizer = SAM(params, SGD, rho=0.3, adaptive=adaptive, lr=0.1)
    first[1][2] = bad
    for p, g in zip(params, first):
        p.grad = g.clone()
    optimizer.first_step()
    for p, start in zip(params, parameters()):
        laws.assert_same(p.detach(), start.detach(), what="weights of the second pass")
    for p, g in zip(params, second):
        p.grad = g.clone()
    optimizer.second_step()
    for p, start, g in zip(params, parameters(), second):
        laws.assert_close(p.detach(), start.detach() - 0.1 * g)


def scaled_step(optimizer, scaler, params, overflow=()):
    """A step by the recipe of SAM's docstring; `overflow` names passes. Returns the weights of each pass."""
    seen = []

    def backward(name):
        optimizer.zero_grad()
        seen.append([p.detach().clone() for p in params])
        scaler.scale(curved(params) * (math.inf if name in overflow else 1.0)).backward()

    backward("first")
    scaler.unscale_(optimizer)
    optimizer.first_step()
    backward("second")
    optimizer.second_step(scaler.step)
    scaler.update()
    return seen


def test_under_a_grad_scaler_the_step_is_the_same():
    """With scaled losses, by the recipe of SAM's docstring, three steps are those without a scaler.

    Source: the contract of torch.amp.GradScaler: scales are powers of two, which change no bit of a gradient.
    """
    params, plain = parameters(), parameters()
    optimizer, other = (SAM(p, SGD, rho=0.3, lr=0.05, momentum=0.8) for p in (params, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        scaled_step(optimizer, scaler, params)
        other.step(closure_of(other, plain))
    for a, b in zip(params, plain):
        laws.assert_close(a.detach(), b.detach())


@pytest.mark.parametrize("overflow", [("first",), ("second",), ("first", "second")])
def test_an_overflow_under_a_grad_scaler_perturbs_and_steps_nothing(overflow):
    """An overflow in the first pass perturbs nothing, one in the second steps nothing; either halves the scale.

    The step after it is that of a run without an overflow: neither weights nor momentum carry anything on.

    Source: the contract of torch.amp.GradScaler, by the recipe of SAM's docstring; davda54/sam #7, #97.
    """
    params, plain = parameters(), parameters()
    optimizer, other = (SAM(p, SGD, rho=0.3, lr=0.05, momentum=0.8) for p in (params, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    first, second = scaled_step(optimizer, scaler, params, overflow)
    assert scaler.get_scale() == 2.0**9, f"expected half the scale, found {scaler.get_scale()}"
    if "first" in overflow:
        for a, b in zip(first, second):
            laws.assert_same(b, a, what="weights of the second pass")
    if "second" in overflow:
        for p, start in zip(params, parameters()):
            laws.assert_same(p.detach(), start.detach(), what="weights after the overflow")
        scaled_step(optimizer, scaler, params)
        other.step(closure_of(other, plain))
        for a, b in zip(params, plain):
            laws.assert_close(a.detach(), b.detach(), what="weights of the next step")
    assert all(p.isfinite().all() for p in params), "expected finite weights"


@pytest.mark.states("symmetry")
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_size_of_the_loss_is_no_information(scale):
    """c·L has the perturbation of L for c > 0: ‖ε̂‖ = ρ for small and for large gradients.

    Source: Foret et al. 2020, eq. 2, homogeneous of degree 0 in ∇L.
    """
    params, seen = parameters(), []
    optimizer = SAM(params, SGD, rho=0.3, lr=0.0)
    optimizer.step(closure_of(optimizer, params, seen=seen))
    optimizer.step(closure_of(optimizer, params, lambda ps: scale * curved(ps), seen))
    why = "libraries add 1e-12 to a norm of 1e-7"
    laws.assert_close(perturbations(seen[2:])[0], perturbations(seen[:2])[0], rtol=1e-3, atol=1e-12, because=why)


def test_defaults():
    """ρ = 0.05, not adaptive; everything else is the base optimizer's own default.

    Source: Foret et al. 2020, §3.1: ρ = 0.05 throughout.
    """
    params, seen = parameters(), []
    optimizer = SAM(params, torch.optim.Adam)
    optimizer.step(closure_of(optimizer, params, seen=seen))
    epsilon, gradient = perturbations(seen)
    laws.assert_close(epsilon, 0.05 * gradient / gradient.norm())
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_the_loss_is_that_of_the_weights():
    """`step` returns the closure's first result, L(w); the second, L(w + ε̂), is larger where the gradient is exact.

    Source: Foret et al. 2020, eq. 1: the inner maximum.  Convention: the unperturbed loss is what is logged.
    """
    params, losses = parameters(), []
    optimizer = SAM(params, SGD, rho=0.01, lr=0.01)
    inner = closure_of(optimizer, params)

    def closure():
        losses.append(inner())
        return losses[-1]

    with torch.no_grad():
        found = optimizer.step(closure)
    assert found is losses[0], f"expected the first loss, found {found}"
    laws.assert_close(found.detach(), curved(parameters()).detach())
    assert losses[1] > losses[0]


@pytest.mark.parametrize("base", [SGD, torch.optim.AdamW])
def test_maximize_perturbs_downhill(base):
    """With `maximize` the perturbation goes downhill: ascent on L is bitwise equal to descent on −L.

    Source: the contract of torch.optim's `maximize`; Foret et al. 2020, eq. 1 for −L.
    """
    up, down = parameters(), parameters()
    climber = SAM(up, base, rho=0.3, lr=0.05, maximize=True)
    diver = SAM(down, base, rho=0.3, lr=0.05)
    for _ in range(3):
        climber.step(closure_of(climber, up, lambda params: -curved(params)))
        diver.step(closure_of(diver, down))
    for a, b in zip(up, down):
        laws.assert_same(a.detach(), b.detach(), what="parameter")


# ---------------------------------------------------------------------------------------------- adaptive


def test_adaptive_radius_is_relative_to_the_weights():
    """ε̂ = ρ w² ∇L / ‖ |w| ∇L ‖, so ‖ε̂/|w|‖ = ρ over all parameters together; a weight of zero is not perturbed.

    Source: Kwon et al. 2021, arXiv:2102.11600, eq. 8, T_w = diag(|w|).
    """
    params, seen = parameters(), []
    with torch.no_grad():
        params[1][2] = 0.0
    optimizer = SAM(params, SGD, rho=0.4, adaptive=True, lr=0.01)
    optimizer.step(closure_of(optimizer, params, seen=seen))
    epsilon, gradient = perturbations(seen)
    w = flat([a for a, _ in seen[0]])
    laws.assert_close(epsilon, 0.4 * w**2 * gradient / (w.abs() * gradient).norm())
    kept = w != 0
    laws.assert_close((epsilon[kept] / w[kept].abs()).norm(), torch.tensor(0.4, dtype=torch.float64))
    assert epsilon[~kept] == 0


def test_adaptive_groups_share_one_norm():
    """Where one group is adaptive and another is not, each enters the norm as it is measured: |w| ∇L, and ∇L.

    Source: Kwon et al. 2021, eq. 8, with T_w the identity for some weights (theirs leaves biases out).
    """
    params, seen = parameters(), []
    optimizer = SAM([{"params": params[:1], "adaptive": True}, {"params": params[1:]}], SGD, rho=0.4, lr=0.01)
    optimizer.step(closure_of(optimizer, params, seen=seen))
    ((w, g), (v, h)), ((w_moved, _), (v_moved, _)) = seen
    norm = math.sqrt((w * g).square().sum().item() + h.square().sum().item())
    laws.assert_close(w_moved - w, 0.4 / norm * w**2 * g)
    laws.assert_close(v_moved - v, 0.4 / norm * h)


@pytest.mark.states("symmetry")
def test_adaptive_radius_ignores_the_scale_of_the_weights():
    """Weights rescaled by any D without a change of the loss are perturbed by D ε̂: the losses around them stay.

    Source: Kwon et al. 2021, definition 2 and theorem 1; with a fixed radius the rescaled net is perturbed otherwise.
    """
    (start,) = parameters((6,))
    scales = torch.tensor([0.2, 7.0, 1.5, 0.03, -2.0, 11.0], dtype=torch.float64)
    found = {}
    for adaptive in (True, False):
        losses = []
        for d in (torch.ones_like(scales), scales):
            w, values = nn.Parameter((start * d).detach()), []
            optimizer = SAM([w], SGD, rho=0.4, adaptive=adaptive, lr=0.0)
            closure = closure_of(optimizer, [w], lambda params, d=d: curved([params[0] / d]))
            optimizer.step(lambda closure=closure, values=values: values.append(closure().detach()))
            losses.append(torch.stack(values))
        found[adaptive] = losses
    laws.assert_close(found[True][1], found[True][0])
    laws.assert_differs(found[False][1], found[False][0], by=0.1)


# ---------------------------------------------------------------------------------------------- passes by hand


@pytest.mark.states("equivalence")
def test_two_passes_by_hand_are_the_step():
    """first_step, a new gradient and second_step are bitwise equal to `step` with a closure.

    Source: Foret et al. 2020, algorithm 1.
    """
    params, by_hand = parameters(), parameters()
    settings = {"rho": 0.3, "adaptive": True, "lr": 0.05, "momentum": 0.8}
    optimizer, manual = SAM(params, SGD, **settings), SAM(by_hand, SGD, **settings)
    closure = closure_of(manual, by_hand)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, params))
        closure()
        manual.first_step()
        closure()
        manual.second_step()
    for a, b in zip(by_hand, params):
        laws.assert_same(a.detach(), b.detach(), what="parameter")


def test_gradients_that_come_and_go():
    """A parameter without a gradient in the first pass is not perturbed; one without in the second is restored.

    Source: the contract of torch.optim: `grad is None` means absent, not zero.
    """
    params, gradients = parameters((2,), (3,), (4,)), script((2,), (3,), (4,), steps=2)
    start = [p.detach().clone() for p in params]
    optimizer = SAM(params, SGD, rho=0.5, lr=0.1)
    params[0].grad, params[1].grad = gradients[0][0].clone(), gradients[0][1].clone()
    optimizer.first_step()
    norm = flat(gradients[0][:2]).norm()
    laws.assert_close(params[1].detach(), start[1] + 0.5 * gradients[0][1] / norm)
    laws.assert_same(params[2].detach(), start[2], what="a parameter without a gradient in the first pass")
    params[0].grad, params[1].grad, params[2].grad = gradients[1][0].clone(), None, gradients[1][2].clone()
    optimizer.second_step()
    laws.assert_close(params[0].detach(), start[0] - 0.1 * gradients[1][0])
    laws.assert_same(params[1].detach(), start[1], what="a parameter without a gradient in the second pass")
    laws.assert_close(params[2].detach(), start[2] - 0.1 * gradients[1][2])


@pytest.mark.states("dependence")
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_group_without_gradients_takes_no_part(adaptive):
    """Next to a frozen group a trained one steps as if it were alone.

    Source: the contract of torch.optim's parameter groups.
    """
    params, alone = parameters(), parameters()[:1]
    settings = {"rho": 0.3, "adaptive": adaptive, "lr": 0.05}
    optimizer = SAM([{"params": params[1:]}, {"params": params[:1]}], SGD, **settings)
    single = SAM(alone, SGD, **settings)
    optimizer.step(closure_of(optimizer, params[:1]))
    single.step(closure_of(single, alone))
    laws.assert_same(params[0].detach(), alone[0].detach(), what="the trained group")
    laws.assert_same(params[1].detach(), parameters()[1].detach(), what="the frozen group")


def test_a_closure_that_fails_leaves_the_weights():
    """An error in the second pass comes through, with w restored and no step taken.

    Source: torch's contract that an exception is no step.  Convention: also where the closure fails at w + ε̂.
    """
    params, calls = parameters(), []
    optimizer = SAM(params, SGD, rho=0.5, lr=0.1)
    inner = closure_of(optimizer, params)

    def closure():
        calls.append(inner())
        if len(calls) == 2:
            raise KeyError("no more data")
        return calls[-1]

    with pytest.raises(KeyError, match="no more data"):
        optimizer.step(closure)
    for p, start in zip(params, parameters()):
        laws.assert_same(p.detach(), start.detach(), what="parameter after the failed step")
    optimizer.step(closure)
    for p, start in zip(params, parameters()):
        laws.assert_differs(p.detach(), start.detach(), by=1e-3, what="parameter after the next step")


# ---------------------------------------------------------------------------------------------- statistics of batches


def batch_norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def test_running_statistics_follow_both_passes_of_a_plain_closure():
    """SAM knows no module: with a plain closure a batch norm sees w and w + ε̂, two updates a step.

    Source: Foret et al. 2020 leave it open.  Convention: as davda54/sam #30 and pytorch_optimizer; see the next spec.
    """
    net, x = batch_norm_net(), torch.randn(8, 4, generator=seeded(1))
    means = []
    net[1].register_forward_hook(lambda module, inputs, output: means.append(inputs[0].detach().mean(0)))
    optimizer = SAM(net.parameters(), SGD, rho=0.5, lr=0.1)
    optimizer.step(closure_of(optimizer, list(net.parameters()), lambda params: net(x).square().sum()))
    assert net[1].num_batches_tracked == 2
    laws.assert_close(net[1].running_mean, 0.9 * 0.1 * means[0] + 0.1 * means[1])


def test_frozen_buffers_hide_the_second_pass():
    """Around the second pass `frozen_buffers` leaves running statistics and counters as the first pass made them.

    The gradient of the second pass is not touched: it normalizes by its own batch.

    Source: Foret et al. 2020, algorithm 1 asks the second pass for a gradient only; davda54/sam has bypass_bn.
    """
    net, x = batch_norm_net(), torch.randn(8, 4, generator=seeded(1))
    thawed, plain = copy.deepcopy(net), copy.deepcopy(net)
    optimizer, other = (SAM(n.parameters(), SGD, rho=0.5, lr=0.1) for n in (net, thawed))
    plain(x)
    net(x).square().sum().backward()
    optimizer.first_step()
    optimizer.zero_grad()
    with frozen_buffers(net):
        net(x).square().sum().backward()
    optimizer.second_step()
    other.step(closure_of(other, list(thawed.parameters()), lambda params: thawed(x).square().sum()))
    for name, buffer in net.named_buffers():
        laws.assert_same(buffer, plain.get_buffer(name), what=name)
    for p, q in zip(net.parameters(), thawed.parameters()):
        laws.assert_same(p.detach(), q.detach(), what="parameter")


def test_frozen_buffers_come_back_after_an_error():
    """The buffers are restored where the block fails too, in the same tensors.

    Source: the contract of context managers.
    """
    net, x = batch_norm_net(), torch.randn(8, 4, generator=seeded(1))
    buffers = dict(net.named_buffers())
    before = {name: b.clone() for name, b in buffers.items()}
    with pytest.raises(KeyError), frozen_buffers(net):
        net(x)
        assert net[1].num_batches_tracked == 1, "expected the block itself to run as ever"
        raise KeyError
    for name, buffer in net.named_buffers():
        assert buffer is buffers[name]
        laws.assert_same(buffer, before[name], what=name)


# ---------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("base", [SGD, torch.optim.AdamW, torch.optim.Adam])
@pytest.mark.parametrize("steps", [0, 2])
def test_it_resumes_between_the_passes(base, steps):
    """A run saved at w + ε̂, before its first step or later, and loaded elsewhere, continues bitwise equal.

    Source: the contract of Optimizer.state_dict: all that a step needs, the unperturbed weights too.
    """
    settings = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.8} if base is SGD else {})
    params = parameters()
    optimizer = SAM(params, base, rho=0.3, **settings)
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, params))
    closure_of(optimizer, params)()
    optimizer.first_step()
    file = io.BytesIO()
    torch.save({"weights": [p.data for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(w) for w in saved["weights"]]
    second = SAM(resumed, base, rho=9.0, lr=0.7)
    second.load_state_dict(saved["optimizer"])
    copies, copied = copy.deepcopy((params, optimizer))
    for o, ps in ((optimizer, params), (second, resumed), (copied, copies)):
        closure_of(o, ps)()
        o.second_step()
        o.step(closure_of(o, ps))
    for a, b, c in zip(params, resumed, copies):
        laws.assert_same(b.detach(), a.detach(), what="resumed parameter")
        laws.assert_same(c.detach(), a.detach(), what="parameter of a deep copy")


@pytest.mark.states("cost")
def test_between_steps_it_remembers_nothing():
    """Within a step the state holds the weights, one element each; after it SAM's own state is empty again.

    Source: Foret et al. 2020, algorithm 1: w is needed until the step is taken.
    """
    params = parameters((5, 7), (11,))
    optimizer = SAM(params, SGD, rho=0.3, lr=0.05)
    closure_of(optimizer, params)()
    before = [p.detach().clone() for p in params]
    optimizer.first_step()
    for p, b in zip(params, before):
        laws.assert_same(optimizer.state[p]["old_p"], b, what="kept weights")
    optimizer.second_step()
    assert not any("old_p" in entry for entry in optimizer.state.values())


@pytest.mark.parametrize("side", ["wrapper", "base"])
def test_a_schedule_of_either_side_steers_both(side):
    """A scheduler may hold SAM or the optimizer inside; the learning rates are the same, after loading a state too.

    Source: the contract of torch.optim.lr_scheduler.
    """
    params, alone, gradients = parameters(), parameters(), script()
    optimizer, plain = SAM(params, SGD, rho=0.3, lr=0.1), SGD(alone, lr=0.1)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = optimizer if side == "wrapper" else optimizer.base_optimizer
    schedulers = [torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5) for o in (held, plain)]
    for row in gradients:
        optimizer.step(closure_of(optimizer, params, lambda ps, row=row: sum((p * g).sum() for p, g in zip(ps, row))))
        drive(plain, alone, [row])
        for scheduler in schedulers:
            scheduler.step()
    for a, b in zip(params, alone):
        laws.assert_same(a.detach(), b.detach(), what="parameter")


def test_a_group_that_joins_has_its_own_radius():
    """A group added in mid-run is perturbed with its own ρ, within the common norm, and stepped with its own lr.

    Source: the contract of Optimizer.add_param_group.
    """
    params, seen = parameters(), []
    optimizer = SAM(params[:1], SGD, rho=0.3, lr=0.01)
    optimizer.step(closure_of(optimizer, params[:1]))
    optimizer.add_param_group({"params": params[1:], "rho": 0.8, "lr": 0.02})
    start = params[1].detach().clone()
    optimizer.step(closure_of(optimizer, params, seen=seen))
    (_, (a, g)), (_, (b, h)) = seen
    norm = flat([gradient for _, gradient in seen[0]]).norm()
    laws.assert_close(b - a, 0.8 * g / norm)
    laws.assert_close(params[1].detach(), start - 0.02 * h)


def test_any_function_may_make_the_base():
    """The base is what the function makes of the parameters and the settings: a class, or a function around one.

    Source: Foret et al. 2020, algorithm 1 with any base optimizer in place of SGD.
    """
    params, others = parameters(), parameters()
    optimizer = SAM(params, lambda ps, lr: SGD(ps, lr=lr, momentum=0.7, nesterov=True), rho=0.3, lr=0.05)
    other = SAM(others, SGD, rho=0.3, lr=0.05, momentum=0.7, nesterov=True)
    assert isinstance(optimizer, torch.optim.Optimizer) and type(optimizer.base_optimizer) is SGD
    for _ in range(3):
        optimizer.step(closure_of(optimizer, params))
        other.step(closure_of(other, others))
    for a, b in zip(params, others):
        laws.assert_same(a.detach(), b.detach(), what="parameter")
