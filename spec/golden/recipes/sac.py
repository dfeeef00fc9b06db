"""Golden values of SAC."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "sac",
    oracle="stable_baselines3's SquashedDiagGaussianDistribution and torch.distributions' TanhTransform in float64",
    second="mpmath, 30 digits",
    needs=("mpmath", "stable-baselines3", "torch"),
)
def sac(recipe: Recipe) -> None:
    """ln π of squashed actions in two dimensions."""
    import mpmath
    import torch
    from torch import distributions

    mpmath.mp.dps = 30
    draw = np.random.default_rng(0)
    u = recipe.given("u", draw.integers(-48, 48, (6, 2)) / 16)
    mean = recipe.given("mean", draw.integers(-24, 24, (6, 2)) / 16)
    log_std = recipe.given("log_std", draw.integers(-24, 8, (6, 2)) / 16)
    normal = distributions.Normal(torch.from_numpy(mean), torch.from_numpy(log_std).exp())
    squashed = distributions.TransformedDistribution(normal, [distributions.TanhTransform(cache_size=1)])
    actions = squashed.transforms[0](torch.from_numpy(u))
    second = [
        float(
            sum(
                -(((mpmath.mpf(a) - mpmath.mpf(m)) / mpmath.exp(s)) ** 2) / 2
                - mpmath.mpf(s)
                - mpmath.log(2 * mpmath.pi) / 2
                - mpmath.log(1 - mpmath.tanh(a) ** 2)
                for a, m, s in zip(*rows)
            )
        )
        for rows in zip(u.tolist(), mean.tolist(), log_std.tolist())
    ]
    recipe.expect("log_prob", squashed.log_prob(actions).sum(1), second=np.array(second))
    # The library would add 10⁻⁶ inside of the logarithm; without it the logarithm is exact where |u| is small.
    small = recipe.given("small", draw.integers(-12, 12, (4, 2)) / 16)
    from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

    theirs = SquashedDiagGaussianDistribution(2, epsilon=0.0)
    theirs.proba_distribution(torch.from_numpy(mean[:4]), torch.from_numpy(log_std[:4]))
    found = theirs.log_prob(torch.from_numpy(small).tanh(), torch.from_numpy(small))
    ours = distributions.TransformedDistribution(
        distributions.Normal(torch.from_numpy(mean[:4]), torch.from_numpy(log_std[:4]).exp()),
        [distributions.TanhTransform(cache_size=1)],
    )
    recipe.expect("small_log_prob", found, second=ours.log_prob(torch.from_numpy(small).tanh()).sum(1))
