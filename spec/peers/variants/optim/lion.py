"""Lion one tensor after another, in the order of the paper's program: momentum from the update, decay in the update."""

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
        m = state.setdefault("exp_avg", torch.zeros_like(parameter))
        g = -parameter.grad if group["maximize"] else parameter.grad
        update = torch.sign(beta1 * m + (1 - beta1) * g)
        m.copy_(beta2 * m + (1 - beta2) * g)
        parameter.sub_(group["lr"] * (update + group["weight_decay"] * parameter))
