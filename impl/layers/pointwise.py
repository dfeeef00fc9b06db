"""Elementwise functions whose derivative is written out instead of left to autograd.

y = f(x, a, …),  dx = dy · ∂f/∂x,  da = Σ dy · ∂f/∂a  over every element that a was broadcast to.

Autograd would differentiate a formula step by step: it keeps each intermediate, walks over memory once a step, and at a
kink adds up whatever its steps happen to choose. Here only the arguments are kept and the derivative is one formula, so
the choice at a kink is stated.
"""

from collections.abc import Callable
from itertools import zip_longest

from torch import Tensor
from torch.autograd import Function


def pointwise(value: Callable[..., Tensor], *slopes: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function `value` of tensors and numbers, with derivatives given by `slopes`.

    Args:
        value: f(x, a, …), elementwise with broadcasting. Runs without a graph, so it may work in place on its own
            temporaries.
        slopes: ∂f/∂x, ∂f/∂a, … as functions of the same arguments. For a second derivative autograd goes through them:
            they compute from the arguments alone, never from what `value` computed, which would be a constant to it.
    """

    class Pointwise(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments):
            return value(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
            ctx.numbers = tuple(a for a in inputs if not isinstance(a, Tensor))

        @staticmethod
        def backward(ctx, grad):
            arguments = (*ctx.saved_tensors, *ctx.numbers)
            return tuple(
                (grad * slope(*arguments)).sum_to_size(argument.shape) if needed else None
                for argument, slope, needed in zip_longest(arguments, slopes, ctx.needs_input_grad)
            )

    return Pointwise.apply
