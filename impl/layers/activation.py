"""Activation functions: rectifiers, and gates, which multiply the input by a number in [0, 1] that grows with it.

    LeakyReLU    max(0, x) + a min(0, x)           Maas, Hannun & Ng 2013 (ICML workshop)
    PReLU        the same, with learned a          He, Zhang, Ren & Sun 2015, arXiv:1502.01852
    ELU          max(0, x) + α (e^min(0, x) − 1)   Clevert, Unterthiner & Hochreiter 2015, arXiv:1511.07289
    GELU         x Φ(x)                            Hendrycks & Gimpel 2016, arXiv:1606.08415, §2
    SiLU         x σ(x)                            Elfwing, Uchibe & Doya 2017, arXiv:1702.03118, eq. 6
    Swish        x σ(βx)                           Ramachandran, Zoph & Le 2017, arXiv:1710.05941, §3
    Mish         x tanh(ln(1 + e^x))               Misra 2019, arXiv:1908.08681, eq. 1
    Hardsigmoid  ReLU6(x + 3) / 6                  Howard et al. 2019, arXiv:1905.02244, §5.2
    Hardswish    x ReLU6(x + 3) / 6                the same

Convention: Hardsigmoid is MobileNetV3's, of slope 1/6; BinaryConnect's (arXiv:1511.00363) has 1/2, an older Keras 1/5.
At its kinks ±3 the derivative is 0, so that Hardswish has 0 at −3 and 1 at 3, as torch's.
"""

from math import isfinite, pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._pointwise import pointwise, positive
from ._rectifier import ELU, LeakyReLU, PReLU

__all__ = ["ELU", "GELU", "Hardsigmoid", "Hardswish", "LeakyReLU", "Mish", "PReLU", "SiLU", "Swish"]


def _normal_cdf(x):
    return x.mul(sqrt(1 / 2)).erf_().add_(1).mul_(1 / 2)


def _normal_density(x):
    return x.square().mul_(-1 / 2).exp_().mul(1 / sqrt(2 * pi))


_gelu = pointwise(
    lambda x: _normal_cdf(x).mul_(x),
    lambda x: _normal_cdf(x).addcmul_(x, _normal_density(x)),
)


class GELU(nn.Module):
    """x Φ(x), Φ the distribution function of the standard normal.

    Args:
        approximate: "none", or "tanh" for x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).

    Raises:
        ValueError: approximate is something else.
    """

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"expected approximate 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.approximate == "none":
            return _gelu(input)
        # ½(1 + tanh u) = σ(2u), which keeps its digits in the left tail.
        return input * torch.sigmoid(sqrt(8 / pi) * input * (1 + 0.044715 * input * input))

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(nn.Module):
    """x σ(x), σ the logistic function."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return input * input.sigmoid()


class Swish(nn.Module):
    """x σ(βx): x/2 for β = 0, SiLU for 1, ReLU in the limit of large β.

    Args:
        beta: β, or where it starts.
        trainable: learn β? It is a parameter then, else a number.

    Raises:
        ValueError: beta is infinite or NaN.
    """

    def __init__(self, beta: float = 1.0, trainable: bool = False):
        super().__init__()
        if not isfinite(beta):
            raise ValueError(f"expected a finite beta, got {beta}")
        self.beta = nn.Parameter(torch.tensor(float(beta))) if trainable else beta

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return input * torch.sigmoid(self.beta * input)

    def extra_repr(self) -> str:
        return f"beta={float(self.beta):g}, trainable={isinstance(self.beta, nn.Parameter)}"


class Mish(nn.Module):
    """x tanh(softplus(x)) = x tanh(ln(1 + e^x))."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # With r = σ(−x) = 1/(1 + e^x) the gate is tanh(−ln r) = (1 − r²) / (1 + r²): no exponential can overflow, and
        # with 1 − r written as σ(x) no digit is lost where r is close to 1.
        s = input.sigmoid()
        r = 1 - s
        return input * (s * (1 + r) / (1 + r * r))


def _hard_sigmoid(x):
    return x.add(3).clamp_(0, 6).div_(6)


def _hard_sigmoid_slope(x):
    return positive(3 - x.abs()).div_(6)


_hardsigmoid = pointwise(_hard_sigmoid, _hard_sigmoid_slope)
_hardswish = pointwise(
    lambda x: _hard_sigmoid(x).mul_(x),
    lambda x: _hard_sigmoid_slope(x).mul_(x).add_(_hard_sigmoid(x)),
)


class Hardsigmoid(nn.Module):
    """ReLU6(x + 3) / 6: 0 up to −3, 1 from 3 on, a straight line between."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _hardsigmoid(input)


class Hardswish(nn.Module):
    """x ReLU6(x + 3) / 6: 0 up to −3, x from 3 on, a parabola between; needs no exponential."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _hardswish(input)
