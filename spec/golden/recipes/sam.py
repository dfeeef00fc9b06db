"""Golden values of SAM: where it perturbs to, and states after prescribed losses."""

import numpy as np

from spec.golden import Recipe, recipe

START = np.array([1.5, -1.0, 0.5, 0.25, 2.0])
# L_t(w) = Σ w⁴/4 + ½ (c·w)² + b_t·w: curved, coupled, with gradients whose signs and sizes change from step to step.
COUPLING = np.array([0.5, -1.0, 0.3, 2.0, -0.2])
SLOPES = np.array(
    [
        [0.5, -5.0, 1e-5, 0.0, -9.0],
        [-0.1, 3.0, 1e-3, 2.0, -8.0],
        [1.0, 0.01, -1e-5, -2.0, -10.0],
        [-9.0, 1.0, -1e-2, 0.0, -7.0],
        [-0.3, 1e-4, 1e-2, 0.7, 3.0],
        [0.2, -0.4, 5.0, -1e-3, -8.0],
    ]
)
RHO, LR, MOMENTUM = 0.4, 0.03, 0.8


@recipe(
    "sam",
    oracle="optax.contrib.sam over optax.sgd with momentum in float64, its ascent scaled by |w| for the adaptive form",
    second="NumPy with the gradient by hand; pytorch_optimizer agrees to 1e-8, as its norm is in float32",
    needs=("jax", "optax"),
)
def sam(recipe: Recipe) -> None:
    for name, value in (("start", START), ("coupling", COUPLING), ("slopes", SLOPES)):
        recipe.given(name, value)
    for adaptive in (False, True):
        kind = "adaptive" if adaptive else "plain"
        for steps in (1, 6):
            theirs, second = _optax(adaptive, steps), _numpy(adaptive, steps)
            for name, value in theirs.items():
                recipe.expect(f"{kind}.{name}_{steps}", value, second=second[name])


def _optax(adaptive, steps):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    relative = optax.stateless(lambda g, w: jnp.abs(w) * g if adaptive else g)
    ascent = optax.chain(relative, optax.contrib.normalize(), relative, optax.sgd(RHO))
    rule = optax.contrib.sam(optax.sgd(LR, momentum=MOMENTUM), ascent, sync_period=2)
    w = jnp.asarray(START)
    state = rule.init(w)
    for b in SLOPES[:steps]:
        for _ in range(2):  # up, then down from where it began
            perturbed = w
            gradient = jax.grad(lambda w, b=jnp.asarray(b): (w**4 / 4 + b * w).sum() + (COUPLING @ w) ** 2 / 2)(w)
            updates, state = rule.update(gradient, state, w)
            w = optax.apply_updates(w, updates)
    return {"theta": w, "perturbed": perturbed, "momentum_buffer": state.opt_state[0].trace}


def _numpy(adaptive, steps):
    w, velocity = START, np.zeros_like(START)
    for b in SLOPES[:steps]:

        def gradient(w, b=b):
            return w**3 + COUPLING * (COUPLING @ w) + b

        size = np.abs(w) if adaptive else np.ones_like(w)
        g = gradient(w)
        perturbed = w + RHO * size**2 * g / np.linalg.norm(size * g)
        velocity = MOMENTUM * velocity + gradient(perturbed)
        w = w - LR * velocity
    return {"theta": w, "perturbed": perturbed, "momentum_buffer": velocity}
