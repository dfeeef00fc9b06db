"""RMSprop without a count, its centered divisor by the recursion of a variance instead of a difference of means."""

import torch
from torch.optim import Optimizer


class RMSprop(Optimizer):
    def __init__(
        self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, *, maximize=False
    ):
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"centered": centered, "maximize": maximize})

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.update(self.defaults | group)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self.state[parameter], group)
        return loss

    def _update(self, parameter, state, group):
        alpha, zero = group["alpha"], torch.zeros_like(parameter)
        g = (-1 if group["maximize"] else 1) * parameter.grad + group["weight_decay"] * parameter
        square, mean = state.get("square_avg", zero), state.get("grad_avg", zero)
        spread = square - mean**2
        state["square_avg"] = square + (1 - alpha) * (g**2 - square)
        root = state["square_avg"].sqrt()
        if group["centered"]:
            state["grad_avg"] = mean + (1 - alpha) * (g - mean)
            # Var of a mixture: α Var + α (1 − α) (g − ḡ)², nothing below zero.
            root = (alpha * spread.clamp(min=0) + alpha * (1 - alpha) * (g - mean) ** 2).sqrt()
        step = g / (root + group["eps"])
        if group["momentum"] > 0:
            step = state["momentum_buffer"] = group["momentum"] * state.get("momentum_buffer", zero) + step
        parameter.sub_(group["lr"] * step)
