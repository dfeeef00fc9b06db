"""SwiGLU and GEGLU of diffusers, which hold W and V in one matrix, the value's rows first."""

import torch
from diffusers.models import activations
from torch import nn


class _Packed(nn.Module):
    """Our three matrices around a layer of diffusers that wants two of them as one."""

    def __init__(self, layer, in_features, hidden_features, out_features, bias, multiple_of):
        super().__init__()
        hidden = hidden_features or -(-8 * in_features // (3 * multiple_of)) * multiple_of
        self.gate_proj = nn.Linear(in_features, hidden, bias)
        self.up_proj = nn.Linear(in_features, hidden, bias)
        self.down_proj = nn.Linear(hidden, out_features or in_features, bias)
        with torch.device("meta"):
            self.packed = (layer(in_features, hidden, bias=bias),)  # in a tuple: its own matrix is no parameter

    def forward(self, x):
        weights = {"proj.weight": torch.cat([self.up_proj.weight, self.gate_proj.weight])}
        if self.up_proj.bias is not None:
            weights["proj.bias"] = torch.cat([self.up_proj.bias, self.gate_proj.bias])
        return self.down_proj(torch.func.functional_call(self.packed[0], weights, (x,)))


class SwiGLU(_Packed):
    def __init__(self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1):
        super().__init__(activations.SwiGLU, in_features, hidden_features, out_features, bias, multiple_of)


class GEGLU(_Packed):
    def __init__(
        self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1, approximate="none"
    ):
        super().__init__(activations.GEGLU, in_features, hidden_features, out_features, bias, multiple_of)
        if approximate != "none":
            raise NotImplementedError("diffusers has the exact form only")
