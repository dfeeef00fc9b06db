"""Lion of optax."""

import optax

from ..adapter import Functional


class Lion(Functional):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def rule(self, group):
        return optax.chain(
            optax.scale_by_lion(*group["betas"]),
            optax.add_decayed_weights(group["weight_decay"]),
            optax.scale(-group["lr"]),
        )

    def names(self, group):
        return {"exp_avg": "mu"}
