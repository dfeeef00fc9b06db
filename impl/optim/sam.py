"""Sharpness-aware minimization: descend with the gradient of the worst point nearby, to where the loss is flat.

Foret, Kleiner, Mobahi & Neyshabur 2020, arXiv:2010.01412, algorithm 1; the adaptive form: Kwon, Kim, Park & Choi 2021,
arXiv:2102.11600.

    min_w max_{‖ε‖₂ <= ρ} L(w + ε)                                                     (eq. 1)
    ε̂(w) = ρ ∇L(w) / ‖∇L(w)‖₂                                                          (eq. 2, p = 2)
    w ← base optimizer's step at w, with the gradient ∇L(w + ε̂(w))                      (eq. 3)
    adaptive: ‖ε / |w|‖₂ <= ρ, so ε̂(w) = ρ w² ∇L(w) / ‖ |w| ∇L(w) ‖₂                    (Kwon et al., eq. 8)

Convention: the norm runs over all parameters of all groups together, ρ is a group's own; nothing is added to the
divisor, a gradient that is zero or not finite perturbs nothing. `step` returns the loss at w. The optimizer knows no
module: buffers (a batch norm's running statistics) change in both passes, unless `frozen_buffers` surrounds the second.
"""

import math
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from ..layers.checks import check_not_negative
from ..layers.numerics import at_least_float32
from ._wrapper import _Wrapper


class SAM(_Wrapper):
    """Any optimizer, fed with the gradient at w + ε̂(w).

    `step(closure)` does all; or, where the two passes differ, by hand:

        loss(model(x), y).backward(); optimizer.first_step(); optimizer.zero_grad()
        with frozen_buffers(model):
            loss(model(x), y).backward()
        optimizer.second_step(); optimizer.zero_grad()

    With a `GradScaler`, which takes no closure; an overflow in the first pass perturbs nothing, one in the second steps
    nothing, and either lowers the scale:

        scaler.scale(loss(model(x), y)).backward()
        scaler.unscale_(optimizer); optimizer.first_step(); optimizer.zero_grad()
        with frozen_buffers(model):
            scaler.scale(loss(model(x), y)).backward()
        optimizer.second_step(scaler.step); optimizer.zero_grad()
        scaler.update()

    Between the two passes the weights w are in `state[parameter]["old_p"]`.

    Args:
        params: parameters, or groups of them with settings of their own.
        base_optimizer: class of the optimizer that takes the step, or any function that makes one of `params`.
        rho: radius ρ >= 0 of the neighbourhood.
        adaptive: if True, measure ε relative to the weights, so that the neighbourhood does not depend on their scale.
        kwargs: settings of the base optimizer.

    Raises:
        TypeError: no class to make an optimizer with.
        ValueError: a setting out of its range, a sparse gradient.
    """

    def __init__(self, params, base_optimizer: Callable[..., Optimizer], rho=0.05, adaptive=False, **kwargs):
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
        """From w to w + ε̂(w), with the gradients of w; gradients that are not finite leave w as it is."""
        ascents = []
        for group in self.param_groups:
            # Up for one who descends: towards the largest loss nearby.
            rho = -group["rho"] if group.get("maximize") else group["rho"]
            for w in group["params"]:
                if w.grad is not None:
                    if w.grad.is_sparse:
                        raise ValueError("expected dense gradients, got a sparse one")
                    size = w.abs() if group["adaptive"] else 1.0
                    ascents.append((w, rho * size, size * at_least_float32(w.grad)))
        if not ascents:
            return
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, _, g in ascents]))
        defined = (norm > 0) & (norm < math.inf)
        for w, radius, g in ascents:
            self.state[w]["old_p"] = w.clone()
            w.add_(torch.where(defined, radius * g / norm, 0.0))

    def second_step(self, step: Callable[[Optimizer], object] = lambda base: base.step()) -> None:
        """Back to w, and there the base optimizer's step with the gradients of w + ε̂(w).

        Args:
            step: takes the step, if it is right: `scaler.step` of a GradScaler, say.
        """
        self._restore()
        step(self.base_optimizer)

    @torch.compiler.disable
    @torch.no_grad()
    def _restore(self):
        """Exactly w, as w + ε̂ − ε̂ would round."""
        for w, own in self.state.items():
            if "old_p" in own:
                w.copy_(own.pop("old_p"))

    def _check(self, settings):
        check_not_negative(rho=settings["rho"])


@contextmanager
def frozen_buffers(module: nn.Module):
    """After the block the module's buffers are as before: running statistics, counters, codebooks.

    Source: Foret et al. 2020, algorithm 1 asks the second pass for a gradient and nothing else.
    """
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(module.buffers(), before):
                buffer.copy_(value)
