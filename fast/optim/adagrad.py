"""AdaGrad: each coordinate has a learning rate of its own, one over the length of all its gradients so far.

Duchi, Hazan & Singer 2011, JMLR 12, figure 1 with diagonal matrices:

    s_t = s_{t−1} + g_t²                      the sum of all squares: nothing is forgotten
    θ_t = θ_{t−1} − η_t g_t / (√s_t + δ)      η_t = η / (1 + (t − 1)·lr_decay)

Convention: as in torch.optim, δ (`eps`) stands outside the root; s_0 is `initial_accumulator_value`, in the paper 0; a
weight decay λ is an L2 penalty, λθ_{t−1} being part of g_t; lr_decay is no part of the paper, where η is constant.
"""

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Adagrad(Optimizer):
    """The adaptive subgradient method with diagonal matrices.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η.
        lr_decay: how fast η falls with a parameter's count of steps, beside the fall by √s.
        weight_decay: λ of an L2 penalty; it passes through the adaptive step.
        initial_accumulator_value: s_0 of every coordinate.
        eps: δ, outside the root.
        maximize: ascend instead of descend?

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        settings["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, settings | {"maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value"):
            if not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_floating_point():
                raise ValueError(f"expected real floating-point parameters, got {parameter.dtype}")

    @torch.no_grad()
    def step(self, closure=None):
        """One step of every parameter that has a gradient.

        Args:
            closure: recomputes the gradients and returns the loss, which `step` then returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, [p.grad for p in parameters], group)
        return loss

    @torch.compiler.disable  # the rates below may change at every step; traced, each step would be compiled anew
    def _update(self, parameters, gradients, group):
        """The equations above for a list of parameters: one horizontally fused call each, in place."""
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        states = [self._state_of(p, group["initial_accumulator_value"]) for p in parameters]
        for s in states:
            s["step"] += 1
        # A parameter's own count: it may have joined late, or been without a gradient now and then.
        rates = [-group["lr"] / (1 + (float(s["step"]) - 1) * group["lr_decay"]) for s in states]
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        if group["weight_decay"] != 0:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])

        sums = [s["sum"] for s in states]
        torch._foreach_addcmul_(sums, gradients, gradients)
        denominators = torch._foreach_sqrt(sums)
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(parameters, gradients, denominators, rates)

    def _state_of(self, parameter, initial):
        """A parameter's sum of squares, `initial` before its first gradient; names are those of torch.optim.Adagrad."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["sum"] = torch.full_like(parameter, initial, memory_format=torch.preserve_format)
        return state
