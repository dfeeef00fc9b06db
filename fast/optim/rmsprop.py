"""RMSprop: divide the gradient by a running average of its recent magnitude.

Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning" (slides 6e); centered and with momentum:
Graves 2013, arXiv:1308.0850, eq. 38-45.

    v_t = α v_{t−1} + (1 − α) g_t²            ḡ_t = α ḡ_{t−1} + (1 − α) g_t
    d_t = √v_t + ε                            centered: d_t = √(v_t − ḡ_t²) + ε
    b_t = μ b_{t−1} + g_t / d_t
    θ_t = θ_{t−1} − η b_t

Convention: as in torch.optim, ε stands outside the root (Graves and TensorFlow have it inside), η outside the buffer b
(Graves inside, which differs when η changes), v_0 = 0 without a correction of its bias, and a weight decay λ is an L2
penalty, λθ_{t−1} being part of g_t.
"""

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class RMSprop(Optimizer):
    """Gradient descent with steps divided by the root of a running mean of squares.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate η.
        alpha: decay rate α of the running averages.
        eps: ε, outside the root.
        weight_decay: λ of an L2 penalty; it passes through the division.
        momentum: μ, decay rate of the buffer of steps.
        centered: divide by the standard deviation instead of the root mean square?
        maximize: ascend instead of descend?

    Raises:
        ValueError: a setting out of its range, a parameter that is not real, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, settings | {"centered": centered, "maximize": maximize})

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; what `param_group` does not set comes from the constructor."""
        settings = self.defaults | param_group
        for name in ("lr", "eps", "weight_decay"):
            if not settings[name] >= 0:
                raise ValueError(f"expected {name} >= 0, got {settings[name]}")
        for name in ("alpha", "momentum"):
            if not 0 <= settings[name] < 1:
                raise ValueError(f"expected 0 <= {name} < 1, got {settings[name]}")
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

    @torch.compiler.disable  # traced, a hundred tensors take half a minute, and again at every new rate
    def _update(self, parameters, gradients, group):
        """The equations above for a list of parameters: one horizontally fused call each, in place."""
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        if any(g.is_sparse for g in gradients):
            raise ValueError("expected dense gradients, got a sparse one")
        states = [self._state_of(p, group) for p in parameters]
        for s in states:
            s["step"] += 1
        if group["maximize"]:
            gradients = torch._foreach_neg(gradients)
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

    def _state_of(self, parameter, group):
        """A parameter's averages, zero before its first gradient; names are those of torch.optim.RMSprop."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # for the state dict alone: the equations do not count
            names = ("square_avg",) + ("grad_avg",) * group["centered"] + ("momentum_buffer",) * (group["momentum"] > 0)
            for name in names:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
