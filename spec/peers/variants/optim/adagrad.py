"""AdaGrad one tensor after another, its state made at construction and the root kept as a norm: hypot for √(s + g²)."""

import torch
from torch.optim import Optimizer


class Adagrad(Optimizer):
    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
        *,
        maximize=False,
    ):
        settings = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps, "maximize": maximize}
        super().__init__(params, settings | {"initial_accumulator_value": initial_accumulator_value})

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.update(self.defaults | group)

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            initial = self.param_groups[-1]["initial_accumulator_value"]
            self.state[parameter] = {"step": torch.tensor(0.0), "sum": torch.full_like(parameter, initial)}

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
        rate = group["lr"] / (1 + float(state["step"]) * group["lr_decay"])
        state["step"] += 1
        g = (-1 if group["maximize"] else 1) * parameter.grad + group["weight_decay"] * parameter
        norm = torch.hypot(state["sum"].sqrt(), g)
        state["sum"].add_(g.square())
        parameter.sub_(rate * g / (norm + group["eps"]))
