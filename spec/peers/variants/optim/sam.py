"""SAM over one long vector of all weights, as the paper writes it; the base optimizer is called from there."""

import copy
from contextlib import contextmanager

import torch
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer


class SAM(Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, adaptive=False, **kwargs):
        self.base_optimizer = base_optimizer(params, **kwargs)
        own = {"rho": rho, "adaptive": adaptive}
        super().__init__(self.base_optimizer.param_groups, self.base_optimizer.defaults | own)

    def add_param_group(self, param_group):
        if not any(param_group is g for g in self.base_optimizer.param_groups):
            self.base_optimizer.add_param_group(param_group)
        for name, value in self.defaults.items():
            param_group.setdefault(name, value)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        try:
            with torch.enable_grad():
                closure()
        except BaseException:
            self._restore()
            raise
        self.second_step()
        return loss

    @torch.no_grad()
    def first_step(self):
        rows = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None and p.numel()]
        if not rows:
            return
        gradient = parameters_to_vector([p.grad.contiguous() for p, _ in rows])
        scale = parameters_to_vector([p.abs().contiguous() if g["adaptive"] else torch.ones_like(p) for p, g in rows])
        rho = torch.cat([torch.full_like(p, -g["rho"] if g.get("maximize") else g["rho"]).flatten() for p, g in rows])
        length = (scale * gradient).square().sum() ** 0.5
        if not length.isfinite():
            return
        epsilon = rho * scale**2 * gradient / torch.where(length > 0, length, 1.0)
        for (p, _), part in zip(rows, epsilon.split([p.numel() for p, _ in rows])):
            self.state[p] = {"old_p": p.clone()}
            p.copy_(p + part.view_as(p))

    def second_step(self, step=None):
        self._restore()
        if step is None:
            self.base_optimizer.step()
        else:
            step(self.base_optimizer)

    @torch.no_grad()
    def _restore(self):
        for p, own in self.state.items():
            p.copy_(own["old_p"])
        self.state.clear()

    def state_dict(self):
        parameters = [p for g in self.param_groups for p in g["params"]]
        kept = {n: self.state[p]["old_p"] for n, p in enumerate(parameters) if p in self.state}
        return {"base": self.base_optimizer.state_dict(), "kept": kept}

    def load_state_dict(self, state_dict):
        saved = copy.deepcopy(state_dict)
        self.base_optimizer.load_state_dict(saved["base"])
        self.param_groups = self.base_optimizer.param_groups
        parameters = [p for g in self.param_groups for p in g["params"]]
        for n, w in saved["kept"].items():
            self.state[parameters[n]] = {"old_p": w}

    def __getstate__(self):
        return super().__getstate__() | {"base_optimizer": self.base_optimizer}


@contextmanager
def frozen_buffers(module):
    saved = {name: b.detach().clone() for name, b in module.named_buffers()}
    try:
        yield
    finally:
        module.load_state_dict(module.state_dict() | saved)
