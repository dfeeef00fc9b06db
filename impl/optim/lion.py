"""Lion: the sign of an interpolation of momentum and gradient; every coordinate moves equally far.

Chen et al. 2023, arXiv:2302.06675, algorithm 2, found by a search over programs ("EvoLved Sign Momentum"):

    c_t = β₁ m_{t−1} + (1 − β₁) g_t
    θ_t = θ_{t−1} − η (sign(c_t) + λ θ_{t−1})
    m_t = β₂ m_{t−1} + (1 − β₂) g_t           after c_t: the direction comes from the momentum before this gradient

Convention: the decay λ is decoupled and multiplied by the learning rate, as in the paper and AdamW of torch.optim;
sign(0) = 0; m_0 = 0 without a correction of its bias, which the sign would not see.
"""

import torch

from ._elementwise import _Elementwise


class Lion(_Elementwise):
    """Sign descent along an interpolated momentum, with decoupled weight decay.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η >= 0, a number or a tensor of one element; 3 to 10 times smaller than AdamW's (section 5 of
            the paper).
        betas: β₁ interpolates for the direction, β₂ is the decay rate of the momentum; each in [0, 1).
        weight_decay: λ >= 0; a step takes lr·weight_decay of a parameter away. 3 to 10 times larger than AdamW's.
        maximize: if True, ascend.

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def initial_state(self, theta, group):
        return {"exp_avg": torch.zeros_like(theta)}

    def update(self, theta, g, t, state, group):
        m, (beta1, beta2) = state["exp_avg"], group["betas"]
        c = beta1 * m + (1 - beta1) * g
        theta.mul_(1 - group["lr"] * group["weight_decay"])
        theta.sub_(group["lr"] * c.sign())
        m.mul_(beta2).add_(g, alpha=1 - beta2)
