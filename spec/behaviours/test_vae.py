"""Variational auto-encoder.  Kingma & Welling 2013, arXiv:1312.6114."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from impl.models.vae import VAE, gaussian_kl
from spec import laws
from spec.data import digits
from spec.golden import load

pytestmark = pytest.mark.item("vae")


class LinearEncoder(nn.Module):
    """q(z|x) = N(A x + c, diag(v)), one v for all x."""

    def __init__(self, data_dim: int, latent_dim: int):
        super().__init__()
        self.mean = nn.Linear(data_dim, latent_dim)
        self.logvar = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, x):
        mu = self.mean(x)
        return torch.cat([mu, self.logvar.expand_as(mu)], dim=1)


class LinearDecoder(nn.Module):
    """p(x|z) = N(W z + b, s² I)."""

    def __init__(self, latent_dim: int, data_dim: int, logvar: float):
        super().__init__()
        self.mean = nn.Linear(latent_dim, data_dim)
        self.logvar = nn.Parameter(torch.tensor(logvar))

    def forward(self, z):
        mean = self.mean(z)
        return torch.cat([mean, self.logvar.expand_as(mean)], dim=1)


def test_linear_model_finds_the_principal_components():
    """Trained by its own bound the linear VAE reaches the maximum likelihood of probabilistic PCA: no spurious optimum.

    All 1797 digits, 4 latent dimensions, 100 iterations of L-BFGS from a random start.  The expectation over z is
    exact: one ε a digit, orthogonal to the data and of covariance I over the data set, gives the mean of a quadratic
    the value of its expectation.  Pixels in [0, 1]; log 16 a pixel brings the bound to grey values.

    Measured on 4 seeds: 0.001 to 0.005 nats below the maximum, cosine of the largest principal angle above 0.99999, s²
    within 0.3 %.  With D_KL reversed 5.3 below, with D_KL averaged over latent dimensions 4.8 above; by samples of z
    with σ = exp(log σ²) 1.7 above.

    Source: Lucas et al. 2019, arXiv:1911.02469, theorem 1 and §4; Tipping & Bishop 1999, §3.2.
    """
    golden = load("vae")
    train, _, test, _ = digits()
    x = torch.cat([train, test]).double()
    torch.manual_seed(0)
    vae = VAE(LinearEncoder(64, 4), LinearDecoder(4, 64, -3.0), latent_dim=4, likelihood="gaussian").double()
    varying = x[:, x.std(0) > 0]
    columns = torch.cat([torch.ones_like(x[:, :1]), varying, torch.randn(len(x), 4, dtype=x.dtype)], dim=1)
    noise = torch.linalg.qr(columns)[0][:, -4:] * math.sqrt(len(x))
    optimizer = torch.optim.LBFGS(
        vae.parameters(), max_iter=100, history_size=30, line_search_fn="strong_wolfe", tolerance_change=0
    )

    def loss():
        optimizer.zero_grad()
        mu, logvar = vae.encode(x)
        bound = vae.log_likelihood(x, mu + (0.5 * logvar).exp() * noise).mean() - gaussian_kl(mu, logvar, "batchmean")
        (-bound).backward()
        return -bound

    optimizer.step(loss)
    shift = 64 * math.log(16)
    gap = golden["ppca.log_likelihood"].item() - (-loss().item() - shift)
    assert -1e-6 < gap < 0.02, f"expected the maximum within 0.02 nats, found {gap:.4f} below it"
    # The bound by samples of z says the same: 8 × 1797 samples, a standard error of 0.012.
    with torch.no_grad():
        drawn = vae.elbo(x, samples=8).item() - shift
    assert abs(drawn - golden["ppca.log_likelihood"].item()) < 0.06, f"expected the bound by samples there too: {drawn}"
    components = torch.linalg.eigh(torch.cov(x.T))[1][:, -4:]
    span = torch.linalg.qr(vae.decoder.mean.weight.detach())[0]
    cosine = torch.linalg.svdvals(span.T @ components).min().item()
    assert cosine > 0.9999, f"expected the span of the principal components, found a cosine of {cosine:.5f}"
    variance = 256 * vae.decoder.logvar.detach().exp()
    laws.assert_close(variance, golden["ppca.noise"], rtol=0.005, atol=0, because="100 iterations", what="s²")


@cache
def train_on_digits(beta: float = 1.0, steps: int = 600, seed: int = 0):
    """A perceptron of 128 hidden units each way, 8 latents, Bernoulli pixels, Adam with a one-cycle rate up to 0.005.

    Shared between specs, which only evaluate it.
    """
    x = digits()[0]
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 16))
    decoder = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))
    vae = VAE(encoder, decoder, latent_dim=8)
    optimizer = torch.optim.Adam(vae.parameters(), foreach=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-vae.elbo(x[torch.randint(len(x), (64,))], beta=beta)).backward()
        optimizer.step()
        rate.step()
    return vae


@torch.no_grad()
def on_test_digits(vae):
    """−log p(x|z) and D_KL in nats a digit, by 20 samples of z, worked out apart from the code under test."""
    x = digits()[2]
    mu, logvar = vae.encoder(x).chunk(2, dim=1)
    z = mu + (0.5 * logvar).exp() * torch.randn(20, *mu.shape, generator=torch.Generator().manual_seed(0))
    pixels = nn.functional.binary_cross_entropy_with_logits(vae.decoder(z), x.expand(20, -1, -1), reduction="none")
    divergence = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    return pixels.sum(-1).mean().item(), divergence.sum(-1).mean().item()


def independent_pixels() -> float:
    """−log p(x) in nats a test digit of the model without latent variables: each pixel by its own mean."""
    train, _, test, _ = digits()
    mean = train.mean(0).clamp(1e-3, 1 - 1e-3)
    return -(test * mean.log() + (1 - test) * (1 - mean).log()).sum(1).mean().item()


def test_trained_bound_beats_independent_pixels():
    """600 steps bring the bound of unseen digits well above the model without latents, by using some nats of code.

    Measured on 3 seeds: 24.57 to 24.65 nats a digit, 2.8 to 2.9 of them D_KL, against 27.06 for independent pixels.
    With σ = exp(log σ²) 25.34, one ε for the batch 25.56, log σ² cut from the sample 25.80, z cut from the graph 27.12,
    the mean over pixels 27.12, D_KL averaged over latent dimensions 30.16, a second sigmoid 80.

    Source: Kingma & Welling 2013, §5, figure 2.
    """
    likelihood, divergence = on_test_digits(train_on_digits())
    total = likelihood + divergence
    assert total < 25.2, f"expected −L below 25.2 nats, found {total:.2f}"
    assert 2 < divergence < 5, f"expected D_KL of 2 to 5 nats, found {divergence:.2f}"
    assert total < independent_pixels() - 1.8, f"expected −L well below {independent_pixels():.2f}, found {total:.2f}"


def test_strong_pressure_collapses_the_posterior():
    """With β = 50 the code costs more than it tells: D_KL goes to 0 and the decoder to the pixels' means.

    Measured on 3 seeds: D_KL 0.000 to 0.001, and 27.21 to 27.24 nats against 27.06 of the pixels' means; at β = 1 D_KL
    is 2.9 and −log p(x|z) 21.7.

    Source: Bowman et al. 2016, arXiv:1511.06349, §3; Lucas et al. 2019, arXiv:1911.02469, §4.
    """
    likelihood, divergence = on_test_digits(train_on_digits(beta=50.0, steps=250))
    assert divergence < 0.05, f"expected no code, found D_KL = {divergence:.3f} nats"
    gap = likelihood - independent_pixels()
    assert abs(gap) < 0.4, f"expected −log p(x|z) of the pixels' means, found {gap:.2f} nats above"


def test_superfluous_latents_are_switched_off():
    """Of 8 latent dimensions the digits use about 4; the others carry almost nothing, and unseen digits do as well.

    Measured on 4 seeds: 4 dimensions of 0.47 to 0.83 nats, 4 of 0.01 to 0.09; −L of unseen digits 0.00 to 0.10 nats
    above that of the training digits.  With z cut from the graph none is used, with D_KL averaged over dimensions all.

    Source: Kingma & Welling 2013, §5: "superfluous latent variables did not result in overfitting"; Burda, Grosse &
    Salakhutdinov 2015, arXiv:1509.00519, §5.2: active units.
    """
    vae = train_on_digits()
    train, _, test, _ = digits()
    with torch.no_grad():
        each = gaussian_kl(*vae.encode(test)).mean(0)
        overfit = (vae.elbo(train, samples=10) - vae.elbo(test, samples=10)).item()
    used, idle = (each > 0.3).sum().item(), (each < 0.2).sum().item()
    assert 3 <= used <= 5 and used + idle == 8, f"expected about 4 used and the others idle, found {each.tolist()} nats"
    assert overfit < 0.3, f"expected the bound of unseen digits within 0.3 nats, found it {overfit:.2f} nats below"


def test_reparameterised_gradient_has_the_lower_variance():
    """For d/dμ E[z²], z ~ N(μ, 1) at μ = 0 the gradient through the sample has variance 4, the score function's 15.

    Through the sample it is 2z; the score function gives z² · z, and E[ε⁶] = 15.  100 000 samples, standard errors
    0.02 and 0.3; limits 5 of them.  Measured on 4 seeds: 3.93 to 4.03 and 14.1 to 15.7; with one ε for the batch 0, 0.

    Source: Kingma & Welling 2013, §2.2: the score-function estimator "exhibits very high variance".
    """
    mu = torch.zeros(100_000, 1, dtype=torch.float64, requires_grad=True)
    z = VAE.reparameterize(mu, torch.zeros_like(mu), torch.Generator().manual_seed(0))
    (through_draw,) = torch.autograd.grad(z.square().sum(), mu)
    fixed = z.detach()
    log_q = torch.distributions.Normal(mu, 1.0).log_prob(fixed)
    (score,) = torch.autograd.grad((fixed.square() * log_q).sum(), mu)
    low, high = through_draw.var().item(), score.var().item()
    assert abs(low - 4) < 0.1, f"expected a variance of 4 through the sample, found {low:.3f}"
    assert abs(high - 15) < 1.6, f"expected a variance of 15 by the score function, found {high:.2f}"
    assert high > 3 * low, f"expected a ratio above 3, found {high / low:.2f}"


def test_many_samples_tell_more_about_the_evidence():
    """Of a trained model the bound by 50 weighted samples lies above the bound of eq. 3: the posterior is no Gaussian.

    Measured on 4 seeds: 0.17 to 0.20 nats above; with one sample copied 50 times −0.06 to 0.06.

    Source: Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519, table 1.
    """
    vae, x = train_on_digits(), digits()[2]
    with torch.no_grad():
        gains = [vae.importance_bound(x, 50) - vae.elbo(x, samples=50) for _ in range(8)]
    gain = torch.stack(gains).mean().item()
    assert 0.12 < gain < 0.4, f"expected a bound 0.12 to 0.4 nats tighter, found {gain:.3f}"
