"""Reversible residual layers: their inputs follow from their outputs, so that training keeps none of their activations.

Gomez, Ren, Urtasun & Grosse 2017 (RevNet), arXiv:1707.04585; in a transformer: Kitaev, Kaiser & Levskaya 2020
(Reformer), arXiv:2001.04451, §3.

    y₁ = x₁ + F(x₂),   y₂ = x₂ + G(y₁);        x₂ = y₂ − G(y₁),   x₁ = y₁ − F(x₂)

The backward pass of a sequence of such layers goes from the last to the first, subtracts F and G again, and runs each
once more for its gradient, with the same random numbers and under the same autocast as in the forward pass.
"""

import contextlib
import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ReversibleBlock(nn.Module):
    """y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁).

    Args:
        f: F, a module from (batch, tokens, width) to the same; it may take more arguments, see `forward`.
        g: G, likewise.

    Source: Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, eq. 8 and 9.
    """

    def __init__(self, f: nn.Module, g: nn.Module):
        super().__init__()
        self.f, self.g = f, g

    def forward(
        self, x1: Float[Tensor, "*shape"], x2: Float[Tensor, "*shape"], *context: Tensor | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """y₁ and y₂; `context`: further arguments of F."""
        y1 = x1 + self.f(x2, *context)
        return y1, x2 + self.g(y1)

    def inverse(
        self, y1: Float[Tensor, "*shape"], y2: Float[Tensor, "*shape"], *context: Tensor | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """x₁ and x₂, if F and G are deterministic."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2, *context), x2


class ReversibleSequence(nn.Module):
    """Reversible blocks, one after another, whose training needs memory for the activations of one of them.

    Kept are the first inputs, the last outputs, the parameters, and the states of the random generator: 10 kB a block
    on a CPU, 5 for F and 5 for G. Under torch.compile the blocks run as ordinary layers, and the compiler chooses what
    is kept.

    Args:
        blocks: the outputs of one are the inputs of the next.

    Attributes:
        blocks: the same, a `ModuleList`.

    Raises:
        ValueError: no blocks.

    Source: Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, §3; Gomez et al. 2017, arXiv:1707.04585, algorithm 1.
    """

    def __init__(self, *blocks: ReversibleBlock):
        super().__init__()
        if not blocks:
            raise ValueError("expected at least one block, got none")
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x1: Float[Tensor, "*shape"], x2: Float[Tensor, "*shape"], *context: Tensor | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """The last block's y₁ and y₂; `context`: further arguments of each F."""
        if torch.compiler.is_compiling():
            for block in self.blocks:
                x1, x2 = block(x1, x2, *context)
            return x1, x2
        halves = [half for block in self.blocks for half in (_Half(block.f, context), _Half(block.g, ()))]
        return _Reversible.apply(halves, x1, x2, *(value for half in halves for value in half.initial))


class _Half:
    """F or G as a function of its input and its values, which are context and state; replayed as it ran first."""

    def __init__(self, module, context):
        state = dict([*module.named_parameters(), *module.named_buffers()])
        self.module, self.names, self.initial = module, list(state), [*context, *state.values()]
        self.count, self.context = len(self.initial), len(context)

    def __call__(self, x, values, replay=False):
        context, state = values[: self.context], dict(zip(self.names, values[self.context :]))
        if not replay:
            self.conditions = _conditions(x)
        with _as_before(self.conditions, x) if replay else contextlib.nullcontext():
            return torch.func.functional_call(self.module, state, (x, *context))

    def pull_back(self, x, values, wanted, gradient):
        """The output again, and what its gradient gives to x and to the wanted ones of the values."""
        # With gradients on, this pass is to be differentiated itself: then it stays a function of the outputs.
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # New tensors: the gradient of x itself leads back here, and is not asked for.
            x = x.view_as(x) if again else x.detach().requires_grad_()
            values = [v.view_as(v) if again and w else v for v, w in zip(values, wanted)]
            output = self(x, values, replay=True)
            learned = [x, *(v for v, w in zip(values, wanted) if w)]
            d_x, *found = torch.autograd.grad(output, learned, gradient, create_graph=again, allow_unused=True)
        return output if again else output.detach(), d_x, [found.pop(0) if w else None for w in wanted]


class _Reversible(torch.autograd.Function):
    """All blocks as one function of x₁, x₂ and the values of each half."""

    generate_vmap_rule = True

    @staticmethod
    def forward(halves, *tensors):
        return _run(halves, *tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.halves, x1, x2, *values = inputs
        ctx.save_for_backward(*output, *values)
        ctx.save_for_forward(x1, x2, *values)

    @staticmethod
    def backward(ctx, d1, d2):
        x1, x2, *values = ctx.saved_tensors
        values, wanted = _split(ctx.halves, values), _split(ctx.halves, ctx.needs_input_grad[3:])
        grads = []
        for n, half in reversed(list(enumerate(ctx.halves))):
            input, other, d_input, d_other = (x2, x1, d2, d1) if n % 2 == 0 else (x1, x2, d1, d2)
            added, d_added, found = half.pull_back(input, values[n], wanted[n], d_other)
            other, d_input = other - added, d_input if d_added is None else d_input + d_added
            x1, x2, d1, d2 = (other, input, d_other, d_input) if n % 2 == 0 else (input, other, d_input, d_other)
            grads = found + grads
        return None, d1, d2, *grads

    @staticmethod
    def jvp(ctx, *tangents):
        tensors, tangents = ctx.saved_tensors, tangents[1:]
        moving = [n for n, tangent in enumerate(tangents) if tangent is not None]

        def function(*moved):
            moved = dict(zip(moving, moved))
            return _run(ctx.halves, *(moved.get(n, t) for n, t in enumerate(tensors)), replay=True)

        return torch.func.jvp(function, *(tuple(of[n] for n in moving) for of in (tensors, tangents)))[1]


def _run(halves, x1, x2, *values, replay=False):
    """Half a block adds to one of x₁ and x₂ a function of the other: x₁ ← x₁ + F(x₂), then x₂ ← x₂ + G(x₁)."""
    for n, (half, own) in enumerate(zip(halves, _split(halves, values))):
        if n % 2 == 0:
            x1 = x1 + half(x2, own, replay)
        else:
            x2 = x2 + half(x1, own, replay)
    return x1, x2


def _split(halves, values):
    """The values of each half."""
    values = iter(values)
    return [list(itertools.islice(values, half.count)) for half in halves]


def _conditions(like):
    """The states of the random generators that a module may use, and the settings of torch.autocast."""
    kind = like.device.type if like.device.type in ("cpu", "cuda") else "cpu"  # on others the CPU's, without effect
    own = torch.cuda.get_rng_state(like.device) if like.is_cuda else None
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return torch.get_rng_state(), own, {"device_type": kind, "dtype": dtype, "enabled": enabled}


@contextlib.contextmanager
def _as_before(conditions, like):
    """Random numbers and precision as under these conditions; the generators are left as they are."""
    cpu, own, precision = conditions
    with torch.random.fork_rng([like.device] if like.is_cuda else []), torch.autocast(**precision):
        torch.set_rng_state(cpu)
        if like.is_cuda:
            torch.cuda.set_rng_state(own, like.device)
        yield
