"""Many feed-forward layers side by side, their weights stacked, each reading the rows that were sent to it.

    SwiGLU (Shazeer 2020, arXiv:2002.05202)   E_i(x) = W₂_i (Swish(W_i x) ⊗ V_i x)
    ReLU   (Fedus et al. 2021)                E_i(x) = W₂_i max(0, W_i x)

Rows arrive in one of two ways: as a block of equal shares (experts, capacity, d), which batched products read, or as a
list of ragged shares, one for each expert, of which none is padding.

Convention: `gate_up_proj` (experts, 2·hidden, d) holds W_i above V_i and `down_proj` (experts, d, hidden) holds W₂_i,
as in transformers' Mixtral. No biases; a start as `Linear` has it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .gated import swish


class SwiGLUExperts(nn.Module):
    def __init__(self, num_experts: int, embed_dim: int, hidden_features: int):
        super().__init__()
        self.gate_up_proj = _uniform(num_experts, 2 * hidden_features, embed_dim)
        self.down_proj = _uniform(num_experts, embed_dim, hidden_features)

    def forward(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        return _each(_swiglu, rows, self.gate_up_proj, self.down_proj)


class ReLUExperts(nn.Module):
    def __init__(self, num_experts: int, embed_dim: int, hidden_features: int):
        super().__init__()
        self.up_proj = _uniform(num_experts, hidden_features, embed_dim)
        self.down_proj = _uniform(num_experts, embed_dim, hidden_features)

    def forward(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        return _each(_relu, rows, self.up_proj, self.down_proj)


def _each(layer: Callable[..., Tensor], rows: Tensor | Sequence[Tensor], *weights: Tensor) -> Tensor:
    """The layer of each expert on its rows: of the same shape for a block, all rows one below the other for a list."""
    if isinstance(rows, Tensor):
        return layer(rows, *weights)
    # unbind, unlike an index for each expert, has one backward pass over the stack.
    return torch.cat([layer(share, *own) for share, *own in zip(rows, *(w.unbind() for w in weights))])


def _swiglu(x, gate_up, down):
    gate, value = (x @ gate_up.mT).chunk(2, dim=-1)
    return (swish(gate) * value) @ down.mT


def _relu(x, up, down):
    return (x @ up.mT).relu() @ down.mT


def _uniform(experts, outputs, inputs):
    return nn.Parameter(torch.empty(experts, outputs, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
