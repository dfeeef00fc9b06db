"""Golden values of AdamW: states after prescribed gradients."""

import numpy as np

from spec.golden import Recipe, recipe

# Signs change, magnitudes run from 1e-5 to 5, and the fourth coordinate pauses at zero.
GRADIENTS = np.array(
    [
        [0.5, -5.0, 1e-5, 0.0],
        [-0.1, -5.0, 1e-3, 2.0],
        [1.0, 0.01, -1e-5, -2.0],
        [5.0, 1.0, -1e-2, 0.0],
        [-0.3, 1e-4, 1e-2, 0.7],
        [0.2, -0.4, 5.0, -1e-3],
    ]
)
SETTINGS = {"lr": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-2, "weight_decay": 0.1}
START = np.array([2.0, -1.0, 0.5, 0.25])


@recipe(
    "adamw",
    oracle="torch.optim.AdamW in float64, plain and with amsgrad",
    second="optax.adamw in float64; for amsgrad NumPy, as optax takes the maximum after the correction",
    needs=("torch", "jax", "optax"),
)
def adamw(recipe: Recipe) -> None:
    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for steps in (1, 6):
        theirs, second = _torch(GRADIENTS[:steps], amsgrad=False), _optax(GRADIENTS[:steps])
        for name, value in theirs.items():
            recipe.expect(f"{name}_{steps}", value, second=second[name])
        # Backwards, the largest v comes early and stays; after one step the maximum is v itself and says nothing more.
        backwards = GRADIENTS[::-1][:steps]
        theirs, second = _torch(backwards, amsgrad=True), _numpy(backwards)
        for name, value in theirs.items():
            if (name, steps) != ("max_exp_avg_sq", 1):
                recipe.expect(f"amsgrad_{name}_{steps}", value, second=second[name])


def _torch(gradients, amsgrad):
    import torch

    theta = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.AdamW(
        [theta],
        lr=SETTINGS["lr"],
        betas=(SETTINGS["b1"], SETTINGS["b2"]),
        eps=SETTINGS["eps"],
        weight_decay=SETTINGS["weight_decay"],
        amsgrad=amsgrad,
    )
    for g in gradients:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    state = optimizer.state[theta]
    names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * amsgrad
    return {"theta": theta} | {name: state[name] for name in names}


def _optax(gradients):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rule = optax.adamw(
        SETTINGS["lr"], *(SETTINGS[n] for n in ("b1", "b2", "eps")), weight_decay=SETTINGS["weight_decay"]
    )
    theta = jnp.asarray(START)
    state = rule.init(theta)
    for g in gradients:
        update, state = rule.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, update)
    return {"theta": theta, "exp_avg": state[0].mu, "exp_avg_sq": state[0].nu}


def _numpy(gradients):
    b1, b2 = SETTINGS["b1"], SETTINGS["b2"]
    theta = START
    for t in range(1, len(gradients) + 1):
        # The moments as the sums that the recursions stand for.
        age = np.arange(t - 1, -1, -1)[:, None]
        m = ((1 - b1) * b1**age * gradients[:t]).sum(0)
        seconds = [
            ((1 - b2) * b2 ** np.arange(i - 1, -1, -1)[:, None] * gradients[:i] ** 2).sum(0) for i in range(1, t + 1)
        ]
        v, largest = seconds[-1], np.max(seconds, axis=0)
        step = (m / (1 - b1**t)) / (np.sqrt(largest / (1 - b2**t)) + SETTINGS["eps"])
        theta = theta - SETTINGS["lr"] * (step + SETTINGS["weight_decay"] * theta)
    return {"theta": theta, "exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": largest}
