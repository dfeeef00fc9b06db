"""Properties of PPO.  Schulman et al. 2017, arXiv:1707.06347; Schulman et al. 2015, arXiv:1506.02438."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.models.ppo import (
    PPOAgent,
    Rollout,
    clipped_surrogate_loss,
    clipped_value_loss,
    generalized_advantage_estimate,
)
from spec import laws
from spec.cases.ppo import Scripted, actor_critic, agent
from spec.laws import double, random
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("ppo")


def flags(*shape, seed, share):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def by_sums(rewards, values, next_values, terminated, truncated, gamma, lam):
    """Â_t = Σ_l (γλ)^l δ_{t+l} to the end of the episode, or of what is known of it."""
    steps, count = rewards.shape
    found = torch.zeros_like(rewards)
    for n in range(count):
        for t in range(steps):
            for k in range(t, steps):
                future = 0.0 if terminated[k, n] else gamma * next_values[k, n]
                found[t, n] += (gamma * lam) ** (k - t) * (rewards[k, n] + future - values[k, n])
                if terminated[k, n] or truncated[k, n]:
                    break
    return found


# ---------------------------------------------------------------------------------------------- advantages


@pytest.mark.states("equivalence")
@given(steps=sizes(1, 6), n=sizes(1, 3), gamma=floats(0, 1), lam=floats(0, 1), seed=seeds())
def test_advantage_is_the_discounted_sum_of_errors(steps, n, gamma, lam, seed):
    """Â_t = Σ_l (γλ)^l δ_{t+l} up to the end of the episode, with no future in δ where it terminated.

    Source: Schulman et al. 2015, eq. 16.
    """
    parts = [double(steps, n, seed=seed + k) for k in range(3)]
    ends = flags(steps, n, seed=seed, share=0.3), flags(steps, n, seed=seed + 1, share=0.3)
    found = generalized_advantage_estimate(*parts, *ends, gamma, lam)
    laws.assert_close(found, by_sums(*parts, *ends, gamma, lam))


@pytest.mark.states("limiting case")
@given(steps=sizes(1, 6), gamma=floats(0, 1), seed=seeds())
def test_lambda_goes_from_one_step_to_the_return(steps, gamma, seed):
    """λ = 0 gives δ_t; λ = 1 the discounted rewards and the last value, less V(s_t), for values of one path.

    Source: Schulman et al. 2015, eq. 17 and 18.
    """
    rewards, path = double(steps, 2, seed=seed), double(steps + 1, 2, seed=seed + 1)
    no = torch.zeros(steps, 2, dtype=torch.bool)
    parts = rewards, path[:-1], path[1:], no, no, gamma
    laws.assert_close(generalized_advantage_estimate(*parts, 0.0), rewards + gamma * path[1:] - path[:-1])
    expected = torch.zeros_like(rewards)
    for t in range(steps):
        expected[t] = gamma ** (steps - t) * path[-1] - path[t]
        for k in range(t, steps):
            expected[t] += gamma ** (k - t) * rewards[k]
    laws.assert_close(generalized_advantage_estimate(*parts, 1.0), expected)


def test_termination_has_no_future_and_truncation_has_one():
    """δ = r − V(s) where the episode terminated, and r + γ V(s′) − V(s) where it was truncated or goes on.

    Source: Schulman et al. 2015, eq. 10; Pardo et al. 2017, arXiv:1712.00378, on time limits.
    """
    reward, value, after = (double(1, 1, seed=k) for k in range(3))
    for ended, cut, future in ((1, 0, 0.0), (0, 1, 0.9), (0, 0, 0.9), (1, 1, 0.0)):
        ends = torch.tensor([[ended]]) > 0, torch.tensor([[cut]]) > 0
        found = generalized_advantage_estimate(reward, value, after, *ends, 0.9, 0.7)
        laws.assert_close(found, reward + future * after - value, what=f"terminated {ended}, truncated {cut}")


@pytest.mark.parametrize("which", ["terminated", "truncated"])
def test_nothing_comes_back_over_the_end_of_an_episode(which):
    """Advantages up to an end do not depend on what comes after it, and those after not on what was before.

    Source: Schulman et al. 2015, eq. 16: a sum along one episode.
    """
    ends = {"terminated": torch.zeros(6, 2, dtype=torch.bool), "truncated": torch.zeros(6, 2, dtype=torch.bool)}
    ends[which][2] = True
    parts = [double(6, 2, seed=k) for k in range(3)]
    found = generalized_advantage_estimate(*parts, **ends, gamma=0.9, lam=0.8)
    for rows, same in ((slice(3, 6), slice(0, 3)), (slice(0, 3), slice(3, 6))):
        other = [part.clone() for part in parts]
        for part in other:
            part[rows] += 7
        changed = generalized_advantage_estimate(*other, **ends, gamma=0.9, lam=0.8)
        laws.assert_same(changed[same], found[same])
        laws.assert_differs(changed[rows], found[rows], by=0.1)


def test_a_rollout_that_stops_midway_counts_what_comes_by_its_value():
    """At the last step of a rollout Â = δ; the second half of a rollout has the same advantages by itself.

    Source: Schulman et al. 2017, eq. 11: segments of T steps, V(s_T) for what comes.
    """
    parts, no = [double(6, 2, seed=k) for k in range(3)], torch.zeros(6, 2, dtype=torch.bool)
    whole = generalized_advantage_estimate(*parts, no, no, 0.9, 0.8)
    half = generalized_advantage_estimate(*(part[3:] for part in parts), no[3:], no[3:], 0.9, 0.8)
    laws.assert_close(half, whole[3:])
    laws.assert_close(whole[5], parts[0][5] + 0.9 * parts[2][5] - parts[1][5])


@pytest.mark.states("gradient routing")
def test_advantages_are_outside_of_the_graph():
    """Values that require gradients give advantages that do not.

    Source: Schulman et al. 2017, eq. 7: Â is an estimate, of which nothing is differentiated.
    """
    rewards, no = double(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    values = double(3, 2, seed=1).requires_grad_()
    found = generalized_advantage_estimate(rewards, values, values.roll(-1, 0), no, no, 0.9, 0.8)
    assert not found.requires_grad, "expected advantages without a graph"
    log_probs = double(6).requires_grad_()
    loss = clipped_surrogate_loss(log_probs, log_probs.detach(), found.flatten())
    laws.gradient_reaches(loss, {"log_probs": log_probs})


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.3, 1, 1.2), (0.7, 1, 0.7), (1.3, -1, -1.3), (0.7, -1, -0.8), (1.1, 1, 1.1), (0.9, -2, -1.8), (3.0, 0.5, 0.6)],
)
def test_surrogate_takes_the_worse_of_two(ratio, advantage, expected):
    """With ε = 0.2 a ratio pays at most 1.2 Â where Â > 0, and costs at least 0.8 |Â| where Â < 0.

    Source: Schulman et al. 2017, eq. 7 and figure 1.
    """
    old = torch.tensor([-1.7], dtype=torch.float64)
    new, advantages = old + math.log(ratio), torch.tensor([advantage], dtype=torch.float64)
    laws.assert_close(clipped_surrogate_loss(new, old, advantages, 0.2), torch.tensor(-expected, dtype=torch.float64))


@given(n=sizes(1, 5), clip=floats(0, 0.5), seed=seeds())
def test_surrogate_is_a_mean_of_samples_and_a_lower_bound(n, clip, seed):
    """L_π = −mean min(ρ Â, clip(ρ) Â), which is at least −mean ρ Â.

    Source: Schulman et al. 2017, eq. 7: a pessimistic bound.
    """
    new, old, advantages = (double(n, seed=seed + k) for k in range(3))
    total = 0.0
    for k in range(n):
        ratio = math.exp(new[k] - old[k])
        total += min(ratio * advantages[k], min(max(ratio, 1 - clip), 1 + clip) * advantages[k])
    found = clipped_surrogate_loss(new, old, advantages, clip)
    laws.assert_close(found, -total / n)
    assert found >= -((new - old).exp() * advantages).mean() - 1e-12, "expected a bound from below on the objective"


@given(seed=seeds())
def test_gradient_stops_where_the_policy_has_gone_far_enough(seed):
    """∂(−L_π)/∂ ln π is 0 where Â > 0 and ρ > 1 + ε, or Â < 0 and ρ < 1 − ε; else ρ Â over the number of samples.

    Source: Schulman et al. 2017, §3 and figure 1.
    """
    old, advantages = double(40, seed=seed), double(40, seed=seed + 1)
    new = (old + double(40, seed=seed + 2) / 2).requires_grad_()
    (found,) = torch.autograd.grad(-clipped_surrogate_loss(new, old, advantages, 0.2), new)
    ratio = (new - old).exp().detach()
    stopped = ((advantages > 0) & (ratio > 1.2)) | ((advantages < 0) & (ratio < 0.8))
    laws.assert_close(found, torch.where(stopped, 0.0, ratio * advantages) / 40)


@pytest.mark.states("symmetry")
@given(seed=seeds())
def test_first_step_is_the_policy_gradient(seed):
    """Where the policy is the one that acted, the gradient is −Â ∇ ln π, the mean over samples, in any order of them.

    Source: Schulman et al. 2017, eq. 1 and 6.
    """
    log_probs, advantages = double(5, seed=seed).requires_grad_(), double(5, seed=seed + 1)
    loss = clipped_surrogate_loss(log_probs, log_probs.detach(), advantages)
    laws.assert_close(loss.detach(), -advantages.mean())
    laws.assert_close(torch.autograd.grad(loss, log_probs)[0], -advantages / 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = clipped_surrogate_loss(log_probs[order], log_probs.detach()[order], advantages[order])
    laws.assert_close(shuffled, loss)


@given(n=sizes(1, 5), clip=floats(0, 1), seed=seeds())
def test_value_loss_is_half_the_mean_squared_error(n, clip, seed):
    """½ mean (V − R)²; with a clip the larger of it and that of V_old + clip(V − V_old, −ε, ε), sample by sample.

    Source: Schulman et al. 2017, eq. 9; the clip: the authors' code.
    """
    values, returns, old = (double(n, seed=seed + k) for k in range(3))
    plain, clipped = 0.0, 0.0
    for v, r, o in zip(values, returns, old):
        near = o + min(max(v - o, -clip), clip)
        plain, clipped = plain + (v - r) ** 2, clipped + max((v - r) ** 2, (near - r) ** 2)
    laws.assert_close(clipped_value_loss(values, returns, old), plain / n / 2)
    laws.assert_close(clipped_value_loss(values, returns, old, clip), clipped / n / 2)


@pytest.mark.states("second derivative")
def test_losses_have_second_derivatives():
    """The gradient of the gradient equals central differences.

    Source: the definition of the derivative.
    """
    old, advantages = double(4, seed=1) / 8, double(4, seed=2)
    laws.gradient_correct(lambda x: clipped_surrogate_loss(x, old, advantages), double(4) / 8, second_order=True)
    laws.gradient_correct(lambda x: clipped_value_loss(x, advantages, old, 0.3), double(4), second_order=True)


# ---------------------------------------------------------------------------------------------- the policy


def test_discrete_policy_is_a_distribution_that_is_sampled():
    """π sums to 1; 4,000 samples have its frequencies, the best action is its largest, its entropy −Σ π ln π.

    Source: Schulman et al. 2017, §5.
    """
    model = laws.randomise(actor_critic(actions=4).double())
    x = double(1, 3)
    log_p = torch.stack([model.log_prob_and_entropy(x, torch.tensor([a]))[0] for a in range(4)])[:, 0].detach()
    laws.assert_close(log_p.exp().sum(), torch.tensor(1.0).double())
    laws.assert_close(log_p - log_p[0], (model.policy(x)[0] - model.policy(x)[0, 0]).detach())
    entropy = model.log_prob_and_entropy(x, torch.tensor([2]))[1]
    laws.assert_close(entropy, -(log_p.exp() * log_p).sum()[None])
    drawn = model.sample(x.expand(4000, 3), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert (shares - log_p.exp()).abs().max() < 0.03, f"expected frequencies {log_p.exp()}, found {shares}"
    assert model.best(x).item() == log_p.argmax().item(), "expected the most probable action"


def test_continuous_policy_is_a_gaussian_of_independent_dimensions():
    """ln π sums the logarithms of normal densities N(μ(s), e^(2 log_std)); the entropy Σ (½ ln 2πe + log_std).

    Source: Schulman et al. 2017, §6.1.
    """
    model = laws.randomise(actor_critic(True).double())
    x, actions = double(5, 3), double(5, 2, seed=1)
    mean, std = model.policy(x).detach(), model.log_std.detach().exp()
    expected = torch.zeros(5, dtype=torch.float64)
    for n in range(5):
        for k in range(2):
            density = math.exp(-(((actions[n, k] - mean[n, k]) / std[k]) ** 2) / 2) / (std[k] * math.sqrt(2 * math.pi))
            expected[n] += math.log(density)
    log_p, entropy = model.log_prob_and_entropy(x, actions)
    laws.assert_close(log_p, expected)
    per_dimension = sum(0.5 * math.log(2 * math.pi * math.e * s**2) for s in std.tolist())
    laws.assert_close(entropy, torch.full((5,), per_dimension, dtype=torch.float64))
    laws.assert_close(model.best(x), mean)
    drawn = model.sample(x[:1].expand(4000, 3), torch.Generator().manual_seed(0))
    assert ((drawn.mean(0) - mean[0]) / std).abs().max() < 0.06, f"expected the mean {mean[0]}, found {drawn.mean(0)}"
    assert (drawn.std(0) / std - 1).abs().max() < 0.05, f"expected the standard deviation {std}, found {drawn.std(0)}"


@pytest.mark.states("dependence")
def test_policy_and_value_share_nothing():
    """The value depends on no parameter of the policy, and the policy on none of the value.

    Source: Schulman et al. 2017, §6.1: no parameters are shared.
    """
    model, x = laws.randomise(actor_critic().double()), double(2, 3)
    policy, value = (
        {name: p for name, p in model.named_parameters() if name.startswith(part)} for part in ("policy.", "value.")
    )
    laws.gradient_reaches(model(x).sum(), value, policy)
    laws.gradient_reaches(model.log_prob_and_entropy(x, torch.tensor([0, 1]))[0].sum(), policy, value)


def test_networks_begin_orthogonal():
    """Weights have orthonormal rows or columns times √2, the policy's last times 0.01 and the value's 1; biases are 0.

    Source: Schulman et al. 2017, the authors' code.
    """
    model = actor_critic(observations=5, hidden=8, actions=3)
    for network, gains in ((model.policy, (2**0.5, 2**0.5, 0.01)), (model.value, (2**0.5, 2**0.5, 1.0))):
        state = network.state_dict()
        weights = [w for name, w in state.items() if name.endswith("weight")]
        for weight, gain in zip(weights, gains, strict=True):
            w = weight.double() / gain
            product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            laws.assert_close(product, torch.eye(len(product)).double(), atol=1e-5, because="float32")
        for name, bias in state.items():
            assert not name.endswith("bias") or not bias.any(), f"expected {name} to be 0, found {bias}"


# ---------------------------------------------------------------------------------------------- the agent


def test_collected_steps_lead_to_their_own_last_state():
    """A row has observation, action, its probability, reward, both values; an end leads to its own last state.

    Source: Schulman et al. 2017, algorithm 1; gymnasium's autoreset in the same step, final_obs.
    """
    acting, world = agent(), Scripted()
    rollout, after = acting.collect(
        world, torch.tensor(world.observations()).float(), 5, torch.Generator().manual_seed(0)
    )
    steps = {0: [0, 1, 0, 1, 0], 1: [0, 1, 2, 0, 1]}
    episodes = {0: [0, 0, 1, 1, 2], 1: [0, 0, 0, 1, 1]}
    model = acting.actor_critic
    for n in range(2):
        for t in range(5):
            seen = torch.tensor([episodes[n][t], steps[n][t], n]).float()
            laws.assert_same(rollout.observations[t, n], seen, f"observation {t} of {n}")
            led_to = torch.tensor([episodes[n][t], steps[n][t] + 1, n]).float()
            laws.assert_close(rollout.next_values[t, n], model(led_to).detach(), what=f"next value {t} of {n}")
            laws.assert_close(rollout.values[t, n], model(seen).detach(), what=f"value {t} of {n}")
            assert rollout.rewards[t, n] == 10 * (n + 1) + steps[n][t] + 1, f"found reward {rollout.rewards[t, n]}"
            assert rollout.terminated[t, n].item() == (n == 0 and steps[n][t] == 1), f"found an end at {t} of {n}"
            assert rollout.truncated[t, n].item() == (n == 1 and steps[n][t] == 2), f"found a cut at {t} of {n}"
            assert rollout.actions[t, n] == world.actions[t][n], "expected the actions that were done"
    log_probs, _ = model.log_prob_and_entropy(rollout.observations, rollout.actions)
    laws.assert_close(rollout.log_probs, log_probs.detach())
    laws.assert_same(after, torch.tensor(world.observations()).float())
    assert not rollout.values.requires_grad, "expected a rollout without a graph"


def rollout_of(model, steps=4, n=3, seed=0, continuous=False):
    """Random experience of a policy, float32."""
    observations = random(steps, n, 3, seed=seed)
    actions = model.sample(observations, torch.Generator().manual_seed(seed))
    log_probs = model.log_prob_and_entropy(observations, actions)[0].detach() + random(steps, n, seed=seed + 1) / 5
    values, next_values = model(observations).detach(), random(steps, n, seed=seed + 2)
    ends = flags(steps, n, seed=seed, share=0.2), flags(steps, n, seed=seed + 1, share=0.2)
    return Rollout(
        observations, actions, log_probs, 3 * random(steps, n, seed=seed + 3), values + 0.3, next_values, *ends
    )


def gradients_at_steps(subject, rollout, **options):
    """The gradients of all parameters at each gradient step of an update."""
    found = []
    parameters = list(subject.actor_critic.parameters())
    subject.optimizer.register_step_pre_hook(
        lambda *_: found.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
    )
    subject.update(rollout, **options)
    return found


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("value_clip", [None, 0.1])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_gradient_step_descends_the_three_losses(continuous, value_clip, normalize):
    """The gradient is that of L_π + c₁ L_V − c₂ entropy, with normalized advantages if it is asked for.

    Source: Schulman et al. 2017, eq. 9; returns are Â + V_old, of the advantages before they are normalized.
    """
    options = {"gamma": 0.9, "lam": 0.7, "clip": 0.1, "value_weight": 0.4, "entropy_weight": 0.3, "epochs": 1}
    options |= {"value_clip": value_clip, "normalize_advantages": normalize, "max_grad_norm": 1e9, "minibatch_size": 12}
    subject = agent(continuous, **options)
    laws.randomise(subject.actor_critic)
    model, r = subject.actor_critic, rollout_of(subject.actor_critic, continuous=continuous)
    advantages = by_sums(r.rewards, r.values, r.next_values, r.terminated, r.truncated, 0.9, 0.7)
    log_probs, entropy = model.log_prob_and_entropy(r.observations, r.actions)
    scaled = (advantages - advantages.mean()) / advantages.std() if normalize else advantages
    ratio = (log_probs - r.log_probs).exp()
    policy = -torch.minimum(ratio * scaled, ratio.clamp(0.9, 1.1) * scaled).mean()
    returns, values = advantages + r.values, model(r.observations)
    errors = (values - returns) ** 2
    if value_clip:
        errors = torch.maximum(errors, (r.values + (values - r.values).clamp(-0.1, 0.1) - returns) ** 2)
    loss = policy + 0.4 * errors.mean() / 2 - 0.3 * entropy.mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    (found,) = gradients_at_steps(subject, r)
    laws.assert_close(found, expected, rtol=1e-4, atol=1e-5, because="float32, other orders of sums")


def test_large_gradients_are_scaled_down_together():
    """A gradient of a norm above the maximum has that norm and its direction; one below is left as it is.

    Source: the authors' code: clipping by the global norm of 0.5.
    """
    free, held, loose = (agent(epochs=1, minibatch_size=12, max_grad_norm=m) for m in (1e9, 0.01, 1e3))
    whole, scaled, same = (gradients_at_steps(a, rollout_of(a.actor_critic))[0] for a in (free, held, loose))
    assert whole.norm() > 0.1, f"expected a gradient to clip, found the norm {whole.norm()}"
    laws.assert_close(scaled, whole * 0.01 / whole.norm(), rtol=1e-3, because="1e-6 is added to the norm")
    laws.assert_close(same, whole)


class _Watching(nn.Module):
    """A policy that remembers which observations it is asked about with a gradient."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = actor_critic(), []

    def forward(self, observations):
        return self.inner(observations)

    def log_prob_and_entropy(self, observations, actions):
        if torch.is_grad_enabled():
            self.seen.append(observations[:, 0].tolist())
        return self.inner.log_prob_and_entropy(observations, actions)


def test_each_epoch_uses_every_sample_once_in_a_new_order():
    """12 samples in minibatches of 5 are 3 steps an epoch, of 5, 5 and 2 samples, in another order each epoch.

    Source: Schulman et al. 2017, algorithm 1: K epochs of minibatch SGD.
    """
    model = _Watching()
    subject, r = PPOAgent(model, epochs=3, minibatch_size=5), rollout_of(model.inner)
    subject.update(r, generator=torch.Generator().manual_seed(0))
    assert [len(part) for part in model.seen] == [5, 5, 2] * 3, f"found {[len(part) for part in model.seen]}"
    epochs = [sum(model.seen[k : k + 3], []) for k in (0, 3, 6)]
    samples = sorted(r.observations[:, :, 0].flatten().tolist())
    assert all(sorted(epoch) == samples for epoch in epochs), "expected every sample once an epoch"
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2], "expected another order in each epoch"


def test_learning_rate_is_the_share_that_remains():
    """update(remaining=0.25) steps with a quarter of the learning rate, the next call with its own share of it.

    Source: Schulman et al. 2017, table 3: annealed linearly.
    """
    subject = agent(lr=0.01, epochs=1)
    for remaining in (0.25, 1.0, 0.0):
        subject.update(rollout_of(subject.actor_critic), remaining)
        found = subject.optimizer.param_groups[0]["lr"]
        assert math.isclose(found, 0.01 * remaining), f"expected {0.01 * remaining}, found {found}"
    before = {k: v.clone() for k, v in subject.actor_critic.state_dict().items()}
    subject.update(rollout_of(subject.actor_critic), 0.0)
    for name, value in subject.actor_critic.state_dict().items():
        laws.assert_same(value, before[name], name)


def test_report_has_the_means_of_the_steps():
    """The report has both losses, the entropy and mean (ρ − 1 − ln ρ), each the mean over the gradient steps.

    Source: Schulman et al. 2017, eq. 9; the estimate of the divergence: Schulman 2020, "Approximating KL divergence".
    """
    subject = agent(lr=0.0, epochs=2, minibatch_size=12, normalize_advantages=False)
    r = rollout_of(subject.actor_critic)
    found = subject.update(r)
    advantages = by_sums(r.rewards, r.values, r.next_values, r.terminated, r.truncated, 0.99, 0.95)
    log_probs, entropy = subject.actor_critic.log_prob_and_entropy(r.observations, r.actions)
    moved = (log_probs - r.log_probs).detach()
    ratio = moved.exp()
    policy = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    value = ((subject.actor_critic(r.observations).detach() - advantages - r.values) ** 2).mean() / 2
    expected = {"policy": policy, "value": value, "entropy": entropy.mean(), "kl": (ratio - 1 - moved).mean()}
    assert set(found) == set(expected), f"expected {sorted(expected)}, found {sorted(found)}"
    for name, number in expected.items():
        laws.assert_close(torch.tensor(found[name]), number.detach().float(), rtol=1e-4, because="float32", what=name)


@pytest.mark.states("cost")
def test_acting_runs_each_network_once_a_state():
    """Each of T steps runs the value on n states and on where they led to, and the policy on n states, twice at most.

    Source: Schulman et al. 2017, algorithm 1: data are collected once for K epochs.
    """
    from spec import cost

    subject, world = agent(), Scripted()
    start = torch.tensor(world.observations()).float()
    layer = 2 * (3 * 4 + 4 * 4)
    found = cost.flops(lambda: subject.collect(world, start, 2))
    most = (
        2 * 2 * (2 * (layer + 2 * 4 * 2) + 2 * (layer + 2 * 4))
    )  # the policy to sample, and to judge what was sampled
    assert found <= most, f"expected at most {most} operations, found {found}"


def test_same_seed_same_experience():
    """With a generator of the same seed two runs are the same, bit for bit, and another seed acts otherwise.

    Source: this project: all randomness can be seeded.
    """

    def run(seed):
        subject, world = agent(), Scripted()
        generator = torch.Generator().manual_seed(seed)
        start = torch.tensor(world.observations()).float()
        rollout, _ = subject.collect(world, start, 20, generator)
        subject.update(rollout, generator=generator)
        return rollout.actions, torch.cat([p.detach().flatten() for p in subject.actor_critic.parameters()])

    (first, one), (second, other), (third, _) = run(3), run(3), run(4)
    laws.assert_same(first, second)
    laws.assert_same(one, other)
    assert not torch.equal(first, third), "expected another seed to act otherwise"
