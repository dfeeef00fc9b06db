"""Reversible residual layers: their inputs follow from their outputs, so that training keeps no activation of any.

Gomez, Ren, Urtasun & Grosse 2017 (RevNet), arXiv:1707.04585; in a transformer: Kitaev, Kaiser & Levskaya 2020
(Reformer), arXiv:2001.04451, §3.

    y₁ = x₁ + F(x₂),   y₂ = x₂ + G(y₁);        x₂ = y₂ − G(y₁),   x₁ = y₁ − F(x₂)

The backward pass of a sequence of such layers goes from the last to the first, takes F and G off again, and runs each
once more for its gradient. What they drew at random, they draw again, and what ran under autocast does again.
"""

import contextlib

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
        """y₁ and y₂; `context` is what F takes beside x₂."""
        y1 = x1 + self.f(x2, *context)
        return y1, x2 + self.g(y1)

    def inverse(
        self, y1: Float[Tensor, "*shape"], y2: Float[Tensor, "*shape"], *context: Tensor | None
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """x₁ and x₂, if F and G draw nothing at random."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2, *context), x2


class ReversibleSequence(nn.Module):
    """Reversible blocks, one after another, whose training needs memory for the activations of one of them.

    Kept are the last outputs, the parameters, and the states of the random generator: 10 kB a block on a CPU, 5 for F
    and 5 for G. Under torch.compile the blocks run as ordinary layers, and the compiler says what is kept.

    Args:
        blocks: of which the outputs of one are the inputs of the next.

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
        """The last block's y₁ and y₂; `context`, which gets no gradient, is what each F takes beside x₂."""
        if torch.compiler.is_compiling():
            for block in self.blocks:
                x1, x2 = block(x1, x2, *context)
            return x1, x2
        halves = [half for block in self.blocks for half in (block.f, block.g)]
        states = [dict([*half.named_parameters(), *half.named_buffers()]) for half in halves]
        return _Reversible.apply(halves, [list(state) for state in states], context, x1, x2, *_values(states))


class _Reversible(torch.autograd.Function):
    """All blocks as one function of x₁, x₂ and the parameters. Half a block adds to one of two numbers what it makes of
    the other: x₁ ← x₁ + F(x₂), then x₂ ← x₂ + G(x₁).
    """

    @staticmethod
    def forward(ctx, halves, names, context, x1, x2, *values):
        ctx.generators = []
        for n, half in enumerate(halves):
            ctx.generators.append(_generators(x1))
            if n % 2 == 0:
                x1 = x1 + half(x2, *context)
            else:
                x2 = x2 + half(x1)
        ctx.halves, ctx.names, ctx.context, ctx.precision = halves, names, context, _precision(x1)
        ctx.save_for_backward(x1, x2, *values)
        return x1, x2

    @staticmethod
    def backward(ctx, d1, d2):
        x1, x2, *values = ctx.saved_tensors
        # With gradients on, this pass is to be derived itself: then it stays a function of the outputs.
        again = torch.is_grad_enabled()
        grads = []
        for n in reversed(range(len(ctx.halves))):
            half, context = (ctx.halves[n], ctx.context) if n % 2 == 0 else (ctx.halves[n], ())
            read, other, d_read, d_other = (x2, x1, d2, d1) if n % 2 == 0 else (x1, x2, d1, d2)
            state = dict(zip(ctx.names[n], values[len(values) - len(ctx.names[n]) :]))
            del values[len(values) - len(state) :]
            with torch.enable_grad(), _as_before(ctx.generators[n], read), torch.autocast(**ctx.precision):
                # New names for what is read: its own gradient leads back here, and is not asked for.
                read = read.view_as(read) if again else read.detach().requires_grad_()
                state = {name: t.view_as(t) for name, t in state.items()} if again else state
                added = torch.func.functional_call(half, state, (read, *context))
                wanted = [read, *(t for t in state.values() if t.requires_grad)]
                slope, *found = torch.autograd.grad(added, wanted, d_other, create_graph=again, allow_unused=True)
            other = other - (added if again else added.detach())
            d_read = d_read if slope is None else d_read + slope
            x1, x2, d1, d2 = (other, read, d_other, d_read) if n % 2 == 0 else (read, other, d_read, d_other)
            found = iter(found)
            grads = [next(found) if t.requires_grad else None for t in state.values()] + grads
        return None, None, None, d1, d2, *grads


def _values(states):
    return [value for state in states for value in state.values()]


def _precision(like):
    """What torch.autocast is told at present; on other devices than these that of a CPU, which is idle there."""
    kind = like.device.type if like.device.type in ("cpu", "cuda") else "cpu"
    return {
        "device_type": kind,
        "dtype": torch.get_autocast_dtype(kind),
        "enabled": torch.is_autocast_enabled(kind),
    }


def _generators(like):
    """The states of the random generators that a module may draw from."""
    own = torch.cuda.get_rng_state(like.device) if like.is_cuda else None
    return torch.get_rng_state(), own


@contextlib.contextmanager
def _as_before(states, like):
    """Draws as from these states, and leaves the generators where they are."""
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.set_rng_state(states[0])
        if like.is_cuda:
            torch.cuda.set_rng_state(states[1], like.device)
        yield
