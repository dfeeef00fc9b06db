"""Lookahead as the paper prints it: one tensor after another, slow weights and counts in lists of its own."""

import copy

import torch
from torch.optim import Optimizer


class Lookahead(Optimizer):
    def __init__(self, base_optimizer, k=5, alpha=0.5):
        self.base_optimizer = base_optimizer
        super().__init__(
            base_optimizer.param_groups, base_optimizer.defaults | {"lookahead_k": k, "lookahead_alpha": alpha}
        )
        self.counts = [0 for _ in self.param_groups]

    def add_param_group(self, param_group):
        if not 0 <= param_group.get("lookahead_alpha", 0.5) <= 1:
            raise ValueError("expected 0 <= alpha <= 1")
        if not any(param_group is g for g in self.base_optimizer.param_groups):
            self.base_optimizer.add_param_group(param_group)
            self.counts.append(0)
        for name, value in self.defaults.items():
            param_group.setdefault(name, value)
        self.param_groups = self.base_optimizer.param_groups
        for parameter in param_group["params"]:
            self.state[parameter] = {"slow_params": parameter.detach().clone()}

    def step(self, closure=None):
        loss = self.base_optimizer.step(closure)
        self.counts = [count + 1 for count in self.counts]
        for count, group in zip(self.counts, self.param_groups):
            if count % group["lookahead_k"] == 0:
                for parameter in group["params"]:
                    self._pull_back(parameter, group["lookahead_alpha"])
        return loss

    @torch.no_grad()
    def _pull_back(self, parameter, alpha):
        phi = self.state[parameter]["slow_params"]
        parameter.copy_(parameter if alpha == 1 else phi + alpha * (parameter - phi))
        self.state[parameter]["slow_params"] = parameter.detach().clone()

    def state_dict(self):
        slow = [self.state[p]["slow_params"] for g in self.param_groups for p in g["params"]]
        return {"inner": self.base_optimizer.state_dict(), "slow": slow, "counts": self.counts}

    def load_state_dict(self, state_dict):
        saved = copy.deepcopy(state_dict)
        self.base_optimizer.load_state_dict(saved["inner"])
        self.param_groups, self.counts = self.base_optimizer.param_groups, saved["counts"]
        parameters = [p for g in self.param_groups for p in g["params"]]
        self.state.update({p: {"slow_params": s.to(p)} for p, s in zip(parameters, saved["slow"])})

    def __getstate__(self):
        return super().__getstate__() | {"base_optimizer": self.base_optimizer, "counts": self.counts}
