"""Properties of WGAN-GP.  Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville 2017, arXiv:1704.00028."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.wgan_gp import WGANGP, gradient_penalty
from spec import cost, laws
from spec.cases.wgan_gp import critic, model
from spec.laws import double, random
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("wgan-gp")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorded(nn.Module):
    """D(x) = ½ ‖x‖², whose gradient at x is x itself, and what it was called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x.flatten(1).square().sum(1) / 2


@pytest.mark.states("limiting case")
@given(weight=st.lists(floats(-3, 3), min_size=3, max_size=3), seed=seeds())
def test_a_linear_critic_has_one_slope_everywhere(weight, seed):
    """D(x) = w·x has the penalty (‖w‖ − 1)² whatever the samples and ε, and the gradient 2 (‖w‖ − 1) w/‖w‖ to w.

    Source: Gulrajani et al. 2017, eq. 3.
    """
    w = torch.tensor(weight, dtype=torch.float64)
    w = (w + 0.1 if w.norm() < 1e-3 else w).requires_grad_()
    found = gradient_penalty(lambda x: x @ w, double(4, 3, seed=seed), double(4, 3, seed=seed + 1))
    length = w.detach().norm()
    laws.assert_close(found, (length - 1).square())
    (gradient,) = torch.autograd.grad(found, w)
    laws.assert_close(gradient, 2 * (length - 1) * w.detach() / length)


def test_the_norm_is_over_all_dimensions_of_a_sample():
    """For D(x) = Σ x of images (2, 3, 4) the slope is √24: the penalty is (√24 − 1)², for outputs (n,) and (n, 1).

    Source: Gulrajani et al. 2017, eq. 3: ‖·‖₂ of the gradient with respect to an image.
    """
    expected = torch.tensor((math.sqrt(24) - 1) ** 2, dtype=torch.float64)
    real, fake = double(5, 2, 3, 4), double(5, 2, 3, 4, seed=1)
    laws.assert_close(gradient_penalty(lambda x: x.flatten(1).sum(1), real, fake), expected)
    laws.assert_close(gradient_penalty(lambda x: x.flatten(1).sum(1, keepdim=True), real, fake), expected)


@pytest.mark.states("equivalence")
@given(n=sizes(1, 4), seed=seeds())
def test_points_lie_between_real_and_fake_with_one_epsilon_each(n, seed):
    """x̂ = ε x + (1 − ε) x̃ with one ε in [0, 1] for all elements of a sample, another for each sample.

    With D(x) = ½ ‖x‖² the slope at x̂ is ‖x̂‖: the penalty is the mean of (‖x̂‖ − 1)².

    Source: Gulrajani et al. 2017, algorithm 1, lines 4-7.
    """
    real, fake, recorded = double(n, 2, 3, seed=seed), double(n, 2, 3, seed=seed + 1), Recorded()
    found = gradient_penalty(recorded, real, fake, seeded(seed))
    (between,) = recorded.seen
    epsilon = ((between - fake) / (real - fake)).flatten(1)
    laws.assert_close(epsilon, epsilon[:, :1].expand_as(epsilon), rtol=1e-8, because="a quotient of differences")
    assert (epsilon >= -1e-9).all() and (epsilon <= 1 + 1e-9).all(), f"expected ε in [0, 1], found {epsilon}"
    assert n == 1 or epsilon[:, 0].std() > 1e-6, f"expected another ε for each sample, found {epsilon[:, 0]}"
    laws.assert_close(found, (between.flatten(1).norm(dim=1) - 1).square().mean())


def test_epsilon_is_uniform():
    """Over 20,000 samples ε has the mean ½, the variance 1/12 and every tenth of [0, 1] a tenth of them.

    Bounds are 5 standard errors: a false alarm in 1 of 200,000 runs, and the seed is fixed.

    Source: Gulrajani et al. 2017, algorithm 1: ε ~ U[0, 1].
    """
    recorded, n = Recorded(), 20_000
    gradient_penalty(recorded, torch.ones(n, 1).double(), torch.zeros(n, 1).double(), seeded())
    epsilon = recorded.seen[0].flatten()
    assert abs(epsilon.mean() - 1 / 2) < 0.0103 and abs(epsilon.var() - 1 / 12) < 0.0027, f"found {epsilon}"
    share = torch.histc(epsilon, 10, 0, 1) / n
    assert (share - 0.1).abs().max() < 0.0107, f"expected a tenth in every tenth, found {share}"


def test_slopes_below_one_are_punished_too():
    """A constant critic has the penalty 1, a slope of ½ has ¼: the penalty is two-sided.

    The gradient at slope 0 is finite.

    Source: Gulrajani et al. 2017, §4: "we encourage the norm of the gradient to go towards 1 (two-sided penalty)".
    """
    real, fake = double(3, 1), double(3, 1, seed=1)
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found = gradient_penalty(lambda x: scale * x, real, fake)
    laws.assert_close(found, torch.ones((), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found, scale)
    assert gradient.isfinite(), f"expected a finite gradient, found {gradient}"
    laws.assert_close(gradient_penalty(lambda x: x / 2, real, fake), torch.tensor(0.25).double())


@pytest.mark.states("second derivative")
def test_the_penalty_trains_the_critic_through_its_gradient():
    """The penalty's gradient to the critic's parameters equals central differences: it goes through ∇_x̂ D.

    Source: Gulrajani et al. 2017, eq. 3: a second derivative of D.
    """
    network = critic().double()
    real, fake = double(2, 12), double(2, 12, seed=1)
    names, weights = zip(*((name, p.detach().clone().requires_grad_()) for name, p in network.named_parameters()))

    def penalty(*values):
        state = dict(zip(names, values))
        call = lambda x: torch.func.functional_call(network, state, (x,))  # noqa: E731
        return gradient_penalty(call, real, fake, seeded())

    assert torch.autograd.gradcheck(penalty, weights, eps=1e-6, atol=1e-6, rtol=1e-4)


@given(seed=seeds())
def test_each_sample_has_its_own_penalty(seed):
    """The penalty of a batch is the mean of those of its samples one by one, at the same points.

    Source: Gulrajani et al. 2017, §4: the penalty is for each input by itself.
    """
    network, points = critic().double(), double(4, 12, seed=seed)
    single = [gradient_penalty(network, x[None], x[None]) for x in points]  # real = fake: x̂ = x for every ε
    laws.assert_close(gradient_penalty(network, points, points), torch.stack(single).mean())


@pytest.mark.states("symmetry")
@given(seed=seeds(), shift=floats(-5, 5))
def test_a_constant_added_to_the_critic_changes_nothing(seed, shift):
    """L_D is that of D + c; the part without penalty changes its sign when real and fake change places.

    Source: Gulrajani et al. 2017, eq. 3.
    """
    gan = model(penalty_weight=0.0).double()
    real, fake = double(3, 3, 4, seed=seed), double(3, 3, 4, seed=seed + 1)
    plain = gan.critic_loss(real, fake)
    laws.assert_close(gan.critic_loss(fake, real), -plain)
    penalised = model(penalty_weight=2.0).double()
    before = penalised.critic_loss(real, fake, seeded(seed))
    penalised.critic[3].bias.data.add_(shift)
    laws.assert_close(penalised.critic_loss(real, fake, seeded(seed)), before)


@given(seed=seeds(), weight=floats(0, 20))
def test_critic_loss_is_equation_three(seed, weight):
    """L_D = mean D(x̃) − mean D(x) + λ · penalty, in evaluation and in training alike.

    Source: Gulrajani et al. 2017, eq. 3: D is large on data.
    """
    gan = model(penalty_weight=weight).double()
    real, fake = double(3, 3, 4, seed=seed), double(3, 3, 4, seed=seed + 1)
    expected = gan.critic(fake).mean() - gan.critic(real).mean()
    expected = expected + weight * gradient_penalty(gan.critic, real, fake, seeded(seed))
    for mode in (True, False):
        laws.assert_close(gan.train(mode).critic_loss(real, fake, seeded(seed)), expected)


def test_generator_loss_is_minus_the_critics_mean():
    """L_G = −mean D(x̃): no logarithm, no sigmoid.

    Source: Gulrajani et al. 2017, algorithm 1, last line.
    """
    gan, fake = model().double(), double(4, 3, 4)
    laws.assert_close(gan.generator_loss(fake), -gan.critic(fake).mean())


@pytest.mark.states("gradient routing")
def test_each_loss_trains_its_own_network():
    """L_D reaches the critic and not the generator that made the samples; L_G reaches the generator.

    Source: Gulrajani et al. 2017, algorithm 1.
    """
    gan = model().double()
    of_critic = {f"critic.{n}": p for n, p in gan.critic.named_parameters() if n != "3.bias"}
    of_generator = {f"generator.{n}": p for n, p in gan.generator.named_parameters()}
    fake = gan.sample(3, seeded())
    laws.gradient_reaches(gan.critic_loss(double(3, 3, 4), fake, seeded()), of_critic, of_generator)
    laws.gradient_reaches(gan.generator_loss(gan.sample(3, seeded())), of_generator)


@pytest.mark.states("dependence")
def test_the_penalty_has_no_gradient_to_samples():
    """Real and fake samples get no gradient from the penalty, nor do what they were made from.

    Source: Gulrajani et al. 2017, algorithm 1: x̂ is a sample.
    """
    real, fake = (double(3, 12, seed=s).requires_grad_() for s in (0, 1))
    network = critic().double()
    found = gradient_penalty(network, 2 * real, 3 * fake, seeded())
    laws.gradient_reaches(found, {"w": network[1].weight}, {"real": real, "fake": fake})


def test_the_penalty_has_a_value_without_gradients():
    """Under no_grad, in an evaluation, the penalty has the value that it has in training.

    Source: this project: a value does not depend on whether gradients are recorded.
    """
    network, real, fake = critic().double(), double(3, 12), double(3, 12, seed=1)
    expected = gradient_penalty(network, real, fake, seeded()).detach()
    with torch.no_grad():
        found = gradient_penalty(network, real, fake, seeded())
    laws.assert_close(found, expected)
    assert not found.requires_grad, "expected no graph under no_grad"


def test_half_precision_has_a_slope_in_float32():
    """bfloat16 samples and a critic in bfloat16 whose slope is 512 have the penalty 511² to two digits, in float32.

    Source: this project: reductions of half precision in float32 or wider; 1024 numbers of slope 16.
    """
    real, fake = torch.ones(2, 1024).bfloat16(), torch.zeros(2, 1024).bfloat16()
    found = gradient_penalty(lambda x: (16 * x).sum(1), real, fake)
    assert found.dtype == torch.float32, f"expected float32, found {found.dtype}"
    laws.assert_close(found, torch.tensor(511.0**2), rtol=1e-5, because="float32")


# ---------------------------------------------------------------------------------------------- training


class Counting(torch.optim.SGD):
    """Gradient descent that counts its steps and notes where the parameters were."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.steps = 0

    def step(self):
        self.steps += 1
        return super().step()


def optimizers(gan):
    return Counting(gan.critic.parameters()), Counting(gan.generator.parameters())


def batches(count):
    return [double(3, 3, 4, seed=10 + s) for s in range(count)]


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_critic_takes_a_step_for_each_batch_and_the_generator_one(n_critic):
    """A training step is n_critic steps of D and one of G.

    Source: Gulrajani et al. 2017, algorithm 1: n_critic = 5 by default.
    """
    gan = model().double()
    of_critic, of_generator = optimizers(gan)
    gan.train_step(batches(n_critic), of_critic, of_generator, seeded())
    assert (of_critic.steps, of_generator.steps) == (n_critic, 1), f"found {of_critic.steps}, {of_generator.steps}"


def test_a_training_step_is_algorithm_one():
    """Each step of D is along ∇L_D of its batch and fresh samples, that of G along ∇L_G; both losses come back.

    Source: Gulrajani et al. 2017, algorithm 1, with gradient descent for Adam.
    """
    gan, plain = model(penalty_weight=3.0).double(), model(penalty_weight=3.0).double()
    data, draws = batches(2), seeded(5)
    found = gan.train_step(data, *optimizers(gan), seeded(5))
    for real in data:
        fake = plain.sample(3, draws).detach()
        loss = plain.critic_loss(real, fake, draws)
        expected_critic = loss.item()
        _descend(loss, plain.critic)
    loss = plain.generator_loss(plain.sample(3, draws))
    _descend(loss, plain.generator)
    laws.assert_all_close(dict(gan.state_dict()), dict(plain.state_dict()))
    laws.assert_close(torch.tensor(found).double(), torch.tensor([expected_critic, loss.item()]).double())


def _descend(loss, network):
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            parameter -= 0.1 * gradient


def test_gradients_of_one_network_do_not_pile_up_in_the_other():
    """Steps of G leave no gradient in D that the next step of D would take along, and gradients do not add up.

    Two training steps with one batch each equal the same steps from copies whose gradients were cleared in between.

    Source: Gulrajani et al. 2017, algorithm 1.
    """
    gan = model().double()
    of_critic, of_generator = optimizers(gan)
    cleared = copy.deepcopy(gan)
    others = optimizers(cleared)
    first, second = batches(2)
    gan.train_step([first], of_critic, of_generator, seeded(1))
    gan.train_step([second], of_critic, of_generator, seeded(2))
    cleared.train_step([first], *others, seeded(1))
    cleared.zero_grad(set_to_none=True)
    cleared.train_step([second], *others, seeded(2))
    laws.assert_all_close(dict(gan.state_dict()), dict(cleared.state_dict()))


def test_samples_are_the_generator_of_normal_noise():
    """sample(n) is G(z) for z of n × latent_dim standard normal numbers, repeatable by the generator.

    10,000 numbers through an identity: mean within 0.05 and variance within 0.07, 5 standard errors.

    Source: Gulrajani et al. 2017, §5: z ~ N(0, I).
    """
    gan = WGANGP(nn.Identity(), nn.Linear(4, 1), 4)
    found = gan.sample(2500, seeded())
    assert found.shape == (2500, 4), f"expected (2500, 4), found {tuple(found.shape)}"
    assert abs(found.mean()) < 0.05 and abs(found.var() - 1) < 0.07, f"found {found.mean()} and {found.var()}"
    laws.assert_same(gan.sample(2500, seeded()), found)


@pytest.mark.states("cost")
def test_a_penalty_runs_the_critic_once_forward_and_once_back():
    """The penalty of a linear critic of 12 inputs takes 2·12·n operations forward and 2·12·n for the gradient.

    Source: Gulrajani et al. 2017, §4: one more backward pass.
    """
    weight = random(12, 1, seed=2).requires_grad_()
    found = cost.flops(lambda r, f: gradient_penalty(lambda x: x @ weight, r, f), random(3, 12), random(3, 12, seed=1))
    assert found == 2 * (2 * 12 * 3), f"expected 144 operations, found {found}"
