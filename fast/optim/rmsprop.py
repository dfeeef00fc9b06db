"""RMSprop: divide the gradient by a running average of its recent magnitude.

Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning" (slides 6e); centered and with momentum:
Graves 2013, arXiv:1308.0850, eq. 38-45.

    v_t = α v_{t−1} + (1 − α) g_t²            ḡ_t = α ḡ_{t−1} + (1 − α) g_t
    d_t = √v_t + ε                            centered: d_t = √(v_t − ḡ_t²) + ε
    b_t = μ b_{t−1} + g_t / d_t
    θ_t = θ_{t−1} − η b_t

Convention: as in torch.optim, ε is outside the root (Graves and TensorFlow have it inside), η outside the buffer b
(Graves inside, which differs when η changes), v_0 = 0 without a correction of its bias, and a weight decay λ is an L2
penalty, λθ_{t−1} being part of g_t.
"""

import torch

from ._elementwise import _Elementwise


class RMSprop(_Elementwise):
    """Gradient descent with steps divided by the root of a running mean of squares.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η >= 0, a number or a tensor of one element.
        alpha: decay rate α of the running averages, in [0, 1]: with 1 they never change, above it v would be negative.
        eps: ε >= 0, outside the root.
        weight_decay: λ >= 0 of an L2 penalty; it passes through the division.
        momentum: μ >= 0, decay rate of the buffer of steps; no upper bound, as in torch.optim: with 1 nothing decays.
        centered: if True, divide by the standard deviation instead of the root mean square.
        maximize: if True, ascend.

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, *, maximize=False
    ):
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"centered": centered, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        alpha = (self.defaults | param_group)["alpha"]
        if not alpha <= 1:
            raise ValueError(f"expected 0 <= alpha <= 1, got {alpha}")
        super().add_param_group(param_group)

    def initial_state(self, parameter, group):
        names = ("square_avg",) + ("grad_avg",) * group["centered"] + ("momentum_buffer",) * (group["momentum"] > 0)
        return {name: torch.zeros_like(parameter) for name in names}

    def update(self, parameters, gradients, steps, states, group):
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        if group["weight_decay"] != 0:
            gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        squares = [s["square_avg"] for s in states]  # v
        torch._foreach_mul_(squares, alpha)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - alpha)
        if group["centered"]:
            means = [s["grad_avg"] for s in states]  # ḡ
            torch._foreach_lerp_(means, gradients, 1 - alpha)
            squares = torch._foreach_addcmul(squares, means, means, -1)
            torch._foreach_clamp_min_(squares, 0.0)  # no spread at all may be rounded to less than none
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_add_(denominators, group["eps"])
        if momentum == 0:
            torch._foreach_addcdiv_(parameters, gradients, denominators, -lr)
            return
        buffers = [s["momentum_buffer"] for s in states]  # b
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_addcdiv_(buffers, gradients, denominators)
        torch._foreach_add_(parameters, buffers, alpha=-lr)
