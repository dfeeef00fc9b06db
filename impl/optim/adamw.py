"""AdamW: Adam's adaptive step, and a weight decay that does not pass through the adaptive step.

Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2; the moments: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1.

    m_t = β₁ m_{t−1} + (1 − β₁) g_t                 m̂_t = m_t / (1 − β₁ᵗ)
    v_t = β₂ v_{t−1} + (1 − β₂) g_t²                v̂_t = v_t / (1 − β₂ᵗ)
    θ_t = θ_{t−1} − η m̂_t / (√v̂_t + ε) − η λ θ_{t−1}

Convention: as in torch.optim, the learning rate η multiplies the decay too; the paper writes η_t (α m̂/(√v̂ + ε) + λθ),
so its λ is `lr·weight_decay` here. AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237) divides by the running maximum
of v_t, taken before the bias correction.
"""

import torch

from ._elementwise import _Elementwise


class AdamW(_Elementwise):
    """Adam with decoupled weight decay.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η >= 0, a number or a tensor of one element.
        betas: decay rates β₁, β₂ of the two moments, each in [0, 1).
        eps: ε >= 0, outside the root.
        weight_decay: λ >= 0; a step takes lr·weight_decay of a parameter away.
        amsgrad: if True, divide by the largest v so far instead of the last.
        maximize: if True, ascend.

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, settings | {"amsgrad": amsgrad, "maximize": maximize})

    def initial_state(self, theta, group):
        names = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * group["amsgrad"]
        return {name: torch.zeros_like(theta) for name in names}

    def update(self, theta, g, t, state, group):
        m, v, (beta1, beta2) = state["exp_avg"], state["exp_avg_sq"], group["betas"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            v = torch.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta.mul_(1 - group["lr"] * group["weight_decay"])
        theta.sub_(group["lr"] * m_hat / (v_hat.sqrt() + group["eps"]))
