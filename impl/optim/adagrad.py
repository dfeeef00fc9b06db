"""AdaGrad: each coordinate has a learning rate of its own, one over the length of all its gradients so far.

Duchi, Hazan & Singer 2011, JMLR 12, figure 1 with diagonal matrices:

    s_t = s_{t−1} + g_t²                      the sum of all squares: nothing is forgotten
    θ_t = θ_{t−1} − η_t g_t / (√s_t + δ)      η_t = η / (1 + (t − 1)·lr_decay)

Convention: as in torch.optim, δ (`eps`) is outside the root; s_0 is `initial_accumulator_value`, in the paper 0; a
weight decay λ is an L2 penalty, λθ_{t−1} being part of g_t; lr_decay is no part of the paper, where η is constant.
"""

import torch

from ._elementwise import _Elementwise


class Adagrad(_Elementwise):
    """The adaptive subgradient method with diagonal matrices.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η >= 0, a number or a tensor of one element.
        lr_decay: how fast η falls with a parameter's count of steps, next to the fall by √s; at least 0.
        weight_decay: λ >= 0 of an L2 penalty; it passes through the adaptive step.
        initial_accumulator_value: s_0 >= 0 of every coordinate.
        eps: δ >= 0, outside the root.
        maximize: if True, ascend.

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params,
        lr=1e-2,
        lr_decay=0.0,
        weight_decay=0.0,
        initial_accumulator_value=0.0,
        eps=1e-10,
        *,
        maximize=False,
    ):
        settings = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, settings | {"initial_accumulator_value": initial_accumulator_value})

    def initial_state(self, theta, group):
        return {"sum": torch.full_like(theta, group["initial_accumulator_value"])}

    def update(self, theta, g, t, state, group):
        g = g + group["weight_decay"] * theta
        s = state["sum"].addcmul_(g, g)
        eta = group["lr"] / (1 + (t - 1) * group["lr_decay"])
        theta.sub_(eta * g / (s.sqrt() + group["eps"]))
