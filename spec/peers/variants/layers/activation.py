"""The activation functions by other formulas: branches, ndtr, log-sigmoid, softplus, hardtanh; autograd throughout."""

import torch
from torch import nn
from torch.nn import functional


class LeakyReLU(nn.Module):
    def __init__(self, negative_slope=0.01):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, input):
        return torch.where(input > 0, input, input * self.negative_slope)


class PReLU(nn.Module):
    def __init__(self, num_parameters=1, init=0.25):
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_parameters,), init))

    def forward(self, input):
        if len(self.weight) == 1:
            return torch.where(input > 0, input, input * self.weight.squeeze())
        channels_last = input.movedim(1, -1)
        return torch.where(channels_last > 0, channels_last, channels_last * self.weight).movedim(-1, 1)


class ELU(nn.Module):
    def __init__(self, alpha=1.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, input):
        return torch.where(input > 0, input, self.alpha * torch.expm1(input.clamp(max=0)))


class GELU(nn.Module):
    def __init__(self, approximate="none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input):
        if self.approximate == "tanh":
            inner = (2 / torch.pi) ** 0.5 * (input + 0.044715 * input**3)
            return 0.5 * input * (1 + inner.tanh())
        return input * torch.special.ndtr(input)


class Swish(nn.Module):
    def __init__(self, beta=1.0, trainable=False):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(beta)) if trainable else beta

    def forward(self, input):
        return input * functional.logsigmoid(self.beta * input).exp()


class SiLU(nn.Module):
    def forward(self, input):
        return input * functional.logsigmoid(input).exp()


class Mish(nn.Module):
    def forward(self, input):
        return input * functional.softplus(input).tanh()


class Hardsigmoid(nn.Module):
    def forward(self, input):
        return functional.hardtanh(input / 6 + 0.5, 0.0, 1.0)


class Hardswish(nn.Module):
    def forward(self, input):
        return input * functional.hardtanh(input / 6 + 0.5, 0.0, 1.0)
