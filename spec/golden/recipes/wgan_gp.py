"""Golden values of WGAN-GP."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "wgan-gp",
    oracle="jax: the gradient of the squared slope, float64",
    second="NumPy: the slope of a network of one hidden layer by hand, its derivatives by a complex step",
    needs=("jax",),
)
def wgan_gp(recipe: Recipe) -> None:
    """The penalty of D(x) = v·tanh(W x + b) at given points, and its gradient to W, b and v."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    draw = np.random.default_rng(0)
    points = recipe.given("points", draw.integers(-32, 32, (4, 3)) / 16)
    given = [
        recipe.given(name, draw.integers(-24, 24, shape) / 16)
        for name, shape in (("weight", (5, 3)), ("bias", (5,)), ("output", (1, 5)))
    ]

    def penalty(weight, bias, output):
        slope = jax.vmap(jax.grad(lambda x: output[0] @ jnp.tanh(weight @ x + bias)))(jnp.asarray(points))
        return ((jnp.sqrt((slope**2).sum(1)) - 1) ** 2).mean()

    def by_hand(weight, bias, output):
        rise = 1 - np.tanh(points @ weight.T + bias) ** 2
        slope = (output[0] * rise) @ weight
        return ((np.sqrt((slope**2).sum(1)) - 1) ** 2).mean()

    recipe.expect("penalty", penalty(*map(jnp.asarray, given)), second=by_hand(*given))
    gradients = jax.grad(penalty, argnums=(0, 1, 2))(*map(jnp.asarray, given))
    for which, (name, gradient) in enumerate(zip(("weight", "bias", "output"), gradients)):
        second = np.zeros_like(given[which])
        for place in np.ndindex(second.shape):  # f(x + ih) = f(x) + ih f′(x): no difference is taken
            moved = [a.astype(complex) for a in given]
            moved[which][place] += 1e-30j
            second[place] = by_hand(*moved).imag / 1e-30
        recipe.expect(f"gradient.{name}", gradient, second=second)
