"""Golden values of the activation functions."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe("silu", oracle="torch.nn.SiLU in float64", second="mpmath, 30 digits", needs=("torch", "mpmath"))
def silu(recipe: Recipe) -> None:
    import mpmath
    import torch

    x = torch.from_numpy(recipe.given("x", np.linspace(-8, 8, 33))).requires_grad_()
    y = torch.nn.SiLU()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    mpmath.mp.dps = 30

    def f(t):
        return t / (1 + mpmath.exp(-t))

    recipe.expect("y", y, second=[float(f(mpmath.mpf(t))) for t in x.tolist()])
    recipe.expect("slope", slope, second=[float(mpmath.diff(f, mpmath.mpf(t))) for t in x.tolist()])
