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

    def initial_state(self, parameter, group):
        names = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * group["amsgrad"]
        return {name: torch.zeros_like(parameter) for name in names}

    def update(self, parameters, gradients, steps, states, group):
        lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
        first = [s["exp_avg"] for s in states]  # m
        second = [s["exp_avg_sq"] for s in states]  # v
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
