"""Rectifiers: positive numbers pass through, negative ones are scaled down or saturate.

    LeakyReLU  f(x) = max(0, x) + a min(0, x)             Maas, Hannun & Ng 2013 (ICML workshop), §2
    PReLU      the same; ∂f/∂a = min(0, x)                He, Zhang, Ren & Sun 2015, arXiv:1502.01852, eq. 1 and 3
    ELU        f(x) = max(0, x) + α (e^min(0, x) − 1)     Clevert, Unterthiner & Hochreiter 2015, arXiv:1511.07289

Convention: at the kink x = 0 the derivative is the left one, as torch's: a, or α.
"""

from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._pointwise import pointwise, positive


def _rectifier(x, a):
    return x.clamp(max=0).mul_(a).add_(x.clamp(min=0))


def _rectifier_slope(x, a):
    right = positive(x)
    return (1 - right).mul_(a).add_(right)


_rectify = pointwise(_rectifier, _rectifier_slope, lambda x, a: x.clamp(max=0))


class LeakyReLU(nn.Module):
    """max(0, x) + negative_slope · min(0, x).

    Args:
        negative_slope: a; any finite number.

    Raises:
        ValueError: negative_slope is infinite or NaN.
    """

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        if not isfinite(negative_slope):
            raise ValueError(f"expected a finite negative_slope, got {negative_slope}")
        self.negative_slope = negative_slope

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _rectify(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(nn.Module):
    """max(0, x) + weight · min(0, x), where the weight is learned: one for all, or one a channel (dimension 1).

    Args:
        num_parameters: 1, or the number of channels.
        init: where the weights start.

    Raises:
        ValueError: num_parameters below 1, init infinite or NaN, or an input whose dimension 1 is not num_parameters
            where that is not 1.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25):
        super().__init__()
        if num_parameters < 1:
            raise ValueError(f"expected num_parameters >= 1, got {num_parameters}")
        if not isfinite(init):
            raise ValueError(f"expected a finite init, got {init}")
        self.num_parameters = num_parameters
        self.weight = nn.Parameter(torch.full((num_parameters,), float(init)))

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.num_parameters > 1 and (input.dim() < 2 or input.shape[1] != self.num_parameters):
            raise ValueError(f"expected {self.num_parameters} channels in dimension 1, got shape {tuple(input.shape)}")
        return _rectify(input, self.weight.view([-1 if dim == 1 else 1 for dim in range(input.dim())]))

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


# expm1 keeps the digits that e^x − 1 loses near 0, and the clamp keeps e^x finite on the side that does not need it.
# An ELU is a rectifier whose negative side has slope α e^x.
_elu = pointwise(
    lambda x, alpha: x.clamp(max=0).expm1_().mul_(alpha).add_(x.clamp(min=0)),
    lambda x, alpha: _rectifier_slope(x, alpha * x.clamp(max=0).exp()),
)


class ELU(nn.Module):
    """x where x > 0, else alpha · (e^x − 1): saturates at −alpha.

    Args:
        alpha: α >= 0.

    Raises:
        ValueError: alpha is negative, infinite or NaN.
    """

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        if not (isfinite(alpha) and alpha >= 0):
            raise ValueError(f"expected a finite alpha >= 0, got {alpha}")
        self.alpha = alpha

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _elu(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"
