"""Golden values of the variational auto-encoder.  Kingma & Welling 2013, arXiv:1312.6114."""

import pytest
import torch
from torch import nn

from impl.models.vae import VAE, gaussian_kl
from spec import laws
from spec.cases.vae import linear_vae
from spec.data import all_digits
from spec.golden import load

pytestmark = pytest.mark.item("vae")


def test_divergence_of_one_standard_deviation():
    """D_KL(N(1, 0.25) ‖ N(0, 1)) = ½ (1 + 0.25 − 1 + log 4) = 0.8181471805599453 nats.

    Source: Kingma & Welling 2013, appendix B, by hand.
    """
    mu, logvar = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[0.25]], dtype=torch.float64).log()
    expected = torch.tensor(0.8181471805599453, dtype=torch.float64)
    laws.assert_close(gaussian_kl(mu, logvar, reduction="batchmean"), expected, rtol=1e-14, atol=0)


@pytest.mark.states("equivalence")
def test_divergences_equal_their_integrals():
    """D_KL(q ‖ p) = ∫ q log(q/p), against N(0, 1) and against other priors.

    Source: Kingma & Welling 2013, §2.2 and appendix B.
    """
    golden = load("vae")
    mu, logvar = golden["kl.mu"], golden["kl.logvar"]
    golden.check("kl.to_standard", gaussian_kl(mu, logvar))
    golden.check("kl.to_prior", gaussian_kl(mu, logvar, prior=(golden["kl.prior_mu"], golden["kl.prior_logvar"])))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_log_likelihoods(likelihood):
    """log p(x|z) of binary, grey and real-valued x, for sure and unsure decoders.

    Source: Kingma & Welling 2013, appendix C.1 and C.2.
    """
    golden = load("vae")
    output = golden["bernoulli.logits" if likelihood == "bernoulli" else "gaussian.output"]
    vae = VAE(nn.Identity(), nn.Identity(), output.shape[1], likelihood)
    golden.check(f"{likelihood}.log_likelihood", vae.log_likelihood(golden[f"{likelihood}.x"], output))


def one_latent_dimension(golden):
    """The non-linear model of the recipe, and quadrature nodes and weights of N(0, 1)."""
    decoder = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 4))
    vae = VAE(nn.Linear(4, 2), decoder, latent_dim=1).double()
    vae.encoder.load_state_dict(golden.state_dict("encoder"))
    vae.decoder.load_state_dict(golden.state_dict("decoder"))
    nodes = torch.linspace(-12, 12, 1201, dtype=torch.float64)  # trapezoids: exact to rounding for a smooth integrand
    return vae, nodes, torch.distributions.Normal(0.0, 1.0).log_prob(nodes).exp() * (nodes[1] - nodes[0])


@pytest.mark.states("equivalence")
def test_bound_and_evidence_of_a_non_linear_model():
    """L(x) = ∫ q(z|x) log p(x|z) dz − D_KL and log p(x) = log ∫ p(z) p(x|z) dz, as integrals over one latent dimension.

    Source: Kingma & Welling 2013, eq. 1-3.
    """
    golden = load("vae")
    vae, nodes, weights = one_latent_dimension(golden)
    x = golden["x"]
    mu, logvar = vae.encode(x)
    z = mu + (0.5 * logvar).exp() * nodes[:, None, None]
    golden.check("elbo", weights @ vae.log_likelihood(x, z) - gaussian_kl(mu, logvar).sum(-1))
    prior = vae.log_likelihood(x, nodes[:, None, None].expand(-1, 3, 1))
    golden.check("evidence", torch.logsumexp(prior + weights.log()[:, None], dim=0))


def test_estimates_reach_the_bound_and_the_evidence():
    """The mean of `elbo` is L(x), and the importance-weighted bound with many samples is log p(x).

    20 000 samples.  Measured on 5 seeds: at most 0.021 away; L(x) and log p(x) are 0.07, 0.12 and 0.43 apart.

    Source: Kingma & Welling 2013, eq. 7; Burda, Grosse & Salakhutdinov 2015, theorem 1.
    """
    golden = load("vae")
    vae, _, _ = one_latent_dimension(golden)
    x, generator = golden["x"], torch.Generator().manual_seed(0)
    bound = vae.elbo(x, samples=20_000, reduction="none", generator=generator)
    evidence = vae.importance_bound(x, 20_000, reduction="none", generator=generator)
    laws.assert_close(bound, golden["elbo"], rtol=0, atol=0.04, because="an estimate by 20 000 samples")
    laws.assert_close(evidence, golden["evidence"], rtol=0, atol=0.04, because="an estimate by 20 000 samples")


@pytest.mark.states("limiting case")
def test_linear_model_has_the_likelihood_of_probabilistic_pca():
    """With the optimal W, s² and the exact posterior each sample gives log p(x) of its digit; the mean is the maximum.

    On all 1797 digits with grey values 0 to 16 and four latent dimensions: −170.6153 nats, s² = 10.2699.

    Source: Tipping & Bishop 1999, §3.2: W = U (Λ − s² I)^½, s² = the mean of the left-out eigenvalues.
    """
    golden = load("vae")
    x, _ = all_digits()
    bias = x.mean(0)
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = eigenvalues[:-4].mean()
    weight = vectors[:, -4:] * (eigenvalues[-4:] - noise).sqrt()
    vae = linear_vae(weight, bias, noise.item())
    each = vae.importance_bound(x, 1, reduction="none", generator=torch.Generator().manual_seed(0))
    golden.check("ppca.first_50", each[:50])
    golden.check("ppca.log_likelihood", each.mean())
    golden.check("ppca.noise", vae.decoder.bias[-1].exp())
