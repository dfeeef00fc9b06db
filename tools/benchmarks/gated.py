"""GLU next to torch.nn.GLU; SwiGLU and GEGLU next to the same layers of torch.nn's parts."""

import torch
from torch import nn

from impl.layers.gated import GEGLU, GLU, SwiGLU
from tools.bench import Pair


class _Gated(nn.Module):
    """down(gate(x W) ⊗ x V) with torch.nn's linear layers and activations."""

    def __init__(self, gate, width):
        super().__init__()
        hidden = -(-8 * width // 3)
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.gate = gate

    def forward(self, x):
        return self.down_proj(self.gate(self.gate_proj(x)) * self.up_proj(x))


def _tokens():
    return (torch.randn(4, 256, 192),)


def _pair(item, layer, gate, **options):
    name = f"{layer.__name__} {' '.join(options.values())}".strip()
    return Pair(
        item=item,
        name=name,
        ours=lambda: layer(192, **options),
        theirs=lambda: _Gated(gate, 192),
        inputs=_tokens,
    )


PAIRS = [
    Pair(item="glu", name="GLU", ours=GLU, theirs=nn.GLU, inputs=lambda: (torch.randn(256, 2048),)),
    Pair(
        item="glu",
        name="GLU, channels",
        ours=lambda: GLU(1),
        theirs=lambda: nn.GLU(1),
        inputs=lambda: (torch.randn(16, 64, 32, 16),),
    ),
    _pair("swiglu", SwiGLU, nn.SiLU()),
    _pair("geglu", GEGLU, nn.GELU()),
    _pair("geglu", GEGLU, nn.GELU("tanh"), approximate="tanh"),
]
