"""Sharpness-aware minimization: descend with the gradient of the worst place nearby, to where the loss is flat.

Foret, Kleiner, Mobahi & Neyshabur 2020, arXiv:2010.01412, algorithm 1; the adaptive form: Kwon, Kim, Park & Choi 2021,
arXiv:2102.11600.

    min_w max_{‖ε‖₂ <= ρ} L(w + ε)                                                     (eq. 1)
    ε̂(w) = ρ ∇L(w) / ‖∇L(w)‖₂                                                          (eq. 2, p = 2)
    w ← base optimizer's step at w, with the gradient ∇L(w + ε̂(w))                      (eq. 3)
    adaptive: ‖ε / |w|‖₂ <= ρ, so ε̂(w) = ρ w² ∇L(w) / ‖ |w| ∇L(w) ‖₂                    (Kwon et al., eq. 8)

Convention: the norm runs over all parameters of all groups together, ρ is a group's own; nothing is added to the
divisor, a gradient of zero perturbs nothing. `step` returns the loss at w. The optimizer knows no module: buffers (a
batch norm's running statistics) change in both passes, unless `frozen_buffers` surrounds the second.
"""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ._wrapper import _Wrapper


class SAM(_Wrapper):
    """Any optimizer, fed with the gradient at w + ε̂(w).

    `step(closure)` does all; or, where the two passes differ, by hand:

        loss(model(x), y).backward(); optimizer.first_step(); optimizer.zero_grad()
        with frozen_buffers(model):
            loss(model(x), y).backward()
        optimizer.second_step()

    Between the two the weights w stand in `state[parameter]["old_p"]`.

    Args:
        params: parameters, or groups of them with settings of their own.
        base_optimizer: class of the optimizer that takes the step, or any function that makes one of `params`.
        rho: radius ρ of the neighbourhood.
        adaptive: measure ε relative to the weights, so that the neighbourhood does not depend on their scale?
        kwargs: settings of the base optimizer.

    Raises:
        TypeError: no class to make an optimizer with.
        ValueError: a setting out of its range, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        **kwargs,
    ):
        if not callable(base_optimizer):
            raise TypeError(f"expected the class of an optimizer, got {type(base_optimizer).__name__}")
        super().__init__(base_optimizer(params, **kwargs), {"rho": rho, "adaptive": adaptive})

    def step(self, closure):
        """One step: the closure at w, the closure at w + ε̂(w), the base optimizer's step at w.

        Args:
            closure: zeroes the gradients, recomputes them and returns the loss; called twice.

        Returns:
            the closure's first result, the loss at w.
        """
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        try:
            with torch.enable_grad():
                closure()
        finally:  # also when the closure fails: nobody goes on with perturbed weights
            self._restore()
        self.base_optimizer.step()
        return loss

    @torch.compiler.disable  # the state gains and loses entries; traced, each pass would be compiled anew
    @torch.no_grad()
    def first_step(self) -> None:
        """From w to w + ε̂(w), with the gradients of w."""
        ascents, norms = [], []
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            ascent = [p.grad for p in parameters]
            if any(g.is_sparse for g in ascent):
                raise ValueError("expected dense gradients, got a sparse one")
            if group["adaptive"]:
                sizes = torch._foreach_abs(parameters)
                ascent = torch._foreach_mul(ascent, sizes)  # |w| ∇L, whose norm it is
            norms += torch._foreach_norm(ascent)
            if group["adaptive"]:
                ascent = torch._foreach_mul(ascent, sizes)
            ascents.append((group, parameters, ascent))
        if not norms:
            return
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for group, parameters, ascent in ascents:
            # Up for one who descends: the worst place nearby.
            rho = -group["rho"] if group.get("maximize") else group["rho"]
            scale = torch.where(norm > 0, rho / norm, 0.0)
            for parameter in parameters:
                self.state[parameter]["old_p"] = parameter.clone()
            torch._foreach_add_(parameters, torch._foreach_mul(ascent, scale))

    def second_step(self) -> None:
        """Back to w, and there the base optimizer's step with the gradients of w + ε̂(w)."""
        self._restore()
        self.base_optimizer.step()

    @torch.compiler.disable
    @torch.no_grad()
    def _restore(self):
        """The very bits of w: w + ε̂ − ε̂ would round."""
        moved = [parameter for parameter, own in self.state.items() if "old_p" in own]
        if moved:
            torch._foreach_copy_(moved, [self.state[parameter].pop("old_p") for parameter in moved])

    def _check(self, settings):
        if not settings["rho"] >= 0:
            raise ValueError(f"expected rho >= 0, got {settings['rho']}")


@contextmanager
def frozen_buffers(module: nn.Module):
    """What happens in the block leaves no trace in the module's buffers: running statistics, counters, codebooks.

    Source: Foret et al. 2020, algorithm 1 asks the second pass for a gradient and nothing else.
    """
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(module.buffers(), before):
                buffer.copy_(value)
