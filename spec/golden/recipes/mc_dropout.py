"""Golden values of Monte Carlo dropout: entropies, likelihoods, precisions, and moments over all masks of a network."""

import itertools

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "mc-dropout",
    oracle="scipy.stats and scipy.special; the moments over all masks of a small network by enumeration in NumPy",
    second="mpmath, 30 digits; the moments by torch over the same masks",
    needs=("scipy", "mpmath", "torch"),
)
def mc_dropout(recipe: Recipe) -> None:
    _entropies(recipe)
    _likelihoods(recipe)
    _precisions(recipe)
    _all_masks(recipe)


def _entropies(recipe):
    import mpmath
    from scipy.stats import entropy

    mpmath.mp.dps = 30
    p = recipe.given(
        "entropy.p",
        [
            [[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.001, 0.499, 0.5]],
            [[0.1, 0.3, 0.6], [0.0, 1.0, 0.0], [0.002, 0.498, 0.5]],
            [[0.25, 0.25, 0.5], [0.0, 0.9, 0.1], [0.0, 0.5, 0.5]],
            [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [0.003, 0.497, 0.5]],
        ],
    )

    def exact(q):
        return -sum(mpmath.mpf(v) * mpmath.log(v) for v in map(mpmath.mpf, q) if v)

    def exact_mean(draws):
        return [sum(map(mpmath.mpf, column)) / len(draws) for column in draws.T]

    total = entropy(p.mean(0), axis=-1)
    left = entropy(p, axis=-1).mean(0)
    totals = [exact(exact_mean(p[:, b])) for b in range(3)]
    lefts = [sum(exact(q) for q in p[:, b]) / 4 for b in range(3)]
    recipe.expect("entropy.predictive", total, second=[float(v) for v in totals])
    recipe.expect("entropy.expected", left, second=[float(v) for v in lefts])
    recipe.expect("entropy.information", total - left, second=[float(a - b) for a, b in zip(totals, lefts)])


def _likelihoods(recipe):
    import mpmath
    from scipy.special import logsumexp
    from scipy.stats import norm

    mpmath.mp.dps = 30
    samples = recipe.given(
        "likelihood.samples", [[[0.5, -1.0], [3.0, 2.0]], [[0.7, -0.4], [2.5, 8.0]], [[-0.2, 0.1], [2.9, 2.2]]]
    )
    target = recipe.given("likelihood.target", [[0.4, -0.6], [40.0, 2.1]])
    for tau in (0.7, 12.0):
        density = norm.logpdf(target, samples, tau**-0.5).sum(2)
        exact = [
            mpmath.log(
                sum(
                    mpmath.fprod(mpmath.npdf(y, m, 1 / mpmath.sqrt(tau)) for y, m in zip(target[b], draw[b]))
                    for draw in samples
                )
                / 3
            )
            for b in range(2)
        ]
        name = f"likelihood.tau_{tau:g}"
        recipe.expect(name, logsumexp(density, axis=0) - np.log(3), second=[float(v) for v in exact])


def _precisions(recipe):
    import mpmath

    settings = recipe.given("precision.settings", [[0.1, 1e-2, 1000, 1e-5], [0.5, 3.0, 40, 0.02], [0.05, 0.3, 7, 1e-3]])
    exact = [
        float((1 - mpmath.mpf(p)) * mpmath.mpf(s) ** 2 / (2 * mpmath.mpf(n) * mpmath.mpf(d))) for p, s, n, d in settings
    ]
    recipe.expect("precision.tau", [(1 - p) * s**2 / (2 * n * d) for p, s, n, d in settings], second=exact)


def _all_masks(recipe):
    """y = V relu(W (x ⊙ r / (1 − p)) ⊙ s / (1 − q)): mean and variance over all 2³·2⁴ masks r, s."""
    import torch

    x = recipe.given("masks.x", [[1.0, -2.0, 0.5], [0.3, 0.8, -1.5]])
    w = recipe.given("masks.0.weight", [[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [-0.4, 0.9, 0.2], [0.8, -0.6, -1.1]])
    v = recipe.given("masks.1.weight", [[1.0, -0.5, 2.0, 0.7], [-1.2, 0.4, 0.6, 1.5]])
    p, q = 0.2, 0.6
    first = second = 0.0
    ours = []
    for bits in itertools.product((0, 1), repeat=7):
        r, s = np.array(bits[:3]), np.array(bits[3:])
        chance = np.prod(np.where(r, 1 - p, p)) * np.prod(np.where(s, 1 - q, q))
        y = (np.maximum((x * r / (1 - p)) @ w.T, 0) * s / (1 - q)) @ v.T
        first, second = first + chance * y, second + chance * y**2
        hidden = torch.relu(torch.einsum("hd,bd->bh", torch.from_numpy(w * r), torch.from_numpy(x) / (1 - p)))
        ours.append((chance, torch.einsum("oh,bh->bo", torch.from_numpy(v * s), hidden) / (1 - q)))
    probabilities = torch.tensor([c for c, _ in ours], dtype=torch.float64)[:, None, None]
    outputs = torch.stack([y for _, y in ours])
    mean = (probabilities * outputs).sum(0)
    recipe.expect("masks.mean", first, second=mean)
    recipe.expect("masks.variance", second - first**2, second=(probabilities * (outputs - mean) ** 2).sum(0))
