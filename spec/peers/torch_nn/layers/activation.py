"""torch.nn's activation functions under our names."""

import torch
from torch import nn
from torch.nn import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, SiLU

__all__ = ["ELU", "GELU", "Hardsigmoid", "Hardswish", "LeakyReLU", "Mish", "PReLU", "SiLU", "Swish"]


class Swish(nn.Module):
    """torch.nn has Swish for β = 1 alone; for any β it is x·σ(βx) with torch's sigmoid."""

    def __init__(self, beta: float = 1.0, trainable: bool = False):
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(beta)) if trainable else beta

    def forward(self, input):
        return input * torch.sigmoid(self.beta * input)
