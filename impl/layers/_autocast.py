"""Mixed precision for functions that bring a backward pass of their own: torch.autocast does not look inside of them.

It casts the operands of each product by itself, but not those of products in place, nor in a backward pass that is run
outside of its region, where what was saved would meet gradients of another dtype.
"""

import contextlib
import functools

import torch


def without_autocast(method):
    """`method(ctx, …)` with every operand in the dtype that it has."""

    @functools.wraps(method)
    def exact(ctx, *operands):
        device = next((t.device.type for t in operands if t is not None), "")  # all None: gradients that nobody gave
        available = device and torch.amp.is_autocast_available(device)
        with torch.autocast(device, enabled=False) if available else contextlib.nullcontext():
            return method(ctx, *operands)

    return exact
