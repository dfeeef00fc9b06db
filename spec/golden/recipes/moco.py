"""Golden values of MoCo."""

from collections import deque

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "moco",
    oracle="optax: cross entropy with jax's gradient, incremental_update and sgd in float64; collections.deque",
    second="NumPy, the gradient by hand",
    needs=("jax", "optax"),
)
def moco(recipe: Recipe) -> None:
    """Four steps of training a linear encoder, 3 → 2, batches of 2 and a queue of 5, so that it goes around."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    draw = np.random.default_rng(0)
    first = recipe.given("x_q", draw.integers(-32, 32, (4, 2, 3)) / 16)
    second = recipe.given("x_k", draw.integers(-32, 32, (4, 2, 3)) / 16)
    of_q, of_k = (recipe.given(name, draw.integers(-16, 16, (2, 3)) / 16) for name in ("of_q", "of_k"))
    queue = recipe.given("queue", np.array([[0.6, 0.8], [-0.8, 0.6], [1.0, 0.0], [0.28, -0.96], [0.0, -1.0]]))

    def unit(x):
        return x / jnp.sqrt((x * x).sum(-1, keepdims=True))

    def loss(weight, x, k, keys):
        q = unit(x @ weight.T)
        logits = jnp.concatenate([(q * k).sum(1, keepdims=True), q @ keys.T], axis=1) / 0.2
        zeros = jnp.zeros(len(q), dtype=int)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, zeros).mean(), logits

    rows = deque(range(5))
    keys, sgd = jnp.asarray(queue), optax.sgd(0.5)
    theta, slow = jnp.asarray(of_q), jnp.asarray(of_k)
    state = sgd.init(theta)
    others = _by_hand(first, second, of_q, of_k, queue)
    for step in range(4):
        slow = optax.incremental_update(theta, slow, 0.25)
        k = unit(second[step] @ slow.T)
        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(theta, first[step], k, keys)
        updates, state = sgd.update(gradient, state)
        theta = optax.apply_updates(theta, updates)
        for key in k:
            keys = keys.at[rows[0]].set(key)
            rows.rotate(-1)
        found = {"logits": logits, "loss": value, "gradient": gradient, "of_k": slow, "queue": keys}
        for (name, expected), other in zip(found.items(), next(others), strict=True):
            recipe.expect(f"{name}.{step}", expected, second=other)


def _by_hand(first, second, theta, slow, queue):
    """The same with the softmax's derivative and that of the length written out."""
    theta, slow, queue, oldest = theta.copy(), slow.copy(), queue.copy(), 0
    for x_q, x_k in zip(first, second):
        slow = 0.75 * slow + 0.25 * theta
        k = x_k @ slow.T
        k /= np.linalg.norm(k, axis=1, keepdims=True)
        z = x_q @ theta.T
        length = np.linalg.norm(z, axis=1, keepdims=True)
        q = z / length
        logits = np.array([[q[i] @ key for key in (k[i], *queue)] for i in range(2)]) / 0.2
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        value = -np.log(shares[:, 0]).mean()
        shares[:, 0] -= 1
        of_q = np.array([shares[i, 0] * k[i] + shares[i, 1:] @ queue for i in range(2)]) / 0.2 / 2
        of_z = (of_q - (of_q * q).sum(1, keepdims=True) * q) / length
        gradient = of_z.T @ x_q
        theta = theta - 0.5 * gradient
        for key in k:
            queue[oldest % 5] = key
            oldest += 1
        yield logits, value, gradient, slow, queue.copy()
