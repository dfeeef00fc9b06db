"""Cases of the activation functions."""

import torch

from impl.layers.activation import SiLU
from spec.cases import Case

NO_PARAMETERS = {"every_parameter_receives_gradient": "it has no parameters"}


def _inputs():
    # Both tails, the neighbourhood of the minimum, and an exact zero.
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 3
    x[0, 0, 0] = 0
    return (x,)


CASES = [Case(item="silu", name="SiLU", build=SiLU, inputs=_inputs, exempt=NO_PARAMETERS)]
