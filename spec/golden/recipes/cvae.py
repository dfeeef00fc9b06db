"""Golden values of the conditional variational auto-encoder."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "cvae",
    oracle="torch.distributions, scipy.integrate.quad, scipy.stats.multivariate_normal, gradients by jax",
    second="mpmath with 30 digits, the trapezoidal rule in NumPy over one and two latent dimensions, torch.autograd",
    needs=("torch", "mpmath", "scipy", "jax"),
)
def cvae(recipe: Recipe) -> None:
    _divergences(recipe)
    _one_latent_dimension(recipe)
    _linear_model(recipe)


def _divergences(recipe):
    """Posteriors and priors of two samples as networks give them, μ and then log σ²: Σ_j ∫ q log(q/p)."""
    import mpmath
    import torch
    from torch.distributions import Normal, kl_divergence

    posterior = recipe.given("kl.posterior", [[1.0, -2.5, 0.3, -1.4, 1.2, 0.0], [4.0, -0.7, 0.01, 2.0, -6.0, 0.001]])
    prior = recipe.given("kl.prior", [[0.0, 1.5, 0.3, 0.5, -0.8, 1.0], [1.0, 0.2, 3.0, 2.5, -4.0, 1.5]])
    mpmath.mp.dps = 30

    def integral(mean, log_variance, prior_mean, prior_log_variance):
        scale, prior_scale = mpmath.exp(mpmath.mpf(log_variance) / 2), mpmath.exp(mpmath.mpf(prior_log_variance) / 2)

        def integrand(t):  # z = mean + scale·t
            z = mean + scale * t
            log_q = -(t**2) / 2 - mpmath.log(scale)
            log_p = -(((z - prior_mean) / prior_scale) ** 2) / 2 - mpmath.log(prior_scale)
            return mpmath.npdf(t) * (log_q - log_p)

        return float(mpmath.quad(integrand, mpmath.linspace(-14, 14, 15)))

    halves = [half for heads in (posterior, prior) for half in np.split(heads, 2, axis=1)]
    q, p = (Normal(torch.from_numpy(m), torch.from_numpy(np.exp(v / 2))) for m, v in (halves[:2], halves[2:]))
    recipe.expect("kl", kl_divergence(q, p).sum(1), second=np.vectorize(integral)(*halves).sum(1))


def _weights(recipe):
    """Data of 4 pixels, conditions of 2 numbers, 1 latent dimension."""
    return {
        "encoder.weight": recipe.given(
            "encoder.weight", [[0.9, -0.3, -0.7, 0.2, 0.5, -0.6], [-0.2, 0.4, 0.1, -0.5, -0.4, 0.3]]
        ),
        "encoder.bias": recipe.given("encoder.bias", [0.15, 0.3]),
        "decoder.0.weight": recipe.given("decoder.0.weight", [[1.5, 0.4, -0.2], [-0.8, 1.1, 0.3], [0.4, -0.5, 0.9]]),
        "decoder.0.bias": recipe.given("decoder.0.bias", [0.2, 0.5, -1.0]),
        "decoder.2.weight": recipe.given(
            "decoder.2.weight", [[2.0, -1.0, 0.5], [0.3, 1.2, -2.0], [-1.5, 0.1, 0.9], [0.7, -0.4, 1.1]]
        ),
        "decoder.2.bias": recipe.given("decoder.2.bias", [0.1, -0.6, 0.4, 0.0]),
        "prior.0.weight": recipe.given("prior.0.weight", [[0.8, -1.2], [0.5, 0.7], [-0.9, 0.2]]),
        "prior.0.bias": recipe.given("prior.0.bias", [0.1, -0.3, 0.6]),
        "prior.2.weight": recipe.given("prior.2.weight", [[1.3, -0.7, 0.4], [-0.6, 0.9, 0.5]]),
        "prior.2.bias": recipe.given("prior.2.bias", [0.25, -0.35]),
    }


def _one_latent_dimension(recipe):
    """With one latent dimension all objectives and the predictive mean are one-dimensional integrals."""
    from scipy import integrate, special

    w = _weights(recipe)
    y = recipe.given("data", [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 1.0, 0.8], [1.0, 1.0, 1.0, 0.0]])
    x = recipe.given("condition", [[0.7, -1.1], [-0.4, 1.6], [1.3, 0.2]])

    def logits(n, z):
        inputs = np.stack([z, np.full_like(z, x[n, 0]), np.full_like(z, x[n, 1])], axis=-1)
        hidden = np.tanh(inputs @ w["decoder.0.weight"].T + w["decoder.0.bias"])
        return hidden @ w["decoder.2.weight"].T + w["decoder.2.bias"]

    def log_likelihood(n, z):
        return (y[n] * special.log_expit(logits(n, z)) + (1 - y[n]) * special.log_expit(-logits(n, z))).sum(-1)

    def normal(t):
        return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    def by_quad(f):
        """E[f(ε)], ε ~ N(0, 1)."""

        def integrand(t):
            return normal(t) * float(f(np.array(t)))

        return integrate.quad(integrand, -12, 12, epsabs=1e-13, epsrel=1e-13, limit=400)[0]

    nodes = np.linspace(-12, 12, 1201)

    def by_trapezoids(f):
        """The same; the rule converges exponentially for what decays at both ends."""
        return f(nodes) @ normal(nodes) * (nodes[1] - nodes[0])

    q = np.concatenate([y, x], axis=1) @ w["encoder.weight"].T + w["encoder.bias"]
    p = np.tanh(x @ w["prior.0.weight"].T + w["prior.0.bias"]) @ w["prior.2.weight"].T + w["prior.2.bias"]

    def at(gaussian, t):
        return gaussian[0] + np.exp(gaussian[1] / 2) * t

    def elbo(n, rule):
        ratio = np.exp(q[n, 1] - p[n, 1]) + (q[n, 0] - p[n, 0]) ** 2 / np.exp(p[n, 1])
        divergence = 0.5 * (p[n, 1] - q[n, 1] + ratio - 1)
        return rule(lambda t: log_likelihood(n, at(q[n], t))) - divergence

    def gsnn(n, rule):
        return rule(lambda t: log_likelihood(n, at(p[n], t)))

    def evidence(n, rule):
        return np.log(rule(lambda t: np.exp(log_likelihood(n, at(p[n], t)))))

    def predictive(n, rule):
        return [rule(lambda t, i=i: special.expit(logits(n, at(p[n], t)))[..., i]) for i in range(4)]

    for name, value in (("elbo", elbo), ("gsnn", gsnn), ("evidence", evidence), ("predictive", predictive)):
        first, second = ([value(n, rule) for n in range(len(x))] for rule in (by_quad, by_trapezoids))
        recipe.expect(name, first, second=second)
    at_mean = np.stack([special.expit(logits(n, np.array(p[n, 0]))) for n in range(len(x))])
    recipe.expect("at_the_mean", at_mean, second=_by_torch(w, x))
    _gradients(recipe, w, y, x, nodes, normal(nodes) * (nodes[1] - nodes[0]))


def _by_torch(w, x):
    """The prediction at the prior's mean through torch.nn's functions."""
    import torch
    from torch.nn.functional import linear

    w, x = {n: torch.from_numpy(a) for n, a in w.items()}, torch.from_numpy(x)
    hidden = linear(x, w["prior.0.weight"], w["prior.0.bias"]).tanh()
    mean = linear(hidden, w["prior.2.weight"], w["prior.2.bias"])[:, :1]
    hidden = linear(torch.cat([mean, x], 1), w["decoder.0.weight"], w["decoder.0.bias"]).tanh()
    return linear(hidden, w["decoder.2.weight"], w["decoder.2.bias"]).sigmoid()


def _gradients(recipe, w, y, x, nodes, masses):
    """∂/∂weights of the mean of L_CVAE over the samples, the expectation by the trapezoidal rule."""
    import jax
    import torch

    def bound(w, y, x, nodes, masses, library, cat, softplus):
        q = cat([y, x], -1) @ w["encoder.weight"].T + w["encoder.bias"]
        p = library.tanh(x @ w["prior.0.weight"].T + w["prior.0.bias"]) @ w["prior.2.weight"].T + w["prior.2.bias"]
        z = q[:, :1] + library.exp(q[:, 1:] / 2) * nodes  # (N, nodes)
        by_z, by_x = w["decoder.0.weight"][:, 0], w["decoder.0.weight"][:, 1:]
        hidden = library.tanh(z[..., None] * by_z + (x @ by_x.T + w["decoder.0.bias"])[:, None])
        logits = hidden @ w["decoder.2.weight"].T + w["decoder.2.bias"]
        log_p = (y[:, None] * logits - softplus(logits)).sum(-1) @ masses
        ratio = library.exp(q[:, 1] - p[:, 1]) + (q[:, 0] - p[:, 0]) ** 2 * library.exp(-p[:, 1])
        return (log_p - 0.5 * (p[:, 1] - q[:, 1] + ratio - 1)).mean()

    with jax.enable_x64(True):
        numbers = jax.numpy
        arrays = [numbers.asarray(a) for a in (y, x, nodes, masses)]
        inputs = {n: numbers.asarray(a) for n, a in w.items()}
        found = jax.grad(bound)(inputs, *arrays, numbers, numbers.concatenate, jax.nn.softplus)
        found = {n: np.asarray(a) for n, a in found.items()}
    leaves = {n: torch.from_numpy(a).clone().requires_grad_() for n, a in w.items()}
    others = [torch.from_numpy(a) for a in (y, x, nodes, masses)]
    bound(leaves, *others, torch, torch.cat, torch.nn.functional.softplus).backward()
    for n, leaf in leaves.items():
        recipe.expect(f"gradient.{n}", found[n], second=leaf.grad)


def _linear_model(recipe):
    """p(z|x) = N(Ax + a, P), p(y|x, z) = N(Wz + Vx + b, s² I): log p(y|x) of 3 pairs; columns of W orthogonal."""
    from fractions import Fraction

    from scipy import stats

    columns = [[Fraction(v) for v in column] for column in ([1.2, -0.6, 0.9, 0.3], [-0.4, 0.3, 0.2, 1.6])]
    # Gram and Schmidt: the second column against the first, in fractions, for a dot product rounds by processor.
    share = sum(a * b for a, b in zip(*columns)) / sum(a * a for a in columns[0])
    weight = recipe.given("linear.weight", [[float(a), float(b - share * a)] for a, b in zip(*columns)])
    by_condition = recipe.given(
        "linear.by_condition", [[0.5, -1.0, 0.2], [0.1, 0.4, -0.7], [-0.3, 0.8, 0.6], [1.1, -0.2, 0.9]]
    )
    bias = recipe.given("linear.bias", [0.3, -1.2, 0.8, 2.0])
    prior_weight = recipe.given("linear.prior_weight", [[0.7, -0.5, 1.1], [-0.4, 0.9, 0.2]])
    prior_bias = recipe.given("linear.prior_bias", [0.6, -0.9])
    prior_variance = recipe.given("linear.prior_variance", [0.4, 1.7])
    x = recipe.given("linear.condition", [[1.0, -0.3, 0.5], [0.2, 1.4, -0.8], [-1.1, 0.6, 0.9]])
    y = recipe.given("linear.data", [[0.4, -1.5, 2.0, 3.1], [-1.2, 0.3, 1.7, 0.8], [2.2, -2.0, 0.1, 4.5]])
    variance = 0.35
    prior_mean = x @ prior_weight.T + prior_bias
    mean = prior_mean @ weight.T + x @ by_condition.T + bias
    covariance = weight * prior_variance @ weight.T + variance * np.eye(4)
    values = [stats.multivariate_normal(m, covariance).logpdf(v) for m, v in zip(mean, y)]

    grid = np.linspace(-11, 11, 441)
    masses = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    steps = np.sqrt(prior_variance) * np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)

    def by_grid(n):
        rest = y[n] - (prior_mean[n] + steps) @ weight.T - x[n] @ by_condition.T - bias
        log_p = -0.5 * ((rest**2).sum(-1) / variance + 4 * np.log(2 * np.pi * variance))
        return np.log(masses @ np.exp(log_p) @ masses)

    recipe.expect("linear.evidence", values, second=[by_grid(n) for n in range(3)])
