"""Golden values of double dueling DQN."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "double-dueling-dqn",
    oracle="torchrl's DuelingMlpDQNet in float64 and optax.huber_loss",
    second="both streams, the target and the loss in NumPy",
    needs=("jax", "optax", "torch", "torchrl"),
)
def dqn(recipe: Recipe) -> None:
    """Values of six states, the loss of six transitions and its gradient to the states."""
    import jax
    import optax
    import torch
    from torch import nn
    from torchrl.modules.models.models import DuelingMlpDQNet

    jax.config.update("jax_enable_x64", True)
    options = {"activation_class": nn.ReLU}
    model = DuelingMlpDQNet(
        4,
        mlp_kwargs_feature=options
        | {"in_features": 3, "num_cells": [], "out_features": 5, "activate_last_layer": True},
        mlp_kwargs_output=options | {"depth": 1, "num_cells": 5, "bias_last_layer": True},
    ).double()
    model(torch.zeros(1, 3, dtype=torch.float64))
    draw = np.random.default_rng(0)
    networks = {}
    for part in ("learns", "copy"):
        networks[part] = {
            name: recipe.given(f"{part}.{name}", draw.integers(-24, 24, tuple(value.shape)) / 16)
            for name, value in model.state_dict().items()
        }
    states, following = (recipe.given(name, draw.integers(-24, 24, (6, 3)) / 16) for name in ("states", "following"))
    actions = recipe.given("actions", draw.integers(0, 4, 6))
    rewards = recipe.given("rewards", draw.integers(-32, 32, 6) / 16)
    terminated = recipe.given("terminated", np.array([False, True, False, False, True, False]))

    def load(part):
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in networks[part].items()})

    load("copy")
    valuing = model(torch.from_numpy(following)).detach()
    load("learns")
    choosing = model(torch.from_numpy(following)).detach()
    leaf = torch.from_numpy(states).requires_grad_()
    values = model(leaf)
    best = choosing.argmax(1)
    r, ends = torch.from_numpy(rewards), torch.from_numpy(terminated)
    y = torch.where(ends, r, r + 0.9 * valuing[range(6), best])
    errors = values[range(6), actions] - y
    loss = optax.losses.huber_loss(errors.detach().numpy(), delta=1.0).mean()
    slope = jax.grad(lambda e: optax.losses.huber_loss(e, delta=1.0).mean())(errors.detach().numpy())
    (gradient,) = torch.autograd.grad(errors, leaf, torch.from_numpy(np.array(slope)))

    second = _values(networks["learns"], states)
    chosen = _values(networks["learns"], following).argmax(1)
    future = _values(networks["copy"], following)[range(6), chosen]
    off = second[range(6), actions] - np.where(terminated, rewards, rewards + 0.9 * future)
    size = np.abs(off)
    recipe.expect("values", values, second=second)
    recipe.expect("loss", np.array(loss), second=np.where(size <= 1, off**2 / 2, size - 0.5).mean())
    recipe.expect("gradient", gradient)


def _values(weights, states):
    def layer(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = np.maximum(layer(states, "features.0"), 0)
    value, advantage = (layer(np.maximum(layer(x, f"{s}.0"), 0), f"{s}.2") for s in ("value", "advantage"))
    return value + advantage - advantage.mean(1, keepdims=True)
