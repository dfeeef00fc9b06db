"""Properties of double dueling DQN.  Mnih et al. 2015; van Hasselt et al. 2015, arXiv:1509.06461; Wang et al. 2015."""

import pytest
import torch
from hypothesis import given

from impl.models.dqn import DQNAgent, double_q_target, epsilon_schedule, huber_loss
from spec import cost, laws
from spec.cases.dqn import agent, batch, network
from spec.laws import double, random
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("double-dueling-dqn")


def randomised(**options):
    """An agent whose networks are random and differ from one another."""
    found = agent(**options)
    for k, part in enumerate((found.q, found.target_q)):
        for name, parameter in part.named_parameters():
            parameter.data.copy_(random(*parameter.shape, seed=100 * k + len(name)) / 2)
    return found


def parameters_of(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


# ---------------------------------------------------------------------------------------------- the network


@given(seed=seeds(), n=sizes(1, 3))
def test_value_is_the_mean_over_the_actions(seed, n):
    """mean_a Q(s, a) = V(s), and Q(s, a) − Q(s, a′) = A(s, a) − A(s, a′), each state by itself.

    Source: Wang et al. 2015, eq. 9.
    """
    module, x = laws.randomise(network().double(), seed), double(n, 3, seed=seed)
    features = module.features(x).relu()
    value, advantage = module.value(features), module.advantage(features)
    found = module(x)
    laws.assert_close(found.mean(1), value[:, 0])
    laws.assert_close(found - found[:, :1], advantage - advantage[:, :1])


@pytest.mark.states("symmetry")
@given(seed=seeds(), shift=floats(-5, 5))
def test_a_constant_in_all_advantages_changes_nothing(seed, shift):
    """With a constant added to every advantage Q is the same, and its gradient to such a constant is 0.

    Source: Wang et al. 2015, §3: identifiability.
    """
    module, x = laws.randomise(network().double(), seed), double(2, 3, seed=seed)
    before, state = module(x), module.state_dict()
    (gradient,) = torch.autograd.grad((before * double(2, 4, seed=1)).sum(), module.advantage.layers[1].bias)
    laws.assert_close(gradient.sum(), torch.tensor(0.0).double(), atol=1e-9, because="a sum of four")
    state["advantage.layers.1.bias"] = state["advantage.layers.1.bias"] + shift
    module.load_state_dict(state)
    laws.assert_close(module(x), before)


@pytest.mark.states("gradient routing")
def test_one_value_trains_both_streams():
    """Q of one action depends on every parameter of the value and of the advantage, and on the features.

    Source: Wang et al. 2015, §3: the value stream is updated with every update of Q.
    """
    module = laws.randomise(network().double())
    laws.gradient_reaches(module(double(3, 3))[:, 1].sum(), dict(module.named_parameters()))


def test_rescaling_changes_the_gradient_of_the_features_alone():
    """With rescale=True values are the same, gradients to both streams too, those to the features 1/√2 of theirs.

    Source: Wang et al. 2015, §4.2.
    """
    plain, scaled, x = laws.randomise(network().double()), network(rescale=True).double(), double(3, 3)
    scaled.load_state_dict(plain.state_dict())
    laws.assert_close(scaled(x), plain(x))
    pairs = zip(dict(plain.named_parameters()), *(_gradients(m, x) for m in (plain, scaled)), strict=True)
    for name, expected, found in pairs:
        laws.assert_close(found, expected * (2**-0.5 if "features" in name else 1.0), what=name)


def _gradients(module, x):
    return torch.autograd.grad(module(x).square().sum(), list(module.parameters()))


# ---------------------------------------------------------------------------------------------- targets


@pytest.mark.states("equivalence")
@given(n=sizes(1, 4), actions=sizes(1, 4), gamma=floats(0, 1), seed=seeds())
def test_one_network_chooses_and_the_other_values(n, actions, gamma, seed):
    """y = r + γ Q̄(s′, argmax_a Q(s′, a)); r alone where the step terminated; between equals the first action.

    Source: van Hasselt et al. 2015, eq. 4.
    """
    rewards, choosing, valuing = (
        double(n, seed=seed),
        double(n, actions, seed=seed + 1),
        double(n, actions, seed=seed + 2),
    )
    choosing = (2 * choosing).round()  # so that there are equals
    terminated = double(n, seed=seed + 3) > 0.3
    found = double_q_target(rewards, choosing, valuing, terminated, gamma)
    for k in range(n):
        best = max(range(actions), key=lambda a: (choosing[k, a].item(), -a))
        expected = rewards[k] + (0.0 if terminated[k] else gamma * valuing[k, best])
        laws.assert_close(found[k], expected, what=f"target {k}")


def test_targets_of_the_papers_example():
    """Q = [1, 2] and Q̄ = [10, 5] at r = 1, γ = 0.9 give 5.5; exchanged 1.9; Q̄ alone 10; a terminated step 1.

    Source: van Hasselt et al. 2015, eq. 2 to 4, in numbers.
    """
    learns, copy = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[10.0, 5.0]]).double()
    reward, no = torch.ones(1).double(), torch.tensor([False])
    for chosen, valued, expected in ((learns, copy, 5.5), (copy, learns, 1.9), (copy, copy, 10.0)):
        laws.assert_close(
            double_q_target(reward, chosen, valued, no, 0.9), torch.tensor([expected], dtype=torch.float64)
        )
    laws.assert_close(double_q_target(reward, learns, copy, ~no, 0.9), reward)


def test_targets_are_outside_of_the_graph():
    """Values that require gradients give targets that do not.

    Source: Mnih et al. 2015, Methods: the target's parameters are held fixed.
    """
    values = double(4, 3).requires_grad_()
    found = double_q_target(double(4), values, values, torch.zeros(4, dtype=torch.bool), 0.9)
    assert not found.requires_grad, "expected targets without a graph"


def test_single_estimates_are_too_high_and_double_ones_are_not():
    """Where all of m actions are worth 0 and errors are U(−1, 1), the largest is (m − 1)/(m + 1) too high on average.

    With another network's errors at the chosen action the mean is 0: within 0.02 over 20,000 states.

    Source: van Hasselt et al. 2015, theorem 1 and figure 1: 1/3, 0.6, 0.818 for m = 2, 4, 10.
    """
    generator = torch.Generator().manual_seed(0)
    zero, no = torch.zeros(20000, dtype=torch.float64), torch.zeros(20000, dtype=torch.bool)
    for m in (2, 4, 10):
        one, other = (2 * torch.rand(20000, m, generator=generator, dtype=torch.float64) - 1 for _ in range(2))
        single = double_q_target(zero, one, one, no, 1.0).mean()
        both = double_q_target(zero, one, other, no, 1.0).mean()
        assert abs(single - (m - 1) / (m + 1)) < 0.02, f"expected {(m - 1) / (m + 1):.3f} too high, found {single:.3f}"
        assert abs(both) < 0.02, f"expected no bias, found {both:.3f}"


# ---------------------------------------------------------------------------------------------- the loss


@given(errors=floats(-4, 4))
def test_errors_are_squared_up_to_one(errors):
    """h(x) = x²/2 for |x| <= 1 and |x| − ½ beyond; its derivative is x, held at ±1.

    Source: Mnih et al. 2015, Methods: the error term is clipped to be between −1 and 1.
    """
    x = torch.tensor([errors], dtype=torch.float64, requires_grad=True)
    expected = errors**2 / 2 if abs(errors) <= 1 else abs(errors) - 0.5
    found = huber_loss(x)
    laws.assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64))
    laws.assert_close(torch.autograd.grad(found, x)[0], x.detach().clamp(-1, 1))


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient equals central differences, away from ±1.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(huber_loss, torch.tensor([-2.3, -0.4, 0.7, 1.9]).double(), second_order=True)


@pytest.mark.parametrize("is_double", [True, False])
def test_loss_of_a_batch_is_the_mean_of_its_errors(is_double):
    """L = mean h(Q(s, a) − y), with the target network's own choice where double=False.

    Source: van Hasselt et al. 2015, eq. 2 and 4; Mnih et al. 2015, algorithm 1.
    """
    subject = randomised(gamma=0.8, double=is_double)
    observations, actions, rewards, following, terminated = batch(40)
    total = 0.0
    for k in range(40):
        learns, copy = subject.q(following[k : k + 1])[0], subject.target_q(following[k : k + 1])[0]
        best = (learns if is_double else copy).argmax()
        y = rewards[k] + (0.0 if terminated[k] else 0.8 * copy[best])
        error = abs((subject.q(observations[k : k + 1])[0, actions[k]] - y).item())
        total += error**2 / 2 if error <= 1 else error - 0.5
    found = subject.loss((observations, actions, rewards, following, terminated))
    laws.assert_close(found.detach(), torch.tensor(total / 40), rtol=1e-4, because="float32")


@pytest.mark.states("dependence")
def test_a_sample_trains_the_value_of_its_own_action():
    """The gradient of the loss to Q(s, a) is 0 for every action that was not taken, and so is that to what comes next.

    Source: Mnih et al. 2015, eq. 3: the target is not differentiated.
    """

    class Table(torch.nn.Module):
        """Values that are the observations themselves, times a weight of 1."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, observations):
            return self.weight * observations

    subject = DQNAgent(Table())
    observations, following = (random(5, 3, seed=k).requires_grad_() for k in range(2))
    actions = torch.tensor([2, 0, 1, 1, 2])
    loss = subject.loss((observations, actions, random(5, seed=2), following, torch.zeros(5, dtype=torch.bool)))
    found, after = torch.autograd.grad(loss, (observations, following), allow_unused=True)
    taken = torch.nn.functional.one_hot(actions, 3).bool()
    assert after is None or not after.any(), "expected no gradient to the next observations"
    assert (found[taken] != 0).all() and not found[~taken].any(), f"expected gradients at {actions}, found {found}"


# ---------------------------------------------------------------------------------------------- the agent


def test_a_step_follows_the_gradient_and_clips_it():
    """The gradient of a step is that of L; one of a larger norm than the maximum has that norm.

    Source: Wang et al. 2015, §4.2: clipping the norm to 10.
    """
    for most in (1e9, 0.01):
        subject, given_batch, found = randomised(max_grad_norm=most), batch(), []
        parameters = list(subject.q.parameters())
        wanted = torch.cat([g.flatten() for g in torch.autograd.grad(subject.loss(given_batch), parameters)])
        subject.optimizer.register_step_pre_hook(
            lambda *_, p=parameters, f=found: f.append(torch.cat([x.grad.flatten() for x in p]).clone())
        )
        loss = subject.loss(given_batch).item()
        assert abs(subject.update(given_batch) - loss) < 1e-6, "expected the loss before the step"
        assert wanted.norm() > 0.1, f"expected a gradient to clip, found {wanted.norm()}"
        expected = wanted * min(1.0, most / wanted.norm().item())
        laws.assert_close(found[0], expected, rtol=1e-3, because="1e-6 is added to the norm")


@given(every=sizes(1, 4), updates=sizes(1, 9))
def test_target_is_copied_every_c_updates(every, updates):
    """The target is Q as it was after the last multiple of C updates; before the first it is the Q that was given.

    Source: Mnih et al. 2015, algorithm 1: every C steps reset Q̂ = Q.
    """
    subject = agent(target_every=every, lr=0.1)
    copies = [parameters_of(subject.q)]
    for _ in range(updates):
        subject.update(batch())
        copies.append(parameters_of(subject.q))
    expected = copies[updates // every * every]
    for name, value in parameters_of(subject.target_q).items():
        laws.assert_same(value, expected[name], name)
    assert not any(p.requires_grad for p in subject.target_q.parameters()), "expected a target that is not learned"


def test_a_copy_may_go_a_part_of_the_way():
    """With τ a copy has (1 − τ) of the old target and τ of Q.

    Source: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1.
    """
    subject = randomised(tau=0.25, target_every=1, lr=0.0)
    before, q = parameters_of(subject.target_q), parameters_of(subject.q)
    subject.update(batch())
    for name, value in parameters_of(subject.target_q).items():
        laws.assert_close(value, 0.75 * before[name] + 0.25 * q[name], what=name)


@pytest.mark.states("limiting case")
def test_exploration_is_uniform_over_all_actions():
    """At ε = 0 the best action is done; at ε = 1 each of four a quarter of the time; at 0.4 the best 0.7 of it.

    Source: Mnih et al. 2015, algorithm 1: with probability ε a random action.
    """
    subject = randomised()
    observations = random(1, 3).expand(8000, 3)
    best = subject.q(observations[:1]).argmax().item()
    generator = torch.Generator().manual_seed(0)
    assert set(subject.act(observations, 0.0, generator).tolist()) == {best}, "expected the best action"
    for epsilon in (0.4, 1.0):
        shares = torch.bincount(subject.act(observations, epsilon, generator), minlength=4) / 8000
        expected = torch.full((4,), epsilon / 4)
        expected[best] += 1 - epsilon
        assert (shares - expected).abs().max() < 0.02, f"expected {expected}, found {shares}"


def test_each_observation_explores_by_itself():
    """In a batch at ε = 0.5 some observations explore and others do not; a seed repeats the actions.

    Source: Mnih et al. 2015, algorithm 1.
    """
    subject, observations = randomised(), random(64, 3)
    best = subject.q(observations).argmax(1)
    first, second = (subject.act(observations, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    laws.assert_same(first, second)
    assert 16 < int((first == best).sum()) < 60, f"expected about 40 best actions of 64, found {(first == best).sum()}"


@given(steps=sizes(1, 50), first=floats(0, 1), last=floats(0, 1))
def test_exploration_falls_in_equal_parts(steps, first, last):
    """ε goes from the first at step 0 to the last at `steps`, in equal parts, and stays.

    Source: Mnih et al. 2015, Methods: annealed linearly, and fixed thereafter.
    """
    found = [epsilon_schedule(k, steps, first, last) for k in range(steps + 3)]
    for k, epsilon in enumerate(found):
        expected = first + (last - first) * min(k, steps) / steps
        assert abs(epsilon - expected) < 1e-9, f"expected {expected} at step {k}, found {epsilon}"


@pytest.mark.states("cost")
def test_two_streams_share_their_features():
    """A state costs 2 (o h + 2 h² + h + h a) operations: the features once, and a hidden layer for each stream.

    Source: Wang et al. 2015, figure 1.
    """
    found = cost.flops(network(), random(1, 3))
    assert found == 2 * (15 + 50 + 5 + 20), f"expected 180 operations, found {found}"
