"""Linear layer y = x Wᵀ + b, the shared foundation of the layers that multiply by a matrix.

Convention: W is (out_features, in_features) as in torch.nn.Linear; W and b are initialised uniformly in
±1/√in_features.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_sizes


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b over the last dimension."""
    return input @ weight.T if bias is None else input @ weight.T + bias


class Linear(nn.Module):
    """y = x Wᵀ + b over the last dimension.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: if True, b is added.

    Raises:
        ValueError: a size below 1, or an input whose last dimension is not `in_features`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        bound = in_features**-0.5
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected a last dimension of {self.in_features}, got {input.shape[-1]}")
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
