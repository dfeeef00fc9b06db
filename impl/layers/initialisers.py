"""Random initial weights that keep the variance of activations and gradients from layer to layer.

    Xavier    Var(w) = gain² · 2/(fan_in + fan_out)                  Glorot & Bengio 2010 (AISTATS), eq. 12 and 16
    Kaiming   Var(w) = gain²/fan, gain² = 2/(1 + a²) for a leaky ReLU of slope a
                                                                     He et al. 2015, arXiv:1502.01852, eq. 10, 14 and 15
    uniform   w ~ U(−√3 σ, √3 σ);   normal   w ~ N(0, σ²)

Convention: a weight is (outputs, inputs, *kernel): fan_in = inputs · taps, fan_out = outputs · taps, as in torch.
All change the tensor in place, outside the graph, and return it.
"""

import math

import torch
from torch import Tensor


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """w ~ U(−g, g), g = gain·√(6/(fan_in + fan_out)).  Raises ValueError for fewer than 2 dimensions."""
    return _uniform(tensor, gain * math.sqrt(2 / sum(_fans(tensor))))


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """w ~ N(0, gain²·2/(fan_in + fan_out)).  Raises ValueError for fewer than 2 dimensions."""
    return trunc_normal_(tensor, std=gain * math.sqrt(2 / sum(_fans(tensor))), a=-math.inf, b=math.inf)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """w ~ U(−√3 σ, √3 σ), σ = gain/√fan.

    Args:
        a: negative slope of the leaky ReLU that follows.
        mode: "fan_in" keeps the variance of activations, "fan_out" that of gradients.
        nonlinearity: what follows: "leaky_relu", "relu", "tanh" or "linear".

    Raises:
        ValueError: fewer than 2 dimensions, another mode or nonlinearity.
    """
    return _uniform(tensor, _kaiming(tensor, a, mode, nonlinearity))


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """w ~ N(0, σ²), σ = gain/√fan. Arguments and errors: see `kaiming_uniform_`."""
    return trunc_normal_(tensor, std=_kaiming(tensor, a, mode, nonlinearity), a=-math.inf, b=math.inf)


@torch.no_grad()
def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """w ~ N(mean, std²) under the condition a <= w <= b, by the inverse of the distribution function.

    Convention: a and b are values, not multiples of std: the default cuts N(0, 0.02²) at 100 standard deviations.
    """
    if std <= 0 or a >= b:
        raise ValueError(f"expected std > 0 and a < b, got std {std}, a {a}, b {b}")
    if math.isinf(a) and math.isinf(b):
        return tensor.normal_(mean, std)
    # erf(z/√2) of a standard normal z is uniform in (−1, 1).
    low, high = (math.erf((bound - mean) / (std * math.sqrt(2))) for bound in (a, b))
    inside = 1 - torch.finfo(tensor.dtype).eps  # a sample of exactly ±1, where bounds are far, would become infinite
    z = tensor.uniform_(low, high).clamp_(-inside, inside).erfinv_()
    return z.mul_(std * math.sqrt(2)).add_(mean).clamp_(a, b)


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.dim() < 2:
        raise ValueError(f"expected a weight of at least 2 dimensions, got shape {tuple(tensor.shape)}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _kaiming(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = _fans(tensor)
    fans = {"fan_in": fan_in, "fan_out": fan_out}
    gains = {"leaky_relu": math.sqrt(2 / (1 + a**2)), "relu": math.sqrt(2), "tanh": 5 / 3, "linear": 1.0}
    if mode not in fans:
        raise ValueError(f"expected mode of {', '.join(fans)}, got {mode!r}")
    if nonlinearity not in gains:
        raise ValueError(f"expected nonlinearity of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity] / math.sqrt(fans[mode])


@torch.no_grad()
def _uniform(tensor: Tensor, sigma: float) -> Tensor:
    """The variance of U(−g, g) is g²/3."""
    bound = math.sqrt(3) * sigma
    return tensor.uniform_(-bound, bound)


@torch.no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """gain times a uniformly drawn matrix with orthonormal rows or columns, whichever are fewer.

    Saxe, McClelland & Ganguli 2013, arXiv:1312.6120, §3.  Raises ValueError for other than 2 dimensions.
    """
    if tensor.dim() != 2:
        raise ValueError(f"expected a matrix, got shape {tuple(tensor.shape)}")
    rows, columns = tensor.shape
    q, r = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), dtype=tensor.dtype))
    q = q * r.diagonal().sign()  # else not uniform: Mezzadri 2006, arXiv:math-ph/0609050
    return tensor.copy_(gain * (q if rows >= columns else q.T))
