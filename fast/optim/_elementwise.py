"""What AdamW, Adagrad, RMSprop, RAdam and Lion share: each equation is one horizontally fused call for many tensors."""

import torch
from torch.optim import Optimizer


class _Elementwise(Optimizer):
    """Takes all parameters of a group at once to `update`, where a subclass has its equations.

    A subclass defines

        initial_state(parameter, group)                        what is remembered, before the first gradient
        update(parameters, gradients, steps, states, group)    one step of each, in place

    where `steps` are the parameters' own counts: one may have joined late, or been without a gradient now and then.
    Names and types of the state are those of torch.optim. A setting that a loaded state dict does not have is the
    constructor's: older versions of torch have saved fewer settings, and their counters as integers.
    """

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in self.defaults:
            if name != "betas" and not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        for n, beta in enumerate(settings.get("betas", ()), 1):
            if not 0 <= beta < 1:
                raise ValueError(f"expected 0 <= beta{n} < 1, got {beta}")
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if not parameter.is_floating_point():
                self.param_groups.pop()  # what is refused is not kept
                raise ValueError(f"expected real floating-point parameters, got {parameter.dtype}")

    def __setstate__(self, state):
        super().__setstate__(state)
        self.param_groups = [self.defaults | group for group in self.param_groups]

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
                self._step(parameters, group | {"lr": float(group["lr"])})
        return loss

    @torch.compiler.disable  # the counts change at every step; traced, each step would be compiled anew
    def _step(self, parameters, group):
        gradients = [p.grad for p in parameters]
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        for p in parameters:
            if not self.state[p]:
                self.state[p] = self.initial_state(p, group)
        states = [self.state[p] for p in parameters]
        for s in states:
            s["step"] = s.get("step", torch.tensor(0.0)) + 1
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        self.update(parameters, gradients, [float(s["step"]) for s in states], states, group)
