"""AdamW: Adam's adaptive step, and a weight decay that does not pass through the adaptive step.

Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2; the moments: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1.

    m_t = β₁ m_{t−1} + (1 − β₁) g_t                 m̂_t = m_t / (1 − β₁ᵗ)
    v_t = β₂ v_{t−1} + (1 − β₂) g_t²                v̂_t = v_t / (1 − β₂ᵗ)
    θ_t = θ_{t−1} − η m̂_t / (√v̂_t + ε) − η λ θ_{t−1}

Convention: as in torch.optim, the learning rate η multiplies the decay too; the paper writes η_t (α m̂/(√v̂ + ε) + λθ),
so its λ is `lr·weight_decay` here. AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237) divides by the running maximum
of v_t, taken before the bias correction.
"""

import math

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η.
        betas: decay rates β₁, β₂ of the two moments.
        eps: ε, outside the root.
        weight_decay: λ; a step takes lr·weight_decay of a parameter away.
        amsgrad: divide by the largest v so far instead of the last?
        maximize: ascend instead of descend?

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"amsgrad": amsgrad, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in ("lr", "eps", "weight_decay"):
            if not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        for n, beta in enumerate(settings["betas"], 1):
            if not 0 <= beta < 1:
                raise ValueError(f"expected 0 <= beta{n} < 1, got {beta}")
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

    @torch.compiler.disable  # the scalars below change at every step; traced, each step would be compiled anew
    def _update(self, parameters, gradients, group):
        """The equations above for a list of parameters: one horizontally fused call each, in place."""
        lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        states = [self._state_of(p, group["amsgrad"]) for p in parameters]
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        first = [s["exp_avg"] for s in states]  # m
        second = [s["exp_avg_sq"] for s in states]  # v
        for s in states:
            s["step"] += 1
        # A parameter's own count: it may have joined late, or been without a gradient now and then.
        steps = [float(s["step"]) for s in states]
        corrections1 = [1 - beta1**t for t in steps]
        corrections2 = [math.sqrt(1 - beta2**t) for t in steps]

        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        if group["amsgrad"]:
            largest = [s["max_exp_avg_sq"] for s in states]
            torch._foreach_maximum_(largest, second)
            second = largest
        # m̂/(√v̂ + ε) with both sides multiplied by √(1 − β₂ᵗ): scalars take the correction, one pass over memory less.
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, [eps * c2 for c2 in corrections2])
        scales = [-lr * c2 / c1 for c1, c2 in zip(corrections1, corrections2)]
        torch._foreach_addcdiv_(parameters, first, denominators, scales)

    def _state_of(self, parameter, amsgrad):
        """A parameter's moments, zero before its first gradient; names and types are those of torch.optim.AdamW."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * amsgrad:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
