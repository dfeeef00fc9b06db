"""Gated layers by other right formulas: one packed product, σ through tanh, Φ through erfc, GELU's tanh through σ."""

import math

import torch
from torch import nn


class GLU(nn.Module):
    """a/2 · (1 + tanh(b/2))."""

    def __init__(self, dim=-1):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        size = x.shape[self.dim] // 2
        value, gate = x.narrow(self.dim, 0, size), x.narrow(self.dim, size, size)
        return value / 2 * (1 + torch.tanh(gate / 2))


class _Packed(nn.Module):
    """W and V side by side in one product."""

    def __init__(self, in_features, hidden_features, out_features, bias, multiple_of):
        super().__init__()
        hidden = hidden_features or -(-8 * in_features // (3 * multiple_of)) * multiple_of
        self.gate_proj = nn.Linear(in_features, hidden, bias)
        self.up_proj = nn.Linear(in_features, hidden, bias)
        self.down_proj = nn.Linear(hidden, out_features or in_features, bias)

    def forward(self, x):
        both = x @ torch.cat([self.gate_proj.weight, self.up_proj.weight]).T
        if self.gate_proj.bias is not None:
            both = both + torch.cat([self.gate_proj.bias, self.up_proj.bias])
        gate, value = both.chunk(2, -1)
        return self.down_proj(self.activation(gate) * value)


class SwiGLU(_Packed):
    def __init__(self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1):
        super().__init__(in_features, hidden_features, out_features, bias, multiple_of)

    def activation(self, z):
        return z / 2 * (1 + torch.tanh(z / 2))


class GEGLU(_Packed):
    def __init__(
        self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1, approximate="none"
    ):
        super().__init__(in_features, hidden_features, out_features, bias, multiple_of)
        self.approximate = approximate

    def activation(self, z):
        if self.approximate == "none":
            return z / 2 * torch.special.erfc(-z / math.sqrt(2))
        return z * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
