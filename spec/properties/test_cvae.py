"""Conditional variational auto-encoder.  Sohn, Lee & Yan 2015, "Learning Structured Output Representation using Deep
Conditional Generative Models" (NeurIPS 28).  In the paper x is the condition and y the data."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from impl.models.cvae import Concatenated, ConditionalVAE
from spec import laws, scratch
from spec.cases.cvae import (
    Bound,
    Table,
    images_and_classes,
    labelled_images,
    labels_by_number,
    linear_cvae,
    perceptrons,
    small,
)
from spec.strategies import permutations, seeds

pytestmark = pytest.mark.item("cvae")

# name → the arguments next to data and condition, and the network whose Gaussian z is sampled from
BOUNDS = {
    "elbo": ({"samples": 4}, "encoder"),
    "importance_bound": ({"samples": 4}, "encoder"),
    "gsnn": ({"samples": 4}, "prior"),
    "monte_carlo_bound": ({"samples": 4}, "prior"),
}
DRAWING = [*BOUNDS, "sample", "predict"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(seed: int = 3, batch: int = 2):
    """Data (B, 7) in [0, 1] and conditions (B, 4), as `perceptrons` takes them."""
    data = torch.rand(batch, 7, generator=seeded(seed), dtype=torch.float64)
    return data, torch.randn(batch, 4, generator=seeded(seed + 1), dtype=torch.float64)


def gaussian(output):
    """The Gaussian that a network's output describes: μ, then log σ²."""
    mu, logvar = output.chunk(2, dim=1)
    return Normal(mu, (0.5 * logvar).exp())


def standard(batch: int, latent: int):
    zeros = torch.zeros(batch, latent, dtype=torch.float64)
    return Normal(zeros, zeros + 1)


def log_density(likelihood: str, output, data):
    """log p(y|x, z) of each sample, by torch.distributions."""
    each = Bernoulli(logits=output, validate_args=False) if likelihood == "bernoulli" else gaussian(output)
    return each.log_prob(data).flatten(1).sum(1)


class Recorded(nn.Module):
    """A network that keeps what it was called with."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.calls = []

    def forward(self, *inputs):
        self.calls.append(inputs)
        return self.inner(*inputs)

    def stacked(self, batch: int):
        """All calls as one: the first and the second argument, each (samples, B, ...)."""
        return [torch.cat(parts).unflatten(0, (-1, batch)).detach() for parts in zip(*self.calls)]


class Refusing(nn.Module):
    """A network that must not be called."""

    def forward(self, *inputs):
        raise AssertionError("expected no call of this network, found one")


def blind(likelihood: str = "bernoulli", prior: bool = True):
    """5 dimensions, conditions of 4, 3 latents; the decoder uses the condition and ignores z: no bound has noise."""
    laws.reseed(0)
    decoder = nn.Linear(7, 5 if likelihood == "bernoulli" else 10)
    nn.init.zeros_(decoder.weight[:, :3])
    network = nn.Linear(4, 6) if prior else None
    return ConditionalVAE(Concatenated(nn.Linear(9, 6)), Concatenated(decoder), 3, likelihood, network).double()


def blind_pairs():
    data = torch.rand(6, 5, generator=seeded(1), dtype=torch.float64)
    return data, torch.randn(6, 4, generator=seeded(2), dtype=torch.float64)


def linear_model(shift=0.0, widen=0.0):
    """5 dimensions, 3 conditions, 2 latents; three pairs of the model's own scale, and exact log p(y|x)."""
    generator = seeded(1)
    weight = torch.linalg.qr(torch.randn(5, 2, generator=generator, dtype=torch.float64))[0]
    weight = weight * torch.tensor([2.0, 0.7], dtype=torch.float64)
    by_condition = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    prior_weight = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    bias, prior_bias = torch.linspace(-1, 2, 5, dtype=torch.float64), torch.tensor([0.4, -1.2], dtype=torch.float64)
    prior_variance = torch.tensor([1.5, 5.0], dtype=torch.float64)
    x = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    mean = (x @ prior_weight.T + prior_bias) @ weight.T + x @ by_condition.T + bias
    y = mean + 1.3 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    cvae = linear_cvae(weight, by_condition, bias, 0.6, prior_weight, prior_bias, prior_variance, shift, widen)
    hidden = weight * prior_variance @ weight.T  # the covariance that z brings
    evidence = MultivariateNormal(mean, hidden + 0.6 * torch.eye(5, dtype=torch.float64)).log_prob(y)
    return cvae, y, x, {"evidence": evidence, "mean": mean, "hidden": hidden}


def within(estimates, expected, limit: float = 4.5):
    """The mean of many estimates is `expected`, within `limit` standard errors of each value."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    gap = ((estimates.mean(0) - expected).abs() / error).max().item()
    assert gap < limit, f"expected {expected.tolist()} within {limit} standard errors, found a distance of {gap:.1f}"


# ---------------------------------------------------------------------------------------------- the bound


@pytest.mark.parametrize("with_prior", [True, False])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("beta", [1.0, 0.3, 4])
def test_bound_is_likelihood_minus_divergence_from_the_prior(beta, likelihood, with_prior):
    """L_i = Σ log p(y_i|x_i, z_i) − β Σ_j D_KL(q_j ‖ p_j), with p(z|x) of the prior network or N(0, I); "mean" over i.

    With a decoder that ignores z, so that there is no noise.  6 data points, 5 dimensions, 3 latents: a mean instead of
    any sum shows.

    Source: Sohn, Lee & Yan 2015, eq. 4 and 5.
    """
    cvae, (data, condition) = blind(likelihood, with_prior), blind_pairs()
    posterior = gaussian(cvae.encoder(data, condition))
    prior = gaussian(cvae.prior(condition)) if with_prior else standard(6, 3)
    log_p = log_density(likelihood, cvae.decoder(posterior.mean, condition), data)
    expected = log_p - beta * kl_divergence(posterior, prior).sum(-1)
    laws.assert_close(cvae.elbo(data, condition, beta=beta, reduction="none"), expected)
    laws.assert_close(cvae.elbo(data, condition, beta=beta), expected.mean())
    if beta == 1:
        laws.assert_close(cvae.elbo(data, condition), expected.mean(), what="the bound by default")


@pytest.mark.parametrize("name", BOUNDS)
@given(seed=seeds())
def test_bounds_are_taken_at_their_samples(name, seed):
    """Each bound takes the mean of log p − D_KL, or the log-mean of weights, over samples z_s with their own condition.

    L_CVAE = 1/S Σ log p(y|x, z_s) − D_KL; importance: log 1/S Σ p(y|x, z_s) p(z_s|x)/q(z_s|x, y); Monte Carlo:
    log 1/S Σ p(y|x, z_s); L_GSNN = 1/S Σ log p(y|x, z_s).  4 samples of z for 2 data points.

    Source: Sohn, Lee & Yan 2015, eq. 5, §4.1 (both estimates of the conditional likelihood), §4.2.
    """
    cvae, (data, condition) = perceptrons(seed=seed).double(), pairs(seed)
    posterior, prior = gaussian(cvae.encoder(data, condition)), gaussian(cvae.prior(condition))
    decoder, cvae.decoder = cvae.decoder, Recorded(cvae.decoder)
    value = getattr(cvae, name)(data, condition, samples=4, reduction="none")
    z, conditions = cvae.decoder.stacked(2)
    laws.assert_same(conditions, condition.expand(4, 2, 4).contiguous(), what="the condition of each sample of z")
    log_p = torch.stack([log_density("bernoulli", decoder(draw, condition), data) for draw in z])
    ratio = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
    expected = {
        "elbo": log_p.mean(0) - kl_divergence(posterior, prior).sum(-1),
        "importance_bound": (log_p + ratio).exp().mean(0).log(),
        "gsnn": log_p.mean(0),
        "monte_carlo_bound": log_p.exp().mean(0).log(),
    }[name]
    laws.assert_close(value, expected)
    laws.assert_close(
        getattr(cvae, name)(data, condition, samples=4, generator=seeded(seed)),
        getattr(cvae, name)(data, condition, samples=4, reduction="none", generator=seeded(seed)).mean(),
        what="the mean over the batch",
    )


@pytest.mark.parametrize("name", DRAWING)
def test_samples_come_from_the_right_network(name):
    """Bounds with recognition sample z ~ q(z|x, y), all else z ~ p(z|x): mean, variance and 3σ⁴ of that Gaussian.

    40 000 samples of one pair, within 4.5 standard errors: 9 comparisons, a false alarm in 1 of 16 000 seeds; the seed
    is fixed.  Noise of different data points, latents and repetitions differs.

    Source: Sohn, Lee & Yan 2015, §4: z ~ q(z|x, y) in training; §4.1: z ~ p(z|x) for prediction.
    """
    n = 40_000
    cvae, (data, condition) = perceptrons().double(), pairs(batch=1)
    with torch.no_grad():
        networks = {"encoder": cvae.encoder(data, condition), "prior": cvae.prior(condition)}
        source = gaussian(networks[BOUNDS.get(name, (None, "prior"))[1]])
        cvae.decoder = Recorded(cvae.decoder)
        many = (data.expand(n // 4, -1), condition.expand(n // 4, -1))
        getattr(cvae, name)(*(many if name in BOUNDS else many[1:]), samples=4, generator=seeded(7))
    z = cvae.decoder.stacked(n // 4)[0]
    assert z.shape == (4, n // 4, 3), f"expected 4 samples of z for each data point, found shape {tuple(z.shape)}"
    noise = (z - source.mean) / source.stddev
    assert len(noise.unique()) > 0.999 * noise.numel(), "expected a value for each sample of z, found some shared"
    flat = noise.flatten(0, 1)
    for power, value in ((1, 0.0), (2, 1.0), (4, 3.0)):
        within(flat.pow(power), torch.full((3,), value, dtype=torch.float64))


@pytest.mark.parametrize("name", [*DRAWING, "hybrid", "forward"])
def test_a_generator_makes_every_sample_repeatable(name):
    """A generator in the same state repeats its samples, in another state not; the global generator is unchanged.

    Convention: every method that samples takes `generator`, as torch's own random functions do.
    """
    cvae, (data, condition) = perceptrons().double().train(), pairs()
    arguments = {"hybrid": (data, condition, 0.4), "sample": (condition,), "predict": (condition, 3)}
    arguments |= {"importance_bound": (data, condition, 3), "monte_carlo_bound": (data, condition, 3)}

    def draw(seed):
        value = getattr(cvae, name)(*arguments.get(name, (data, condition)), generator=seeded(seed))
        return value[0] if name == "forward" else value

    before = torch.get_rng_state()
    first = draw(5)
    laws.assert_same(draw(5), first, what="a second draw from the same state")
    laws.assert_differs(draw(6), first, by=1e-4, what="a sample from another state")
    assert torch.equal(torch.get_rng_state(), before), "expected the global generator untouched, found that it moved"


@pytest.mark.states("limiting case")
def test_hybrid_weighs_the_two_objectives():
    """L_hybrid = α L_CVAE + (1 − α) L_GSNN: with a decoder blind to z, log p − α D_KL; one sample by default.

    Source: Sohn, Lee & Yan 2015, §4.2: α = 1 is the CVAE, α = 0 the GSNN without recognition network.
    """
    cvae, (data, condition) = blind(), blind_pairs()
    posterior, prior = gaussian(cvae.encoder(data, condition)), gaussian(cvae.prior(condition))
    log_p = log_density("bernoulli", cvae.decoder(prior.mean, condition), data)
    for alpha in (0, 0.3, 1):
        expected = log_p - alpha * kl_divergence(posterior, prior).sum(-1)
        laws.assert_close(cvae.hybrid(data, condition, alpha, reduction="none"), expected)
        laws.assert_close(cvae.hybrid(data, condition, alpha), expected.mean())
    for samples, name, extra in ((1, "elbo", ()), (1, "gsnn", ()), (2, "hybrid", (0.4,)), (6, "hybrid", (0.4, 3))):
        cvae = perceptrons().double()
        cvae.decoder = Recorded(cvae.decoder)
        getattr(cvae, name)(*pairs(), *extra)
        found = len(cvae.decoder.stacked(2)[0])
        assert found == samples, f"expected {samples} samples of z for {name}{extra}, found {found}"


def test_hybrid_has_the_mean_of_its_parts():
    """E[L_hybrid] = α (log p(y|x) − D_KL(q ‖ p(z|x, y))) + (1 − α) E_p(z|x)[log p(y|x, z)], known of a linear model.

    D_KL of a posterior that is moved by c and widened by w: ½ Σ (e^w − 1 − w + c²/S_j); E_p: the log-density at the
    prior's mean less ½ Σ |w_j|² P_j / s².  20 000 estimates.

    Source: Sohn, Lee & Yan 2015, §4.2; linear Gaussian models: Tipping & Bishop 1999, §3.
    """
    move, widen, alpha = 0.3, 0.8, 0.35
    cvae, y, x, exact = linear_model(shift=move, widen=widen)
    n = 20_000
    with torch.no_grad():
        found = cvae.hybrid(y.repeat(n, 1), x.repeat(n, 1), alpha, reduction="none", generator=seeded(0)).view(n, 3)
    spread = gaussian(cvae.encoder(y, x)).variance / math.exp(widen)
    cvae_part = exact["evidence"] - 0.5 * (math.exp(widen) - 1 - widen + move**2 / spread).sum(-1)
    at_mean = Normal(exact["mean"], math.sqrt(0.6)).log_prob(y).sum(-1)
    gsnn_part = at_mean - 0.5 * exact["hidden"].trace() / 0.6
    within(found, alpha * cvae_part + (1 - alpha) * gsnn_part)


# ---------------------------------------------------------------------------------------------- limits, equivalences


@pytest.mark.states("limiting case")
def test_exact_posterior_makes_every_sample_tell_log_p():
    """With q(z|x, y) = p(z|x, y) each weight p(y|x, z) p(z|x) / q(z|x, y) equals p(y|x): no variance at all.

    In the linear model log p(y|x) = log N(y; W(Ax + a) + Vx + b, W P Wᵀ + s² I).

    Source: Sohn, Lee & Yan 2015, eq. 4: the gap is D_KL(q ‖ p(z|x, y)); §4.1.
    """
    cvae, y, x, exact = linear_model()
    for seed, samples in enumerate((1, 7)):
        found = cvae.importance_bound(y, x, samples, reduction="none", generator=seeded(seed))
        laws.assert_close(found, exact["evidence"])


def test_estimates_rise_to_the_conditional_likelihood():
    """E[log 1/S Σ …] rises with S to log p(y|x), by samples from the prior and from a posterior, there faster.

    Means of 3 × 600 estimates, slack 3 standard errors.  Measured on 4 seeds: by 1, 8 and 64 samples of the prior 5.6
    to 6.0, 0.32 to 0.39 and 0.01 to 0.03 below; by weighted samples of a posterior that is moved and widened 0.72 to
    0.79, 0.07 to 0.08 and 0.01 below.  With one sample copied, or logarithms averaged, no estimate is above the first.

    Source: Sohn, Lee & Yan 2015, §4.1; Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519, theorem 1.
    """
    cvae, y, x, exact = linear_model(shift=0.4, widen=0.4)
    many = (y.repeat(600, 1), x.repeat(600, 1))
    firsts = []
    for name in ("monte_carlo_bound", "importance_bound"):
        with torch.no_grad():
            found = [getattr(cvae, name)(*many, k, reduction="none", generator=seeded(k)) for k in (1, 8, 64)]
        means = torch.stack([*(f.mean() for f in found), exact["evidence"].mean()])
        slack = 3 * max(f.std() for f in found) / math.sqrt(len(found[0]))
        assert (means.diff() > -slack).all(), f"expected rising estimates, found {means.tolist()}"
        assert means[1] - means[0] > 0.3, f"expected 8 samples to tell more than one, found {means.tolist()}"
        assert (means[3] - means[2]).abs() < 0.15, f"expected log p(y|x) with 64 samples, found {means.tolist()}"
        firsts.append(means[0])
    assert firsts[1] > firsts[0] + 3, f"expected recognition to help a single sample, found {firsts}"


@pytest.mark.parametrize("name", ["monte_carlo_bound", "importance_bound"])
def test_weights_average_to_the_conditional_likelihood(name):
    """E[exp(estimate)] = p(y|x): 1/S Σ is an unbiased estimate of the likelihood, whatever the posterior.

    20 000 estimates by 3 samples, from a posterior wider than the true one.

    Source: Sohn, Lee & Yan 2015, §4.1.
    """
    cvae, y, x, exact = linear_model(shift=0.3, widen=0.7)
    n = 20_000
    with torch.no_grad():
        found = getattr(cvae, name)(y.repeat(n, 1), x.repeat(n, 1), 3, reduction="none", generator=seeded(2))
    within((found.view(n, 3) - exact["evidence"]).exp(), torch.ones(3, dtype=torch.float64))


@pytest.mark.states("equivalence")
@given(seed=seeds())
def test_gsnn_is_the_bound_with_the_prior_for_recognition(seed):
    """With q(z|x, y) = p(z|x) nothing is charged: L_CVAE = L_GSNN, and both likelihood estimates are one.

    Source: Sohn, Lee & Yan 2015, §4.2: the recognition network set to the prior network.
    """
    cvae, (data, condition) = perceptrons(seed=seed).double(), pairs(seed)

    class Prior(nn.Module):
        def forward(self, data, condition):
            return cvae.prior(condition)

    cvae.encoder = Prior()
    one, other = (
        getattr(cvae, name)(data, condition, samples=3, reduction="none", generator=seeded(seed))
        for name in ("elbo", "gsnn")
    )
    laws.assert_close(one, other)
    one, other = (
        getattr(cvae, name)(data, condition, 3, reduction="none", generator=seeded(seed))
        for name in ("importance_bound", "monte_carlo_bound")
    )
    laws.assert_close(one, other)


@pytest.mark.states("limiting case")
def test_equal_networks_pay_and_learn_nothing():
    """Where q(z|x, y) = p(z|x), D_KL = 0 and so is its gradient to both networks; elsewhere neither is.

    Source: Sohn, Lee & Yan 2015, eq. 4 (Gibbs' inequality).
    """
    cvae, (data, condition) = blind(), blind_pairs()
    weights = [*cvae.encoder.parameters(), *cvae.prior.parameters()]
    free = cvae.elbo(data, condition, beta=0.0, reduction="none")

    def charge():
        cost = free - cvae.elbo(data, condition, reduction="none")
        gradients = torch.autograd.grad(cost.sum(), weights, retain_graph=True)
        return cost, max(g.abs().max().item() for g in gradients)

    cost, slope = charge()
    assert (cost > 0.01).all() and slope > 0.1, f"expected a price for recognition, found {cost}, gradient {slope}"
    with torch.no_grad():
        linear = cvae.encoder.network
        linear.weight.copy_(torch.cat([torch.zeros_like(linear.weight[:, :5]), cvae.prior.weight], dim=1))
        linear.bias.copy_(cvae.prior.bias)
    cost, slope = charge()
    laws.assert_close(cost, torch.zeros_like(cost))
    assert slope < 1e-12, f"expected no gradient, found {slope}"


def test_divergence_is_charged_in_one_direction():
    """D_KL(q ‖ p), not D_KL(p ‖ q): q = N(0, e⁻²), p = N(0, 1) costs ½ (e⁻² + 1) = 0.568, exchanged ½ (e² − 3) = 2.195.

    Source: Sohn, Lee & Yan 2015, eq. 4.
    """
    condition = torch.randn(2, 1, generator=seeded(0), dtype=torch.float64)
    data = torch.rand(2, 3, generator=seeded(1), dtype=torch.float64)
    for logvar, expected in (((-2.0, 0.0), 0.5 * (math.exp(-2) + 1)), ((0.0, -2.0), 0.5 * (math.exp(2) - 3))):
        networks = [nn.Linear(4, 2), nn.Linear(1, 2)]
        for network, value in zip(networks, logvar):
            nn.init.zeros_(network.weight)
            network.bias.data.copy_(torch.tensor([0.3, value]))  # the same mean
        cvae = ConditionalVAE(Concatenated(networks[0]), Concatenated(nn.Linear(2, 3)), 1, prior=networks[1]).double()
        with_cost, without = (cvae.elbo(data, condition, beta, generator=seeded(2)) for beta in (1.0, 0.0))
        laws.assert_close(without - with_cost, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(order=permutations(4), seed=seeds())
def test_names_of_classes_carry_no_meaning(order, seed):
    """Renaming labels together with their columns in encoder, decoder and prior leaves the bound unchanged.

    Source: the definition of a one-hot code; the condition enters q(z|x, y), p(z|x) and p(y|x, z) alike.
    """
    cvae, (data, _) = perceptrons(seed=seed).double(), pairs(seed, batch=3)
    codes = torch.eye(4, dtype=torch.float64)[torch.randint(0, 4, (3,), generator=seeded(seed))]
    before = cvae.elbo(data, codes, generator=seeded(seed))
    with torch.no_grad():
        for network in (cvae.encoder.network, cvae.decoder.network, cvae.prior):
            columns = network[0].weight[:, -4:]
            columns.copy_(columns[:, order].clone())
    laws.assert_close(cvae.elbo(data, codes[:, order], generator=seeded(seed)), before)


@pytest.mark.states("equivalence")
@given(seed=seeds())
def test_a_constant_condition_is_a_plain_vae(seed):
    """With one condition for all, its columns are biases: the bound is −D_KL + log p with these folded in.

    Source: Sohn, Lee & Yan 2015, §3 and §4: the CVAE is a VAE given x.
    """
    cvae, (data, condition) = perceptrons(prior=False, seed=seed).double(), pairs(seed)
    condition = condition[:1].expand(2, 4)

    def folded(network):
        first, rest = network[0], network[1:]
        plain = nn.Linear(first.in_features - 4, first.out_features).double()
        bias = first.bias + first.weight[:, -4:] @ condition[0]
        plain.load_state_dict({"weight": first.weight[:, :-4], "bias": bias})
        return nn.Sequential(plain, *rest)

    encoder, decoder = folded(cvae.encoder.network), folded(cvae.decoder.network)
    cvae.decoder = Recorded(cvae.decoder)
    bound = cvae.elbo(data, condition, reduction="none")
    z = cvae.decoder.stacked(2)[0][0]
    expected = log_density("bernoulli", decoder(z), data) - kl_divergence(gaussian(encoder(data)), standard(2, 3)).sum(
        1
    )
    laws.assert_close(bound, expected)


# ---------------------------------------------------------------------------------------------- the condition


@pytest.mark.states("dependence")
def test_every_network_reads_the_condition():
    """μ and log σ² of q depend on data and condition, those of the prior on the condition, the output on z and it.

    Each Jacobian block has its full rank: nothing of the condition is lost on the way.

    Source: Sohn, Lee & Yan 2015, §4, figure 1(c): q(z|x, y), p(z|x), p(y|x, z).
    """
    cvae, (data, condition) = perceptrons().double(), pairs(batch=1)
    z = torch.randn(1, 3, generator=seeded(0), dtype=torch.float64)
    blocks = {
        "encode by data": (lambda t: torch.cat(cvae.encode(t, condition), 1), data, 6),
        "encode by condition": (lambda t: torch.cat(cvae.encode(data, t), 1), condition, 4),
        "prior by condition": (lambda t: torch.cat(cvae.prior_parameters(t), 1), condition, 4),
        "decode by z": (lambda t: cvae.decode(t, condition), z, 3),
        "decode by condition": (lambda t: cvae.decode(z, t), condition, 4),
        "prediction by condition": (cvae.predict, condition, 4),
        "log p by condition": (lambda t: cvae.log_likelihood(data, t, z), condition, 1),
    }
    for name, (function, at, rank) in blocks.items():
        jacobian = laws.jacobian(function, at).reshape(-1, at.numel())
        found = int(torch.linalg.matrix_rank(jacobian, rtol=1e-8))
        assert found == rank, f"expected a Jacobian of rank {rank} for {name}, found {found}"


def test_without_a_prior_network_the_prior_is_standard():
    """p(z|x) = N(0, I) for every condition where no network is given, in the dtype of the model.

    Source: Kingma et al. 2014, arXiv:1406.5298, eq. 2: p(z) = N(z; 0, I), the same for every label.
    """
    for dtype in (torch.float64, torch.float32):
        cvae, (_, condition) = perceptrons(prior=False).to(dtype), pairs(batch=5)
        mu, logvar = cvae.prior_parameters(condition.to(dtype))
        laws.assert_close(mu, torch.zeros(5, 3, dtype=dtype), rtol=0, atol=0)
        laws.assert_close(logvar, torch.zeros(5, 3, dtype=dtype), rtol=0, atol=0)
    assert "prior" not in "".join(cvae.state_dict()), "expected no weights of a prior that is no network"
    cvae = perceptrons(prior=False).double()
    cvae.decoder = Recorded(cvae.decoder)
    cvae.sample(condition.double()[:1].expand(9000, 4), generator=seeded(0))
    z = cvae.decoder.stacked(9000)[0][0]
    within(z.square(), torch.ones(3, dtype=torch.float64))
    within(z, torch.zeros(3, dtype=torch.float64))


@pytest.mark.states("dependence")
def test_predictions_never_ask_for_the_data():
    """`sample`, `predict`, `monte_carlo_bound` and `gsnn` sample from the prior network; recognition is not called.

    Source: Sohn, Lee & Yan 2015, §4.1: at test time y is not there.
    """
    cvae, (data, condition) = perceptrons().double(), pairs()
    cvae.encoder = Refusing()
    outputs = [cvae.sample(condition), cvae.predict(condition), cvae.predict(condition, 2)]
    for output in outputs:
        assert output.shape == (2, 7), f"expected an output of shape (2, 7), found {tuple(output.shape)}"
    assert cvae.gsnn(data, condition).isfinite() and cvae.monte_carlo_bound(data, condition, 2).isfinite()


def test_samples_decode_latents_of_the_prior():
    """`sample` gives E[y|x, z] of one z for each condition, shape (B, …), or of `samples`, shape (samples, B, …).

    Of the linear model they have mean W(Ax + a) + Vx + b and covariance W P Wᵀ: 20 000 samples, 4.5 standard errors.

    Source: Sohn, Lee & Yan 2015, §4.1.  Convention: the means of p(y|x, z), without its noise.
    """
    cvae, _, x, exact = linear_model()
    one, many = cvae.sample(x, generator=seeded(0)), cvae.sample(x, 20_000, seeded(0))
    assert one.shape == (3, 5) and many.shape == (20_000, 3, 5), f"found {tuple(one.shape)}, {tuple(many.shape)}"
    within(many, exact["mean"])
    centred = many - exact["mean"]
    within(centred[..., :, None] * centred[..., None, :], exact["hidden"].expand(3, 5, 5))
    cvae, condition = labelled_images(), images_and_classes()[1]
    cvae.decoder = Recorded(cvae.decoder)
    found = cvae.sample(condition, 2)
    z, _ = cvae.decoder.stacked(3)
    expected = torch.stack([cvae.decoder.inner(draw, condition)[:, :1] for draw in z])
    laws.assert_close(found, expected)


def test_prediction_at_the_mean_of_the_prior():
    """`predict(x)` is E[y|x, z*], z* = E[z|x], and samples nothing; of a linear model that is E[y|x].

    Source: Sohn, Lee & Yan 2015, §4.1: deterministic inference.
    """
    cvae, _, x, exact = linear_model()
    laws.assert_close(cvae.predict(x), exact["mean"])
    cvae, (_, condition) = perceptrons().double(), pairs()
    expected = cvae.decoder(cvae.prior(condition)[:, :3], condition).sigmoid()
    laws.assert_close(cvae.predict(condition), expected)


def test_prediction_by_samples_averages_outputs():
    """`predict(x, S)` = 1/S Σ_s E[y|x, z_s], z_s ~ p(z|x): probabilities are averaged, not logits or latents.

    Source: Sohn, Lee & Yan 2015, §4.1: y* = argmax 1/L Σ p(y|x, z_l).
    """
    cvae, (_, condition) = perceptrons().double(), pairs()
    decoder, cvae.decoder = cvae.decoder, Recorded(cvae.decoder)
    found = cvae.predict(condition, 5)
    z, _ = cvae.decoder.stacked(2)
    laws.assert_close(found, torch.stack([decoder(draw, condition).sigmoid() for draw in z]).mean(0))
    assert len(z) == 5, f"expected 5 samples, found {len(z)}"


def test_forward_samples_in_training_and_takes_the_mean_in_evaluation():
    """`forward` gives the reconstruction, of a sample of q(z|x, y) in training and of its mean in evaluation, q and p.

    Source: Sohn, Lee & Yan 2015, §4.  Convention: q and p as pairs of μ and log σ², as `gaussian_kl` takes them.
    """
    cvae, (data, condition) = perceptrons().double(), pairs()
    posterior, prior = (list(t.chunk(2, dim=1)) for t in (cvae.encoder(data, condition), cvae.prior(condition)))
    decoder, cvae.decoder = cvae.decoder, Recorded(cvae.decoder)
    for train in (True, False):
        cvae.decoder.calls.clear()
        output, *pair = cvae.train(train)(data, condition)
        z = cvae.decoder.stacked(2)[0][0] if train else posterior[0]
        laws.assert_close(output, decoder(z, condition).sigmoid())
        laws.assert_all_close([list(p) for p in pair], [posterior, prior])
    laws.assert_differs(
        cvae.train()(data, condition)[0], output, by=1e-3, what="reconstruction of a sample, of the mean"
    )


def test_integer_labels_and_tables():
    """A condition is whatever the networks take: integers that index a table act as one-hot codes of a linear layer do.

    Source: the definition of an embedding: a row of a table is a one-hot code times a matrix.
    """
    by_number, label = labels_by_number().double(), torch.tensor([3, 1, 0])

    def by_code(table):
        linear = nn.Linear(table.linear.in_features + 4, table.linear.out_features).double()
        weight = torch.cat([table.linear.weight, table.table.T], dim=1)
        linear.load_state_dict({"weight": weight, "bias": table.linear.bias})
        return Concatenated(nn.Sequential(linear, nn.Tanh()))

    assert isinstance(by_number.encoder, Table)
    counterpart = ConditionalVAE(by_code(by_number.encoder), by_code(by_number.decoder), 3)
    data = pairs(batch=3)[0]
    codes = torch.eye(4, dtype=torch.float64)[label]
    found, expected = (
        model.importance_bound(data, c, 4, reduction="none", generator=seeded(0))
        for model, c in ((by_number, label), (counterpart, codes))
    )
    laws.assert_close(found, expected)


def test_concatenated_networks_take_the_condition_last():
    """The input is [a; x] in dimension 1: a condition without space is repeated at every pixel, a map is concatenated.

    Convention: data or latents first, the condition last, as most code that concatenates does.
    """
    side_by_side = Concatenated(nn.Identity())
    vector, condition = (torch.randn(2, n, generator=seeded(n), dtype=torch.float64) for n in (3, 4))
    laws.assert_same(side_by_side(vector, condition), torch.cat([vector, condition], dim=1))
    image = torch.randn(2, 3, 5, 6, generator=seeded(0), dtype=torch.float64)
    found = side_by_side(image, condition)
    assert found.shape == (2, 7, 5, 6), f"expected 7 channels, found {tuple(found.shape)}"
    laws.assert_same(found[:, :3], image)
    for channel in range(4):
        plane = found[:, 3 + channel]
        laws.assert_same(plane, condition[:, channel, None, None].expand(2, 5, 6).contiguous())
    planes = torch.randn(2, 4, 5, 6, generator=seeded(1), dtype=torch.float64)
    laws.assert_same(side_by_side(image, planes), torch.cat([image, planes], dim=1))
    codes = nn.functional.one_hot(torch.tensor([2, 0]), 4)
    laws.assert_same(side_by_side(vector, codes), torch.cat([vector, codes.double()], dim=1))


def test_weights_are_those_of_the_networks():
    """The state holds encoder, decoder and prior under these names, nothing else; plain weights move both ways.

    Source: the contract of torch.nn.Module.state_dict.
    """
    cvae, (data, condition) = perceptrons().double(), pairs()
    names = {
        f"{n}.network.{i}.{p}" for n, i in (("encoder", 0), ("decoder", 0), ("decoder", 2)) for p in ("weight", "bias")
    }
    assert set(cvae.state_dict()) == names | {"prior.0.weight", "prior.0.bias"}, f"found {sorted(cvae.state_dict())}"
    plain = nn.Sequential(nn.Linear(11, 6), nn.Tanh()).double()
    plain.load_state_dict(cvae.encoder.network.state_dict())
    laws.assert_close(torch.cat(cvae.encode(data, condition), 1), plain(torch.cat([data, condition], 1)))
    other = nn.Sequential(nn.Linear(11, 6), nn.Tanh()).double()
    cvae.encoder.network.load_state_dict(other.state_dict())
    laws.assert_close(torch.cat(cvae.encode(data, condition), 1), other(torch.cat([data, condition], 1)))


# ---------------------------------------------------------------------------------------------- modes and gradients


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_estimated_by_samples_in_evaluation_too(name):
    """The bounds sample z in eval mode as well: at the mean alone the likelihood would be overstated.

    Source: Sohn, Lee & Yan 2015, §4.1.
    """
    cvae, (data, condition) = perceptrons().double(), pairs()
    first, second = (getattr(cvae.eval(), name)(data, condition, samples=2, generator=seeded(s)) for s in (0, 1))
    laws.assert_differs(first, second, by=1e-5, what="two estimates in eval mode")
    again = getattr(cvae.train(), name)(data, condition, samples=2, generator=seeded(0))
    laws.assert_close(first, again, what="the estimate in train mode from the same state")


def test_each_objective_trains_its_networks():
    """L_CVAE trains all three; its likelihood encoder and decoder; D_KL encoder and prior; the rest decoder and prior.

    The prior network is trained to meet the recognition network, as well as the other way round.

    Source: Sohn, Lee & Yan 2015, §4: θ (prior and generation) and φ (recognition) are trained jointly; §4.2.
    """
    cvae, (data, condition) = perceptrons().double(), pairs()
    parts = {
        n: {f"{n}.{k}": p for k, p in getattr(cvae, n).named_parameters()} for n in ("encoder", "decoder", "prior")
    }
    encoder, decoder, prior = parts.values()
    laws.gradient_reaches(cvae.elbo(data, condition), encoder | decoder | prior)
    laws.gradient_reaches(cvae.importance_bound(data, condition, 2), encoder | decoder | prior)
    laws.gradient_reaches(cvae.hybrid(data, condition, 0.5), encoder | decoder | prior)
    free = cvae.elbo(data, condition, beta=0.0)
    laws.gradient_reaches(free, encoder | decoder)
    leak = torch.autograd.grad(free, list(prior.values()), allow_unused=True, materialize_grads=True)
    assert max(g.abs().max() for g in leak) < 1e-12, "expected no gradient of the likelihood for the prior, found some"
    likelihood, bound = (cvae.elbo(data, condition, beta, generator=seeded(0)) for beta in (0.0, 1.0))
    laws.gradient_reaches(bound - likelihood, encoder | prior)
    laws.gradient_reaches(cvae.gsnn(data, condition), decoder | prior, encoder)
    laws.gradient_reaches(cvae.monte_carlo_bound(data, condition, 2), decoder | prior, encoder)
    laws.gradient_reaches(cvae.hybrid(data, condition, 0), decoder | prior, encoder)
    laws.gradient_reaches(cvae.sample(condition).sum(), decoder | prior, encoder)
    laws.gradient_reaches(cvae.predict(condition, 2).sum(), decoder | prior, encoder)


@pytest.mark.parametrize("name", ["elbo", "monte_carlo_bound", "importance_bound"])
def test_bounds_have_right_second_derivatives(name):
    """The gradient of the gradient of a bound equals central differences, to every network, data and condition.

    Source: the definition of the derivative; natural-gradient and sharpness-aware training differentiate twice.
    """
    data = torch.rand(1, 4, generator=seeded(0), dtype=torch.float64)
    condition = torch.randn(1, 3, generator=seeded(1), dtype=torch.float64)
    laws.gradient_correct(Bound(small().double(), name), data, condition, second_order=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bounds_and_samples_keep_the_dtype_of_the_model(dtype):
    """Noise, bounds and samples have the dtype of the model's parameters.

    Source: the contract of torch.nn modules.
    """
    cvae = labelled_images().to(dtype)
    data, condition = (t.to(dtype) for t in images_and_classes())
    values = [getattr(cvae, name)(data, condition, samples=2) for name in BOUNDS]
    values += [cvae.hybrid(data, condition, 0.2), cvae.sample(condition), cvae.predict(condition, 2)]
    for value in values:
        assert value.dtype == dtype, f"expected {dtype}, found {value.dtype}"
        assert value.isfinite().all(), "expected finite values, found NaN or infinite ones"


@pytest.mark.project_convention
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_from_scratch(name):
    """No fused loss runs inside the bounds: log-likelihoods and divergences are written out.

    Convention: tensors, autograd, elementary functions and linear algebra are given; peers are not asked.
    """
    scratch.dispatch_is_from_scratch(lambda: Bound(perceptrons(), name), tuple(t.float() for t in pairs()))
    scratch.dispatch_is_from_scratch(lambda: Bound(labelled_images(), name), images_and_classes())
