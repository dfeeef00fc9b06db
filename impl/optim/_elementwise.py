"""What AdamW, Adagrad, RMSprop, RAdam and Lion share: all but the equations, which treat each coordinate by itself."""

import torch
from torch.optim import Optimizer

from ..layers.checks import check_fractions, check_not_negative


class _Elementwise(Optimizer):
    """Takes one parameter after another to `update`, where a subclass has its equations.

    A subclass defines

        initial_state(theta, group)           what is remembered of a parameter, before its first gradient
        update(theta, g, t, state, group)     the parameter's step t = 1, 2, …, in place

    Names and types of the state are those of torch.optim. A setting that a loaded state dict does not have is the
    constructor's: older versions of torch have saved fewer settings, and their counters as integers.
    """

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        check_not_negative(**{name: float(settings[name]) for name in self.defaults if name != "betas"})
        check_fractions(**{f"beta{n}": beta for n, beta in enumerate(settings.get("betas", ()), 1)})
        super().add_param_group(param_group)
        _check_real(self.param_groups)

    def __setstate__(self, state):
        super().__setstate__(state)
        self.param_groups = [self.defaults | group for group in self.param_groups]

    @torch.no_grad()
    @torch.compiler.disable  # t changes at every step; traced, each step would be compiled anew
    def step(self, closure=None):
        """One step of every parameter that has a gradient.

        Args:
            closure: recomputes the gradients and returns the loss, which `step` then returns.
        """
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            settings = group | {"lr": float(group["lr"])}  # a tensor is as good as a number
            for theta in group["params"]:
                if theta.grad is not None:
                    if theta.grad.is_sparse:
                        raise ValueError("expected dense gradients, got a sparse one")
                    state = self.state[theta] = self.state[theta] or self.initial_state(theta, group)
                    # A parameter's own count: it may have joined late, or been without a gradient now and then.
                    state["step"] = state.get("step", torch.tensor(0.0)) + 1
                    g = -theta.grad if group["maximize"] else theta.grad
                    self.update(theta, g, float(state["step"]), state, settings)
        return loss


def _check_real(groups):
    for theta in groups[-1]["params"]:
        if not theta.is_floating_point():
            groups.pop()  # what is refused is not kept
            raise ValueError(f"expected real floating-point parameters, got {theta.dtype}")
