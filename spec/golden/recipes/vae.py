"""Golden values of the variational auto-encoder."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "vae",
    oracle="torch.distributions, scipy.integrate.quad, and the closed form of probabilistic PCA in NumPy",
    second="mpmath with 30 digits, the trapezoidal rule in NumPy, scipy.stats.multivariate_normal",
    needs=("torch", "mpmath", "scipy", "scikit-learn"),
)
def vae(recipe: Recipe) -> None:
    _divergences(recipe)
    _likelihoods(recipe)
    _one_latent_dimension(recipe)
    _probabilistic_pca(recipe)


def _divergences(recipe):
    """The closed form, against the integral ∫ q log(q/p) with 30 digits."""
    import mpmath
    import torch
    from torch.distributions import Normal, kl_divergence

    mu = recipe.given("kl.mu", [[1.0, -2.5, 0.0, 0.3], [4.0, 0.0, -0.7, 0.01]])
    logvar = recipe.given("kl.logvar", [[-1.3862943611198906, 1.2, 0.0, -3.0], [2.0, -6.0, 0.001, 3.5]])
    prior_mu = recipe.given("kl.prior_mu", [[0.0, 1.5, -0.4, 0.3], [1.0, 0.2, 3.0, -2.0]])
    prior_logvar = recipe.given("kl.prior_logvar", [[0.0, -0.8, 1.0, -3.0], [2.5, -4.0, 1.5, 0.4]])
    mpmath.mp.dps = 30

    def integral(mean, log_variance, prior_mean, prior_log_variance):
        scale, prior_scale = mpmath.exp(mpmath.mpf(log_variance) / 2), mpmath.exp(mpmath.mpf(prior_log_variance) / 2)

        def integrand(t):  # z = mean + scale·t
            z = mean + scale * t
            log_q = -(t**2) / 2 - mpmath.log(scale)
            log_p = -(((z - prior_mean) / prior_scale) ** 2) / 2 - mpmath.log(prior_scale)
            return mpmath.npdf(t) * (log_q - log_p)

        return float(mpmath.quad(integrand, mpmath.linspace(-14, 14, 15)))

    zeros = np.zeros_like(mu)
    for name, prior in (("kl.to_standard", (zeros, zeros)), ("kl.to_prior", (prior_mu, prior_logvar))):
        arrays = (mu, logvar, *prior)
        tensors = [torch.from_numpy(a) for a in arrays]
        q, p = (Normal(m, (0.5 * v).exp()) for m, v in (tensors[:2], tensors[2:]))
        recipe.expect(name, kl_divergence(q, p), second=np.vectorize(integral)(*arrays))


def _likelihoods(recipe):
    """Log-likelihoods of two samples, summed over three dimensions, against 30 digits."""
    import mpmath
    import torch
    from torch.distributions import Bernoulli, Normal

    x = recipe.given("bernoulli.x", [[1.0, 0.0, 0.25], [0.0, 1.0, 0.9]])
    logits = recipe.given("bernoulli.logits", [[-3.0, 2.0, 0.4], [35.0, 35.0, -1.5]])
    value = Bernoulli(logits=torch.from_numpy(logits), validate_args=False).log_prob(torch.from_numpy(x)).sum(1)

    def bernoulli(v, logit):
        y = 1 / (1 + mpmath.exp(-mpmath.mpf(logit)))
        return v * mpmath.log(y) + (1 - v) * mpmath.log(1 - y)

    recipe.expect(
        "bernoulli.log_likelihood", value, second=np.vectorize(bernoulli, otypes="O")(x, logits).sum(1).astype(float)
    )

    x = recipe.given("gaussian.x", [[1.0, -0.5, 0.25], [2.0, 3.0, -7.0]])
    output = recipe.given("gaussian.output", [[0.0, 0.5, 0.2, 1.0, -1.0, -3.0], [2.5, -1.0, -2.0, 0.3, 2.0, 1.7]])
    mean, logvar = output[:, :3], output[:, 3:]
    value = Normal(torch.from_numpy(mean), torch.from_numpy(np.exp(logvar / 2))).log_prob(torch.from_numpy(x)).sum(1)

    def gaussian(v, m, log_variance):
        return mpmath.log(mpmath.npdf(mpmath.mpf(v), m, mpmath.exp(mpmath.mpf(log_variance) / 2)))

    recipe.expect(
        "gaussian.log_likelihood",
        value,
        second=np.vectorize(gaussian, otypes="O")(x, mean, logvar).sum(1).astype(float),
    )


def _one_latent_dimension(recipe):
    """With one latent dimension and a non-linear decoder both L(x) and log p(x) are one-dimensional integrals."""
    from scipy import integrate, special

    w1 = recipe.given("decoder.0.weight", [[1.5], [-0.8], [0.4]])
    b1 = recipe.given("decoder.0.bias", [0.2, 0.5, -1.0])
    w2 = recipe.given("decoder.2.weight", [[2.0, -1.0, 0.5], [0.3, 1.2, -2.0], [-1.5, 0.1, 0.9], [0.7, -0.4, 1.1]])
    b2 = recipe.given("decoder.2.bias", [0.1, -0.6, 0.4, 0.0])
    we = recipe.given("encoder.weight", [[0.9, -0.3, -0.7, 0.2], [-0.2, 0.4, 0.1, -0.5]])
    be = recipe.given("encoder.bias", [0.15, 0.3])
    x = recipe.given("x", [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 1.0, 0.8], [1.0, 1.0, 1.0, 0.0]])

    def log_likelihood(v, z):
        logits = np.tanh(np.multiply.outer(z, w1[:, 0]) + b1) @ w2.T + b2
        return (v * special.log_expit(logits) + (1 - v) * special.log_expit(-logits)).sum(-1)

    def normal(t):
        return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    def by_quad(f):
        """E[f(ε)], ε ~ N(0, 1)."""
        return integrate.quad(lambda t: normal(t) * f(t), -12, 12, epsabs=1e-13, epsrel=1e-13, limit=400)[0]

    nodes = np.linspace(-12, 12, 1201)

    def by_trapezoids(f):
        """The same; the rule converges exponentially for what decays at both ends."""
        return f(nodes) @ normal(nodes) * (nodes[1] - nodes[0])

    codes = x @ we.T + be

    def bound(n, expectation):
        mu, logvar = codes[n]
        divergence = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)
        return expectation(lambda t: log_likelihood(x[n], mu + np.exp(logvar / 2) * t)) - divergence

    def evidence(n, expectation):
        return np.log(expectation(lambda t: np.exp(log_likelihood(x[n], t))))

    for name, value in (("elbo", bound), ("evidence", evidence)):
        first, second = ([value(n, rule) for n in range(len(x))] for rule in (by_quad, by_trapezoids))
        recipe.expect(name, first, second=second)


def _probabilistic_pca(recipe):
    """The maximum of the linear model's likelihood on all digits (grey values 0 to 16), four latent dimensions."""
    from scipy import stats
    from sklearn.datasets import load_digits

    x = load_digits().data
    x = x - x.mean(axis=0)
    d, k = x.shape[1], 4
    # Tipping & Bishop 1999, §3.2: from the eigenvalues alone.
    eigenvalues, vectors = np.linalg.eigh(x.T @ x / len(x))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    noise = eigenvalues[k:].mean()
    closed = -0.5 * (d * np.log(2 * np.pi) + np.log(eigenvalues[:k]).sum() + (d - k) * np.log(noise) + d)
    # The model with the optimal parameters, evaluated on each image; the variance of what the components leave over.
    weight = vectors[:, :k] * np.sqrt(eigenvalues[:k] - noise)
    each = stats.multivariate_normal(np.zeros(d), weight @ weight.T + noise * np.eye(d)).logpdf(x)
    rest = x - x @ vectors[:, :k] @ vectors[:, :k].T
    recipe.expect("ppca.log_likelihood", closed, second=each.mean())
    recipe.expect("ppca.noise", noise, second=(rest**2).sum() / len(x) / (d - k))
    recipe.expect("ppca.first_50", each[:50], second=_by_components(x[:50], vectors, eigenvalues, k, noise))


def _by_components(x, vectors, eigenvalues, k, noise):
    """log p(x) as a sum over independent components along the eigenvectors."""
    variances = np.concatenate([eigenvalues[:k], np.full(len(eigenvalues) - k, noise)])
    return -0.5 * (np.log(2 * np.pi * variances) + (x @ vectors) ** 2 / variances).sum(axis=1)
