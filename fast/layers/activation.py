"""Activation functions: rectifiers, and gates, which multiply the input by a factor that grows with it from 0 to 1.

    LeakyReLU    max(0, x) + a min(0, x)           Maas, Hannun & Ng 2013 (ICML workshop)
    PReLU        the same with learned a           He, Zhang, Ren & Sun 2015, arXiv:1502.01852, eq. 1
    ELU          max(0, x) + α (e^min(0, x) − 1)   Clevert, Unterthiner & Hochreiter 2015, arXiv:1511.07289
    GELU         x Φ(x)                            Hendrycks & Gimpel 2016, arXiv:1606.08415, §2
    SiLU         x σ(x)                            Elfwing, Uchibe & Doya 2017, arXiv:1702.03118
    Swish        x σ(βx)                           Ramachandran, Zoph & Le 2017, arXiv:1710.05941
    Mish         x tanh(ln(1 + e^x))               Misra 2019, arXiv:1908.08681
    Hardsigmoid  ReLU6(x + 3) / 6                  Howard et al. 2019, arXiv:1905.02244, §5.2
    Hardswish    x ReLU6(x + 3) / 6                the same

Convention: at a kink the derivative is torch's: the left one at 0 for the rectifiers (a, or α), and 0 at ±3 for
Hardsigmoid, so that Hardswish has 0 at −3 and 1 at 3. Hardsigmoid is MobileNetV3's, of slope 1/6; BinaryConnect's
(arXiv:1511.00363) has slope 1/2, an older Keras 1/5.
"""

from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._pointwise import (
    exponential_rectifier,
    gaussian_gate,
    hard_gate,
    hard_sigmoid,
    leaky_rectifier,
    logistic_gate,
    parametric_rectifier,
    tanh_gaussian_gate,
)


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
        return leaky_rectifier(input, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(nn.Module):
    """max(0, x) + weight · min(0, x), where the weight is learned: one for all, or one a channel (dimension 1).

    Args:
        num_parameters: 1, or the number of channels.
        init: initial value of the weights.

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
        return parametric_rectifier(input, self.weight.view([-1 if dim == 1 else 1 for dim in range(input.dim())]))

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(nn.Module):
    """x where x > 0, else alpha · (e^x − 1), which saturates at −alpha.

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
        return exponential_rectifier(input, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


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
            return gaussian_gate(input)
        # ½(1 + tanh u) = σ(2u), which keeps its digits in the left tail.
        return tanh_gaussian_gate(input)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(nn.Module):
    """x σ(x), σ the logistic function."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return logistic_gate(input)


class Swish(nn.Module):
    """x σ(βx): x/2 for β = 0, SiLU for 1, ReLU in the limit of large β.

    Args:
        beta: β, or its initial value.
        trainable: if True, β is a parameter and learned; otherwise a constant.

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
        # With r = σ(−x) = 1/(1 + e^x) the gate is tanh(−ln r) = (1 − r²) / (1 + r²): no exponential overflows, and with
        # 1 − r written as σ(x) no digit is lost where r is close to 1.
        s = input.sigmoid()
        r = 1 - s
        return input * (s * (1 + r) / (1 + r * r))


class Hardsigmoid(nn.Module):
    """ReLU6(x + 3) / 6: 0 up to −3, 1 from 3 on, a straight line between."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return hard_sigmoid(input)


class Hardswish(nn.Module):
    """x ReLU6(x + 3) / 6: 0 up to −3, x from 3 on, a parabola between; needs no exponential."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return hard_gate(input)
