"""Lookahead: k steps forward with any optimizer, one step back towards where they began.

Zhang, Lucas, Hinton & Ba 2019, arXiv:1907.08610, algorithm 1.

    θ_{t,0} = φ_{t−1},   θ_{t,i} = θ_{t,i−1} + A(L, θ_{t,i−1}, d) for i = 1 … k        k steps of the inner optimizer A
    φ_t = φ_{t−1} + α (θ_{t,k} − φ_{t−1})                                              one step of the slow weights

Convention: the parameters are the fast weights θ, and equal φ after every k-th step; φ_0 are the parameters as they
were when the optimizer was made. The inner optimizer's own state goes through a synchronization unchanged: its momentum
is neither reset nor interpolated. All parameters of a group are synchronized, also one without a gradient at that step.
"""

import torch
from torch.optim import Optimizer

from ._wrapper import _Wrapper


class Lookahead(_Wrapper):
    """Slow weights φ that follow the fast weights of an inner optimizer every k steps.

    The slow weights are in `state[parameter]["slow_params"]`. The settings are a group's own, under names that no
    inner optimizer uses: `lookahead_k`, `lookahead_alpha`, and `lookahead_step`, the steps that the group has taken.

    Args:
        base_optimizer: the inner optimizer A, over the parameters to optimize.
        k: synchronization period, an integer >= 1.
        alpha: slow weights' step size α in [0, 1]; with 1 nothing is held back.

    Raises:
        TypeError: no optimizer to wrap.
        ValueError: a setting out of its range.
    """

    def __init__(self, base_optimizer: Optimizer, k: int = 5, alpha: float = 0.5):
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(f"expected an optimizer to wrap, got {type(base_optimizer).__name__}")
        super().__init__(base_optimizer, {"lookahead_k": k, "lookahead_alpha": alpha, "lookahead_step": 0})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; their slow weights are what they are now, and their cycle begins."""
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            self.state[parameter]["slow_params"] = parameter.detach().clone()

    def step(self, closure=None):
        """One step of the inner optimizer, and after every k-th one step of the slow weights.

        Args:
            closure: recomputes the gradients at the fast weights and returns the loss, which `step` then returns.
        """
        loss = self.base_optimizer.step(closure)
        self._follow()
        return loss

    @torch.compiler.disable  # the count changes at every step; traced, each step would be compiled anew
    @torch.no_grad()
    def _follow(self):
        """Count the step; if it is a group's k-th, move φ towards θ and set θ to it."""
        for group in self.param_groups:
            group["lookahead_step"] += 1
            if group["lookahead_step"] % group["lookahead_k"] == 0:
                for theta in group["params"]:
                    phi = self.state[theta]["slow_params"]
                    phi.lerp_(theta, group["lookahead_alpha"])  # φ + α (θ − φ)
                    theta.copy_(phi)

    def _check(self, settings):
        k, alpha = settings["lookahead_k"], settings["lookahead_alpha"]
        if not k >= 1 or k % 1:
            raise ValueError(f"expected an integer k >= 1, got {k}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"expected 0 <= alpha <= 1, got {alpha}")
