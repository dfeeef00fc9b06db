"""Properties of SAC.  Haarnoja et al. 2018, arXiv:1801.01290 and arXiv:1812.05905."""

import math

import pytest
import torch
from hypothesis import given

from impl.models.sac import SquashedGaussianPolicy, squashed_log_prob
from spec import cost, laws
from spec.cases.sac import agent, batch, pair, policy
from spec.laws import double, random
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("sac")


def randomised(**options):
    """An agent whose networks are all random; the target's differ from those that learn."""
    found = agent(**options)
    for k, part in enumerate((found.policy, found.q, found.target_q)):
        for name, parameter in part.named_parameters():
            parameter.data.copy_(random(*parameter.shape, seed=100 * k + len(name)) / 2)
    return found


def drawn(subject, observations, seed):
    """The actions and ln π that the agent's policy draws first with a generator of that seed."""
    return subject.policy.sample(observations, torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- the density


@given(mean=floats(-1.5, 1.5), log_std=floats(-1.5, 0.3))
def test_squashed_density_integrates_to_one(mean, log_std):
    """∫ π(a) da = 1 over (−1, 1), a = tanh u.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, eq. 20.
    """
    u = torch.linspace(-18, 18, 40001, dtype=torch.float64)
    parts = (torch.full_like(u, x)[:, None] for x in (mean, log_std))
    density = squashed_log_prob(u[:, None], *parts).exp()
    total = torch.trapezoid(density * (1 - u.tanh() ** 2), u)  # da = (1 − tanh² u) du
    laws.assert_close(total, torch.tensor(1.0).double(), rtol=1e-7, because="a sum of 40,001 rectangles")


@pytest.mark.states("equivalence")
@given(seed=seeds(), d=sizes(1, 3))
def test_log_density_is_the_normal_less_the_squashing(seed, d):
    """ln π = Σ ln N(u; μ, σ²) − Σ ln(1 − tanh² u), its derivatives included.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, eq. 21.
    """

    def reference(u, mean, log_std):
        std = log_std.exp()
        normal = -(((u - mean) / std) ** 2) / 2 - std.log() - math.log(2 * math.pi) / 2
        return (normal - (1 - u.tanh() ** 2).log()).sum(-1)

    parts = [double(4, d, seed=seed + k) for k in range(3)]
    laws.gradients_match(squashed_log_prob, reference, *parts, rtol=1e-8, atol=1e-8, because="1 − tanh² u cancels")


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("u", [10.0, -10.0, 40.0, -40.0, 300.0])
def test_far_actions_have_a_finite_density(u):
    """At u = ±10 in float32 −Σ ln(1 − tanh² u) is 18.6137, and 2|u| − 2 ln 2 farther out; so is the gradient, ±2.

    Source: Haarnoja et al. 2018, eq. 21; 1 − tanh² u is 0 in float32 from |u| = 9.1 on.
    """
    at = torch.tensor([[u]], requires_grad=True)
    found = squashed_log_prob(at, at.detach(), torch.zeros(1, 1))
    (gradient,) = torch.autograd.grad(found.sum(), at)
    expected = torch.tensor([2 * abs(u) - 2 * math.log(2) - math.log(2 * math.pi) / 2])
    laws.assert_close(found.detach(), expected)
    laws.assert_close(gradient, torch.tensor([[2 * math.copysign(1, u)]]))


@pytest.mark.states("second derivative")
def test_log_density_has_second_derivatives():
    """The gradient of the gradient equals central differences.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(squashed_log_prob, *(double(2, 2, seed=k) for k in range(3)), second_order=True)


# ---------------------------------------------------------------------------------------------- the policy


def test_actions_have_the_density_that_is_said():
    """Of 20,000 actions the shares in ten intervals are the integrals of π, whose density includes the bounds' scale.

    Source: Haarnoja et al. 2018, appendix C; bounds by the change of variables.
    """
    module = laws.randomise(policy(actions=1, low=-1.0, high=4.0), seed=3)
    observation = random(1, 3)
    actions, log_probs = module.sample(observation.expand(20000, 3), torch.Generator().manual_seed(0))
    assert actions.min() > -1 and actions.max() < 4, (
        f"expected actions in (−1, 4), found {actions.min()}, {actions.max()}"
    )
    mean, log_std = (part.double() for part in module(observation))
    edges = torch.linspace(-1, 4, 11).double()
    u = ((edges[1:-1] - 1.5) / 2.5).atanh()
    normal = torch.distributions.Normal(mean[0], log_std[0].exp())
    shares = torch.cat([torch.zeros(1), normal.cdf(u), torch.ones(1)]).diff()
    counted = torch.histogram(actions[:, 0].detach().double(), edges)[0] / 20000
    assert (counted - shares).abs().max() < 0.015, f"expected the shares {shares}, found {counted}"
    own = ((actions - 1.5) / 2.5).atanh().double()
    inside = own.abs() < 3
    expected = squashed_log_prob(own, mean.expand_as(own), log_std.expand_as(own)) - math.log(2.5)
    laws.assert_close(
        log_probs.double()[inside[:, 0]],
        expected[inside[:, 0]],
        rtol=1e-3,
        atol=1e-3,
        because="atanh of a float32 tanh",
    )


def test_two_actions_have_the_product_of_their_densities():
    """Σ over dimensions; the bounds of each take the logarithm of half their range away.

    Source: Haarnoja et al. 2018, eq. 21.
    """
    module = laws.randomise(policy().double())
    state = module.state_dict()  # made smaller, so that no action is so near its bound that atanh loses it
    module.load_state_dict({k: v / 4 if k.startswith("network") else v for k, v in state.items()})
    observations = double(5, 3)
    actions, log_probs = module.sample(observations, torch.Generator().manual_seed(0))
    mean, log_std = module(observations)
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([2.0, 4.0]).double()
    u = (2 * (actions - low) / (high - low) - 1).atanh()
    expected = squashed_log_prob(u, mean, log_std) - math.log(1.5) - math.log(2.0)
    laws.assert_close(log_probs, expected, rtol=1e-8, atol=1e-8, because="atanh of a tanh")


def test_best_action_is_that_of_the_mean():
    """best(s) = centre + scale · tanh(μ(s)), and log σ is held in [−20, 2].

    Source: Haarnoja et al. 2018, arXiv:1801.01290, §5.2: evaluation by the mean action; bounds as released.
    """
    module = laws.randomise(policy().double())
    observations = double(5, 3)
    mean, _ = module(observations)
    centre, scale = torch.tensor([0.5, 2.0]).double(), torch.tensor([1.5, 2.0]).double()
    laws.assert_close(module.best(observations), centre + scale * mean.tanh())
    bias = torch.tensor([0.0, 0.0, 1000.0, -1000.0]).double()  # of both means and of both ln σ
    module.load_state_dict(module.state_dict() | {"network.layers.2.bias": bias})
    _, log_std = module(observations)
    assert log_std.max() == 2 and log_std.min() == -20, f"expected [−20, 2], found {log_std.min()} to {log_std.max()}"


def test_one_bound_is_for_all_actions():
    """low = −2 and high = 2 give actions of 2 tanh(u) in each dimension.

    Source: Haarnoja et al. 2018, appendix C: actions are bounded.
    """
    module = SquashedGaussianPolicy(3, 2, 4, low=-2.0, high=2.0)
    laws.assert_close(module.best(random(2, 3)), 2 * module(random(2, 3))[0].tanh())


@pytest.mark.states("gradient routing")
def test_a_drawn_action_has_a_gradient_to_mean_and_spread():
    """a = tanh(μ + σ ξ): with the noise kept, the derivative to every parameter equals a central difference.

    Source: Haarnoja et al. 2018, eq. 11: the reparameterization trick.
    """
    module = laws.randomise(policy().double())
    observations = double(3, 3)

    def both():
        actions, log_probs = module.sample(observations, torch.Generator().manual_seed(5))
        return actions.square().sum() + log_probs.sum()

    parameters = dict(module.named_parameters())
    for parameter, gradient in zip(parameters.values(), torch.autograd.grad(both(), list(parameters.values()))):
        place, step = tuple(0 for _ in parameter.shape), 1e-6
        with torch.no_grad():
            parameter[place] += step
            above = both()
            parameter[place] -= 2 * step
            below = both()
            parameter[place] += step
        laws.assert_close(gradient[place], (above - below) / (2 * step), rtol=1e-5, atol=1e-6, because="a difference")


# ---------------------------------------------------------------------------------------------- the losses


def test_target_takes_the_smaller_value_and_the_entropy():
    """y = r + γ (min_j Q̄_j(s′, a′) − α ln π(a′ | s′)) for a′ of the policy; r where the step terminated.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 2 and 5; the minimum: Fujimoto et al. 2018, arXiv:1802.09477.
    """
    subject = randomised(gamma=0.9, alpha=0.3)
    _, _, rewards, following, terminated = batch()
    assert terminated.any() and not terminated.all(), "expected steps of both kinds"
    actions, log_probs = drawn(subject, following, 3)
    first, second = subject.target_q(following, actions)
    assert (first < second).any() and (first > second).any(), "expected each target to be the smaller somewhere"
    soft = torch.where(first < second, first, second) - 0.3 * log_probs
    expected = torch.stack([r if t else r + 0.9 * v for r, t, v in zip(rewards, terminated, soft)])
    found = subject.targets(rewards, following, terminated, torch.Generator().manual_seed(3))
    laws.assert_close(found, expected.detach())
    assert not found.requires_grad, "expected targets without a graph"


def test_q_loss_is_half_the_squared_error_of_both():
    """J_Q = ½ mean ((Q₁ − y)² + (Q₂ − y)²); it reaches both values and nothing else.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 5.
    """
    subject, given_batch = randomised(), batch()
    observations, actions, rewards, following, terminated = given_batch
    y = subject.targets(rewards, following, terminated, torch.Generator().manual_seed(3))
    expected = sum(((q - y) ** 2).sum() / 5 / 2 for q in subject.q(observations, actions))
    found = subject.q_loss(given_batch, torch.Generator().manual_seed(3))
    laws.assert_close(found, expected)
    untouched = {f"policy {k}": p for k, p in subject.policy.named_parameters()}
    untouched |= {"ln α": subject.log_alpha}
    laws.gradient_reaches(found, dict(subject.q.named_parameters()), untouched)


def test_policy_loss_follows_the_smaller_value():
    """J_π = mean (α ln π(a | s) − min_j Q_j(s, a)), a drawn with a gradient; α is a number in it.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 7 and 9.
    """
    subject, observations = randomised(alpha=0.3), random(5, 3)
    actions, log_probs = drawn(subject, observations, 3)
    first, second = subject.q(observations, actions)
    expected = (0.3 * log_probs - torch.where(first < second, first, second)).mean()
    found, returned = subject.policy_loss(observations, torch.Generator().manual_seed(3))
    laws.assert_close(found, expected)
    laws.assert_close(returned, log_probs)
    parameters = list(subject.policy.parameters())
    pairs = zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters))
    for gradient, wanted in pairs:
        laws.assert_close(gradient, wanted)
    laws.gradient_reaches(
        subject.policy_loss(observations)[0], dict(subject.policy.named_parameters()), {"ln α": subject.log_alpha}
    )


@given(entropy=floats(-3, 3), aim=floats(-3, 3), alpha=floats(0.1, 2))
def test_temperature_rises_where_the_entropy_is_too_small(entropy, aim, alpha):
    """J_α = −α mean (ln π + H): its derivative to ln α is α (entropy − H), so α rises where the entropy is below H.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, eq. 18.
    """
    subject = agent(alpha=alpha, target_entropy=aim)
    log_probs = torch.tensor([-entropy - 1, -entropy + 1], requires_grad=True)
    loss = subject.alpha_loss(log_probs)
    (gradient,) = torch.autograd.grad(loss, subject.log_alpha)
    expected = torch.tensor(alpha * (entropy - aim))
    laws.assert_close(gradient, expected, rtol=1e-4, atol=1e-5, because="float32")
    laws.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5, because="float32")
    assert torch.autograd.grad(subject.alpha_loss(log_probs), log_probs, allow_unused=True)[0] is None, (
        "expected no way to π"
    )


def test_entropy_aimed_at_is_minus_the_dimensions():
    """By default H = −dim(a), and the temperature begins at 1.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, appendix D.
    """
    assert agent().target_entropy == -2, f"expected −2, found {agent().target_entropy}"
    assert agent().alpha == 1 and agent(target_entropy=0.5).target_entropy == 0.5, "expected settings as they are given"


# ---------------------------------------------------------------------------------------------- the agent


def parameters_of(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_a_step_moves_each_part_by_its_own_loss():
    """J_Q is descended, then J_π at the new Qs, then J_α; the target moves by τ. Adam's first step is lr · sign.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1; Adam: Kingma & Ba 2014, arXiv:1412.6980.
    """
    subject, given_batch = randomised(lr=0.01, tau=0.25, alpha=0.3), batch()
    before, target = parameters_of(subject.q), parameters_of(subject.target_q)
    old_policy, old_alpha = parameters_of(subject.policy), subject.log_alpha.item()
    generator = torch.Generator().manual_seed(3)
    loss = subject.q_loss(given_batch, generator)
    gradients = dict(zip(before, torch.autograd.grad(loss, list(subject.q.parameters()))))
    report = subject.update(given_batch, torch.Generator().manual_seed(3))
    for name, old in before.items():
        large = gradients[name].abs() > 1e-5
        expected = old - 0.01 * gradients[name].sign()
        laws.assert_close(
            parameters_of(subject.q)[name][large], expected[large], atol=1e-4, because="ε of Adam", what=name
        )
        moved = 0.75 * target[name] + 0.25 * parameters_of(subject.q)[name]
        laws.assert_close(parameters_of(subject.target_q)[name], moved, what=f"target {name}")
    new_policy = parameters_of(subject.policy)
    subject.policy.load_state_dict(subject.policy.state_dict() | old_policy)
    subject.log_alpha.data.fill_(old_alpha)
    policy, log_probs = subject.policy_loss(given_batch[0], generator)
    gradients = dict(zip(old_policy, torch.autograd.grad(policy, list(subject.policy.parameters()))))
    for name, old in old_policy.items():
        large = gradients[name].abs() > 1e-5
        expected = old - 0.01 * gradients[name].sign()
        laws.assert_close(new_policy[name][large], expected[large], atol=1e-4, because="ε of Adam", what=name)
    rise = -0.01 if -log_probs.mean() > subject.target_entropy else 0.01
    found = {"q": loss, "policy": policy, "alpha": torch.tensor(old_alpha + rise).exp(), "entropy": -log_probs.mean()}
    assert set(report) == set(found), f"expected {sorted(found)}, found {sorted(report)}"
    for name, expected in found.items():
        laws.assert_close(torch.tensor(report[name]), expected.detach(), rtol=1e-4, because="float32", what=name)


def test_a_fixed_temperature_stays():
    """With learn_alpha=False the temperature is what was given.

    Source: Haarnoja et al. 2018, arXiv:1801.01290: a fixed temperature.
    """
    subject = randomised(alpha=0.3, learn_alpha=False, lr=0.1)
    subject.update(batch())
    assert math.isclose(subject.alpha, 0.3, rel_tol=1e-6), f"expected 0.3, found {subject.alpha}"


@pytest.mark.states("dependence")
def test_target_is_a_copy_that_follows():
    """The target begins as a copy of the values; after n updates at lr = 0 it has (1 − τ)ⁿ of its distance.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, algorithm 1: an exponentially moving average.
    """
    subject = agent()
    for name, value in parameters_of(subject.q).items():
        laws.assert_same(parameters_of(subject.target_q)[name], value, name)
    assert not any(p.requires_grad for p in subject.target_q.parameters()), "expected a target that is not learned"
    subject = randomised(lr=0.0, tau=0.2)
    start, q = parameters_of(subject.target_q), parameters_of(subject.q)
    for _ in range(3):
        subject.update(batch())
    for name, value in parameters_of(subject.target_q).items():
        laws.assert_close(value, q[name] + 0.8**3 * (start[name] - q[name]), what=name)


@pytest.mark.states("symmetry")
def test_order_of_the_two_values_has_no_meaning():
    """With the two values exchanged, targets and losses are the same.

    Source: Haarnoja et al. 2018, arXiv:1812.05905, §5: the minimum of both.
    """
    subject, given_batch = randomised(), batch()

    def losses():
        seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
        return torch.stack([subject.q_loss(given_batch, seeded[0]), subject.policy_loss(given_batch[0], seeded[1])[0]])

    expected = losses().detach()
    for network in (subject.q, subject.target_q):
        network.first, network.second = network.second, network.first
    laws.assert_close(losses().detach(), expected)


def test_acting_explores_or_not():
    """act draws from the policy, or gives its mean's action; a seed repeats, and neither has a graph.

    Source: Haarnoja et al. 2018, arXiv:1801.01290, §5.
    """
    subject, observations = randomised(), random(4, 3)
    first, second = (subject.act(observations, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    laws.assert_same(first, second)
    laws.assert_close(first, drawn(subject, observations, 7)[0].detach())
    laws.assert_close(subject.act(observations, explore=False), subject.policy.best(observations).detach())
    assert not first.requires_grad, "expected actions without a graph"


@pytest.mark.states("cost")
def test_policy_and_values_are_three_products_each():
    """A state costs 2 (o h + h² + 2 h d) operations of the policy, and both values 4 ((o + d) h + h² + h).

    Source: Haarnoja et al. 2018, arXiv:1801.01290, appendix D: two hidden layers.
    """
    found = cost.flops(policy(), random(1, 3)), cost.flops(pair(), random(1, 3), random(1, 2))
    expected = 2 * (12 + 16 + 16), 4 * (20 + 16 + 4)
    assert found == expected, f"expected {expected} operations, found {found}"
