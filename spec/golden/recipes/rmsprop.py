"""Golden values of RMSprop: states after prescribed gradients."""

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
START = np.array([2.0, -1.0, 0.5, 0.25])
LR, ALPHA, EPS, DECAY, MOMENTUM = 0.1, 0.8, 1e-2, 0.1, 0.7
# Name → centered, momentum. Plain, and both at once, which has each state twice as many ways to go wrong.
VARIANTS = {"plain": (False, 0.0), "centered": (True, 0.0), "momentum": (False, MOMENTUM), "both": (True, MOMENTUM)}


@recipe(
    "rmsprop",
    oracle="torch.optim.RMSprop in float64, plain, centered, with momentum, and both",
    second="optax.rmsprop in float64 with eps_in_sqrt=False, after optax.add_decayed_weights",
    needs=("torch", "jax", "optax"),
)
def rmsprop(recipe: Recipe) -> None:
    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for variant, (centered, momentum) in VARIANTS.items():
        for steps in (1, 6):
            theirs = _torch(GRADIENTS[:steps], centered, momentum)
            second = _optax(GRADIENTS[:steps], centered, momentum)
            for name, value in theirs.items():
                # After one step the averages know nothing of the variant yet; frozen once.
                if steps == 6 or variant in ("plain", "centered") and name == "theta" or variant == "both":
                    recipe.expect(f"{variant}_{name}_{steps}", value, second=second[name])


def _torch(gradients, centered, momentum):
    import torch

    theta = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.RMSprop(
        [theta], lr=LR, alpha=ALPHA, eps=EPS, weight_decay=DECAY, momentum=momentum, centered=centered
    )
    for g in gradients:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    state = optimizer.state[theta]
    names = ["square_avg"] + ["grad_avg"] * centered + ["momentum_buffer"] * (momentum > 0)
    return {"theta": theta} | {name: state[name] for name in names}


def _optax(gradients, centered, momentum):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rule = optax.chain(
        optax.add_decayed_weights(DECAY),
        optax.rmsprop(LR, decay=ALPHA, eps=EPS, eps_in_sqrt=False, centered=centered, momentum=momentum or None),
    )
    theta = jnp.asarray(START)
    state = rule.init(theta)
    for g in gradients:
        update, state = rule.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, update)
    averages, _, trace = state[1]
    found = {"theta": theta, "square_avg": averages.nu}
    if centered:
        found["grad_avg"] = averages.mu
    if momentum:
        found["momentum_buffer"] = trace.trace / -LR  # optax has the learning rate inside the buffer
    return found
