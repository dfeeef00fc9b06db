"""RMSprop of optax in torch's order, without a count: the learning rate outside the buffer, ε outside the root."""

import optax

from ..adapter import Functional


class RMSprop(Functional):
    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
        *,
        maximize=False,
    ):
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"centered": centered, "maximize": maximize})

    def rule(self, group):
        scale = optax.scale_by_stddev if group["centered"] else optax.scale_by_rms
        return optax.chain(
            optax.add_decayed_weights(group["weight_decay"]),
            scale(decay=group["alpha"], eps=group["eps"], eps_in_sqrt=False),
            *[optax.trace(decay=group["momentum"])] * (group["momentum"] > 0),
            optax.scale(-group["lr"]),
        )

    def names(self, group):
        names = {"square_avg": "nu"}
        if group["centered"]:
            names["grad_avg"] = "mu"
        if group["momentum"] > 0:
            names["momentum_buffer"] = "trace"
        return names
