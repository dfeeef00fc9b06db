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

from math import nextafter, pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import check_channels, check_finite, check_not_negative, check_sizes
from .numerics import normal_cdf


def rectify(x: Tensor, a: float | Tensor) -> Tensor:
    """max(0, x) + a min(0, x), as x times its slope; selecting by a mask takes ten times as long on noise."""
    right = x.detach().sign().clamp(min=0)  # 1 where x > 0, else 0
    return x * (right + a * (1 - right))


def ramp(x: Tensor) -> Tensor:
    """ReLU6(x + 3)/6 = max(0, 1 − max(0, ½ − x/6)); 1/6 is rounded up, so that the derivative at both kinks is 0."""
    return (1 - torch.add(x.new_full((), 1 / 2), x, alpha=-nextafter(1 / 6, 1)).relu_()).relu_()


class LeakyReLU(nn.Module):
    """max(0, x) + negative_slope · min(0, x).

    Args:
        negative_slope: a; any finite number.

    Raises:
        ValueError: negative_slope is infinite or NaN.
    """

    def __init__(self, negative_slope: float = 0.01):
        super().__init__()
        check_finite(negative_slope=negative_slope)
        self.negative_slope = negative_slope

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return rectify(input, self.negative_slope)

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
        check_sizes(num_parameters=num_parameters)
        check_finite(init=init)
        self.num_parameters = num_parameters
        self.weight = nn.Parameter(torch.full((num_parameters,), float(init)))

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.num_parameters > 1:
            check_channels(input, self.num_parameters)
        return rectify(input, self.weight.view([-1 if dim == 1 else 1 for dim in range(input.dim())]))

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
        check_finite(alpha=alpha)
        check_not_negative(alpha=alpha)
        self.alpha = alpha

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # expm1 keeps the digits that e^x − 1 loses near 0.
        return torch.add(input.relu(), torch.expm1(input.clamp(max=0)), alpha=self.alpha)

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
            return input * normal_cdf(input)
        # ½(1 + tanh u) = σ(2u), which keeps its digits in the left tail; beyond ±30 it is 0 or 1, and x³ may overflow.
        x = input.clamp(-30, 30)
        return input * torch.sigmoid(sqrt(8 / pi) * x * (1 + 0.044715 * x * x))

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(nn.Module):
    """x σ(x), σ the logistic function."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return input * input.sigmoid()


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
        check_finite(beta=beta)
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
        return ramp(input)


class Hardswish(nn.Module):
    """x ReLU6(x + 3) / 6: 0 up to −3, x from 3 on, a parabola between; needs no exponential."""

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return input * ramp(input)
