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

from ._elementwise import _Elementwise


class RAdam(_Elementwise):
    """Adam with a rectified adaptive learning rate.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η >= 0, the paper's α; a number or a tensor of one element.
        betas: decay rates β₁, β₂ of the two moments, each in [0, 1).
        eps: ε >= 0, outside the root and before the bias correction.
        weight_decay: λ >= 0 of an L2 penalty, or of a decoupled decay.
        decoupled_weight_decay: if True, decay as in AdamW, next to the adaptive step.
        threshold: steps are adaptive where ρ_t exceeds it; at least 4, below which r_t is not defined.
        maximize: if True, ascend.

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        threshold=5.0,
        *,
        maximize=False,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "threshold": threshold}
        super().__init__(params, settings | {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        threshold = (self.defaults | param_group)["threshold"]
        if not threshold >= 4:
            raise ValueError(f"expected threshold >= 4, got {threshold}")
        super().add_param_group(param_group)

    def initial_state(self, theta, group):
        return {"exp_avg": torch.zeros_like(theta), "exp_avg_sq": torch.zeros_like(theta)}

    def update(self, theta, g, t, state, group):
        lr, (beta1, beta2) = group["lr"], group["betas"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if group["decoupled_weight_decay"]:
            theta.mul_(1 - lr * group["weight_decay"])
        else:
            g = g + group["weight_decay"] * theta
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        step = m / (1 - beta1**t)  # m̂
        longest = 2 / (1 - beta2) - 1  # ρ_∞
        length = longest - 2 * t * beta2**t / (1 - beta2**t)  # ρ_t
        if length > group["threshold"]:
            r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            step = r * math.sqrt(1 - beta2**t) * step / (v.sqrt() + group["eps"])
        theta.sub_(lr * step)
