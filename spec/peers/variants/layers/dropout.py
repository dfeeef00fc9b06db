"""Dropout by comparing uniform samples with p."""

import torch
from torch import nn


class Dropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, input):
        if not self.training or self.p == 0:
            return input
        dropped = torch.rand_like(input) < self.p
        return torch.where(dropped, 0.0, input / (1 - self.p if self.p < 1 else 1))
