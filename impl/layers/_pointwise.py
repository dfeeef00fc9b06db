"""Elementwise functions whose derivative is written out instead of left to autograd.

    y = f(x, a, …)      dx = dy · ∂f/∂x      da = Σ dy · ∂f/∂a, over the elements that a was broadcast to

Autograd differentiates a formula step by step: it keeps every intermediate, walks over memory once a step, and where a
kink lies it adds up what each step happens to choose. Here only the arguments are kept and each derivative is one
formula, so the choice at a kink is stated.
"""

from collections.abc import Callable
from itertools import zip_longest

from torch import Tensor
from torch.autograd import Function


def pointwise(value: Callable[..., Tensor], *slopes: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function `value` with the derivatives `slopes`; both take the same tensors, then numbers.

    Args:
        value: f(x, a, …). It runs without a graph, so it may work in place on its own temporaries.
        slopes: ∂f/∂x, ∂f/∂a, … in the order of the arguments; numbers need none. A second derivative goes through them
            by autograd: they start from the arguments, never from a result of `value`, which is a constant to autograd.
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


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, in the dtype of x; its derivative is 0.

    A mask that follows noise defeats a processor's branch prediction: `where` takes ten times as long.
    """
    return x.sign().clamp_(min=0)
