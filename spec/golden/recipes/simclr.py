"""Golden values of SimCLR."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "simclr",
    oracle="optax.losses.ntxent in float64, its gradient by jax",
    second="NumPy, view by view, with the gradient as a softmax by hand",
    needs=("jax", "optax"),
)
def simclr(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    draw = np.random.default_rng(0)
    first = recipe.given("first", draw.integers(-32, 32, (5, 3)) / 16)
    second = recipe.given("second", draw.integers(-32, 32, (5, 3)) / 16)
    labels = jnp.tile(jnp.arange(5), 2)
    z = np.concatenate([first, second])
    for temperature in (0.1, 0.5, 2.0):
        value, gradient = jax.value_and_grad(lambda z, t=temperature: optax.losses.ntxent(z, labels, t))(jnp.asarray(z))
        other, other_gradient = _by_hand(z, temperature)
        recipe.expect(f"loss.{temperature}", value, second=other)
        recipe.expect(f"gradient.{temperature}", gradient, second=other_gradient)


def _by_hand(z, temperature):
    """Eq. 1 for each view; its gradient through the softmax and through the division by the length."""
    n = len(z) // 2
    length = np.sqrt((z**2).sum(1, keepdims=True))
    unit = z / length
    scores = unit @ unit.T / temperature
    total, weights = 0.0, np.zeros((2 * n, 2 * n))
    for i in range(2 * n):
        j, others = (i + n) % (2 * n), np.delete(np.arange(2 * n), i)
        top = scores[i, others].max()
        shares = np.exp(scores[i, others] - top)
        total += top + np.log(shares.sum()) - scores[i, j]
        weights[i, others] = shares / shares.sum()
        weights[i, j] -= 1
    of_unit = (weights + weights.T) @ unit / temperature / (2 * n)
    return total / (2 * n), (of_unit - (of_unit * unit).sum(1, keepdims=True) * unit) / length
