"""Operators that the compiler calls and does not look into.

torch.compile writes loops of its own, in which erfc, and sines in float64, are not vectorised: a loop with one takes
five times as long as torch's kernel. An operator it calls as it is. Those here are outside of autograd: what calls
them has derivatives of its own or none.
"""

import torch
from torch import Tensor
from torch.library import custom_op


@custom_op("deep_learning_blueprint::erfc", mutates_args=())
def erfc(x: Tensor) -> Tensor:
    """1 − erf(x)."""
    return x.erfc()


@erfc.register_fake
def _(x):
    return torch.empty_like(x)


@custom_op("deep_learning_blueprint::turns", mutates_args=())
def turns(angles: Tensor) -> Tensor:
    """The sine and the cosine of each angle, side by side in a new last dimension."""
    return torch.stack([angles.sin(), angles.cos()], dim=-1)


@turns.register_fake
def _(angles):
    return angles.new_empty(*angles.shape, 2)
