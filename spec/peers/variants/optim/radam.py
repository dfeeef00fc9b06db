"""RAdam as the paper prints it, one tensor after another: corrected moment, adaptive rate and rectification apart."""

import torch
from torch.optim import Optimizer


class RAdam(Optimizer):
    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        *,
        maximize=False,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize})

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
        state, lr, decay, (beta1, beta2) = self.state[parameter], group["lr"], group["weight_decay"], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        t = int(state["step"])
        g = -parameter.grad if group["maximize"] else parameter.grad
        if group["decoupled_weight_decay"]:
            parameter.sub_(lr * decay * parameter)
        else:
            g = g + decay * parameter
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.copy_(beta1 * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * g**2)
        step = m / (1 - beta1**t)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        if length > 5:
            ratio = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
            # √(v̂) + ε/√(1 − β₂ᵗ): the same as √(1 − β₂ᵗ)/(√v + ε).
            root = (v / (1 - beta2**t)).sqrt() + group["eps"] / (1 - beta2**t) ** 0.5
            step = ratio**0.5 * step / root
        parameter.sub_(lr * step)
