"""AdamW by running means: m̂ and v̂ are the weighted means of all gradients so far, and need no correction."""

import torch
from torch.optim import Optimizer


class AdamW(Optimizer):
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"amsgrad": amsgrad, "maximize": maximize})

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
                    self._update(parameter, group)
        return loss

    def _update(self, parameter, group):
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        g = -parameter.grad if group["maximize"] else parameter.grad
        t = state["step"] = int(state.get("step", 0)) + 1  # an integer
        means = {}
        for name, new, beta in (("exp_avg", g, beta1), ("exp_avg_sq", g * g, beta2)):
            before = state.get(name, torch.zeros_like(g)) / ((1 - beta ** (t - 1)) if t > 1 else 1)
            weight = (1 - beta) / (1 - beta**t)
            means[name] = (1 - weight) * before + weight * new
            state[name] = (1 - beta**t) * means[name]
        v_hat = means["exp_avg_sq"]
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", 0 * v_hat), state["exp_avg_sq"])
            v_hat = state["max_exp_avg_sq"] / (1 - beta2**t)
        step = means["exp_avg"] / (v_hat.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        parameter.sub_(group["lr"] * step)
