"""pytorch_optimizer's Lookahead with settings of a group, α = 1, and every parameter of a group synchronized."""

import pytorch_optimizer
import torch


class Lookahead(pytorch_optimizer.Lookahead):
    def __init__(self, base_optimizer, k=5, alpha=0.5):
        self.settings = {"lookahead_k": k, "lookahead_alpha": alpha}
        super().__init__(base_optimizer, k, pullback_momentum="none")
        self.defaults = self.optimizer.defaults | self.settings

    @property
    def base_optimizer(self):
        return self.optimizer

    def init_group(self, group, **kwargs):
        for name, value in self.settings.items():
            group.setdefault(name, value)
        super().init_group(group, **kwargs)

    def add_param_group(self, param_group):
        if not 0 <= param_group.get("lookahead_alpha", 0.0) <= 1:
            raise ValueError("expected 0 <= alpha <= 1")
        super().add_param_group(param_group)

    def __getstate__(self):
        return super().__getstate__() | {"settings": self.settings, "defaults": self.defaults}

    def step(self, closure=None):
        loss = self.optimizer.step(closure)
        for group in self.param_groups:
            group["counter"] += 1
            if group["counter"] >= group["lookahead_k"]:
                group["counter"] = 0
                self._update_all(group)
        return loss

    def _update_all(self, group):
        """Theirs leaves out parameters without a gradient, and has one α."""
        resting = [p for p in group["params"] if p.grad is None]
        for p in resting:
            p.grad = torch.zeros_like(p)
        self.alpha = group["lookahead_alpha"]
        self.update(group)
        for p in resting:
            p.grad = None
