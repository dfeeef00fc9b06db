"""What contrastive losses share: vectors of length 1, and the batches of all processes as one."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.autograd import Function

from .numerics import at_least_float32


def unit_length(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """x / ‖x‖₂ over the last dimension, in float32 or wider; 0, with a gradient of 0, where x is 0."""
    x = at_least_float32(x)
    largest = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)  # so that no square overflows
    squared = x.square().sum(-1, keepdim=True)
    return x * torch.where(squared > 0, squared, 1).rsqrt()


class _Gathered(Function):
    """All processes' rows; each row's gradient is the sum of what the processes' losses make of it."""

    @staticmethod
    def forward(ctx, x):
        rows = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, x.contiguous())
        ctx.size = len(x)
        return torch.cat(rows)

    @staticmethod
    def backward(ctx, dy):
        total = dy.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.split(ctx.size)[distributed.get_rank()]


def gather_embeddings(x: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """The rows of all processes in the order of their ranks, with gradients; x itself where there is one process.

    A loss of the gathered rows is that of the whole batch in every process. The sum of its gradients over the processes
    is as many times the whole batch's as there are processes, and data-parallel training averages them: it is exact.

    Args:
        x: as many rows in every process.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return x
    return _Gathered.apply(x)
