"""Lion by a threshold: a step goes down unless the gradient is so far below zero that it outweighs the momentum."""

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", self.defaults["maximize"])

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter, group):
        (beta1, beta2), state = group["betas"], self.state[parameter]
        g = -parameter.grad if group["maximize"] else parameter.grad
        m = state.get("exp_avg", torch.zeros_like(parameter))
        threshold = -beta1 / (1 - beta1) * m
        direction = (g > threshold).to(g.dtype) - (g < threshold).to(g.dtype)
        state["exp_avg"] = m + (1 - beta2) * (g - m)
        decayed = parameter - group["lr"] * group["weight_decay"] * parameter
        parameter.copy_(decayed - group["lr"] * direction)
