"""Golden values of Lion: states after prescribed gradients."""

import numpy as np

from spec.golden import Recipe, recipe

# Signs change, magnitudes run from 1e-5 to 5, and the fourth coordinate begins with a zero gradient, whose sign is 0.
# β₁ and β₂ lie far apart: each coordinate has a step where the sign of the old momentum decides, and one where the
# gradient does.
GRADIENTS = np.array(
    [
        [0.5, -5.0, 1e-5, 0.0],
        [-0.1, -5.0, 1e-3, 2.0],
        [1.0, 0.01, -1e-5, -2.0],
        [-5.0, 1.0, -1e-2, 0.0],
        [0.3, 3.0, 1e-2, 0.7],
        [0.2, -0.4, -5.0, -1e-3],
    ]
)
START = np.array([2.0, -1.0, 0.5, 0.25])
LR, B1, B2, DECAY = 0.1, 0.6, 0.9, 0.2


@recipe(
    "lion",
    oracle="pytorch_optimizer.Lion in float64",
    second="optax.lion in float64",
    needs=("torch", "pytorch_optimizer", "jax", "optax"),
)
def lion(recipe: Recipe) -> None:
    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for steps in (1, 6):
        theirs, second = _pytorch_optimizer(GRADIENTS[:steps]), _optax(GRADIENTS[:steps])
        for name, value in theirs.items():
            recipe.expect(f"{name}_{steps}", value, second=second[name])


def _pytorch_optimizer(gradients):
    import torch
    from pytorch_optimizer import Lion

    theta = torch.tensor(START, requires_grad=True)
    optimizer = Lion([theta], lr=LR, betas=(B1, B2), weight_decay=DECAY)
    for g in gradients:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return {"theta": theta, "exp_avg": optimizer.state[theta]["exp_avg"]}


def _optax(gradients):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rule = optax.lion(LR, b1=B1, b2=B2, weight_decay=DECAY)
    theta = jnp.asarray(START)
    state = rule.init(theta)
    for g in gradients:
        update, state = rule.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, update)
    return {"theta": theta, "exp_avg": state[0].mu}
