"""RAdam: Adam whose adaptive rate is scaled by how well its variance is known, and waits until it is known at all.

Liu et al. 2019, arXiv:1908.03265, algorithm 2:

    m_t = β₁ m_{t−1} + (1 − β₁) g_t           m̂_t = m_t / (1 − β₁ᵗ)
    v_t = β₂ v_{t−1} + (1 − β₂) g_t²          l_t = √(1 − β₂ᵗ) / (√v_t + ε)
    ρ_∞ = 2/(1 − β₂) − 1                      ρ_t = ρ_∞ − 2tβ₂ᵗ/(1 − β₂ᵗ)
    r_t = √[(ρ_t − 4)(ρ_t − 2)ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2)ρ_t)]
    θ_t = θ_{t−1} − η r_t l_t m̂_t             where ρ_t > `threshold`, the rate's variance being tractable
    θ_t = θ_{t−1} − η m̂_t                     elsewhere: momentum alone

Convention: `threshold` is 5 as in torch.optim; the paper has 4, the authors' code ρ_t ≥ 5 and by default no step at all
before. ε is added to √v_t, before the correction, as in torch.optim and the authors' code. A weight decay λ is an L2
penalty, λθ_{t−1} being part of g_t, unless decoupled, when a step takes η·λ of a parameter away first.
"""

import math

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class RAdam(Optimizer):
    """Adam with a rectified adaptive learning rate.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η, the paper's α.
        betas: decay rates β₁, β₂ of the two moments.
        eps: ε, outside the root and before the bias correction.
        weight_decay: λ of an L2 penalty, or of a decoupled decay.
        decoupled_weight_decay: decay as in AdamW, beside the adaptive step?
        threshold: steps are adaptive where ρ_t exceeds it; at least 4, below which r_t is not defined.
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
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        threshold: float = 5.0,
        *,
        maximize: bool = False,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "threshold": threshold}
        super().__init__(params, settings | {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in ("lr", "eps", "weight_decay"):
            if not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        for n, beta in enumerate(settings["betas"], 1):
            if not 0 <= beta < 1:
                raise ValueError(f"expected 0 <= beta{n} < 1, got {beta}")
        if not settings["threshold"] >= 4:
            raise ValueError(f"expected threshold >= 4, got {settings['threshold']}")
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if not parameter.is_floating_point():
                raise ValueError(f"expected real floating-point parameters, got {parameter.dtype}")

    def __setstate__(self, state):
        """A state dict of torch.optim.RAdam has no threshold; ours then stays."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("threshold", self.defaults["threshold"])

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
        lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        states = [self._state_of(p) for p in parameters]
        for s in states:
            s["step"] += 1
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
        if group["decoupled_weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * decay)
        elif decay != 0:
            gradients = torch._foreach_add(gradients, parameters, alpha=decay)

        first = [s["exp_avg"] for s in states]  # m
        second = [s["exp_avg_sq"] for s in states]  # v
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        # A parameter's own count: it may have joined late, or been without a gradient now and then.
        steps = [float(s["step"]) for s in states]
        for t in set(steps):
            of_age = [n for n, age in enumerate(steps) if age == t]
            theta, m, v = ([tensors[n] for n in of_age] for tensors in (parameters, first, second))
            scale = -lr / (1 - beta1**t)
            rectification = _rectification(t, beta2, group["threshold"])
            if rectification is None:
                torch._foreach_add_(theta, m, alpha=scale)
                continue
            denominators = torch._foreach_sqrt(v)
            torch._foreach_add_(denominators, group["eps"])
            torch._foreach_addcdiv_(theta, m, denominators, scale * rectification * math.sqrt(1 - beta2**t))

    def _state_of(self, parameter):
        """A parameter's moments, zero before its first gradient; names and types are those of torch.optim.RAdam."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _rectification(t, beta2, threshold):
    """r_t, or None while the variance of the adaptive rate is intractable: while ρ_t <= threshold."""
    longest = 2 / (1 - beta2) - 1  # ρ_∞
    length = longest - 2 * t * beta2**t / (1 - beta2**t)  # ρ_t
    if length <= threshold:
        return None
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
