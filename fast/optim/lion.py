"""Lion: the sign of an interpolation of momentum and gradient; every coordinate moves equally far.

Chen et al. 2023, arXiv:2302.06675, algorithm 2, found by a search over programs ("EvoLved Sign Momentum"):

    c_t = β₁ m_{t−1} + (1 − β₁) g_t
    θ_t = θ_{t−1} − η (sign(c_t) + λ θ_{t−1})
    m_t = β₂ m_{t−1} + (1 − β₂) g_t           after c_t: the direction comes from the momentum before this gradient

Convention: the decay λ is decoupled and multiplied by the learning rate, as in the paper and AdamW of torch.optim;
sign(0) = 0; m_0 = 0 without a correction of its bias, which the sign would not see.
"""

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Lion(Optimizer):
    """Sign descent along an interpolated momentum, with decoupled weight decay.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η; 3 to 10 times smaller than AdamW's (section 5 of the paper).
        betas: β₁ interpolates for the direction, β₂ is the decay rate of the momentum.
        weight_decay: λ; a step takes lr·weight_decay of a parameter away. 3 to 10 times larger than AdamW's.
        maximize: ascend instead of descend?

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in ("lr", "weight_decay"):
            if not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        for n, beta in enumerate(settings["betas"], 1):
            if not 0 <= beta < 1:
                raise ValueError(f"expected 0 <= beta{n} < 1, got {beta}")
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_floating_point():
                raise ValueError(f"expected real floating-point parameters, got {parameter.dtype}")

    def __setstate__(self, state):
        """A state dict of the authors' code has no `maximize`; ours then stays."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", self.defaults["maximize"])

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

    @torch.compiler.disable  # traced, a hundred tensors take half a minute, and again at every new rate
    def _update(self, parameters, gradients, group):
        """The equations above for a list of parameters: one horizontally fused call each, in place."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        momenta = [self._state_of(p)["exp_avg"] for p in parameters]  # m
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)

        if group["weight_decay"] != 0:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
        torch._foreach_sign_(directions)
        torch._foreach_add_(parameters, directions, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1 - beta2)

    def _state_of(self, parameter):
        """A parameter's momentum, zero before its first gradient; the name is that of the authors' code."""
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
