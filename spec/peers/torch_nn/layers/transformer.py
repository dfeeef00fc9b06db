"""The layers of torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, batch first, with masks read our way."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .attention import MultiHeadAttention

__all__ = ["FeedForward", "TransformerDecoderBlock", "TransformerEncoderBlock"]

_KNOWN = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "gelu_tanh": nn.GELU("tanh"),
}


class FeedForward(nn.Sequential):
    def __init__(self, d_model, dim_feedforward, activation="relu", dropout=0.0, bias=True):
        super().__init__()
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias)
        activation = _KNOWN.get(activation, activation)
        self.activation = activation if isinstance(activation, nn.Module) else _Call(activation)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias)


class _Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def _hidden(mask):
    return None if mask is None else ~mask


class TransformerEncoderBlock(nn.TransformerEncoderLayer):
    def __init__(
        self,
        d_model,
        nhead=None,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        is_causal=False,
        self_attn=None,
        feed_forward=None,
    ):
        activation = _KNOWN.get(activation, activation)
        super().__init__(
            d_model, nhead or 1, dim_feedforward, dropout, activation, layer_norm_eps, True, norm_first, bias
        )
        own = MultiHeadAttention(d_model, nhead, dropout, bias, is_causal) if self_attn is None else self_attn
        self.self_attn = own
        if feed_forward is not None:
            del self.linear1, self.linear2
            self.feed_forward = feed_forward

    def _ff_block(self, x):
        return super()._ff_block(x) if hasattr(self, "linear1") else self.dropout2(self.feed_forward(x))

    def forward(self, input, **attention):
        x = input
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x), **attention))
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self.dropout1(self.self_attn(x, **attention)))
        return self.norm2(x + self._ff_block(x))


class TransformerDecoderBlock(nn.TransformerDecoderLayer):
    def __init__(
        self,
        d_model,
        nhead,
        dim_feedforward=2048,
        dropout=0.1,
        activation="relu",
        layer_norm_eps=1e-5,
        norm_first=False,
        bias=True,
        is_causal=True,
        feed_forward=None,
    ):
        activation = _KNOWN.get(activation, activation)
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, True, norm_first, bias)
        self.is_causal = is_causal
        if feed_forward is not None:
            del self.linear1, self.linear2
            self.feed_forward = feed_forward

    def _ff_block(self, x):
        return super()._ff_block(x) if hasattr(self, "linear1") else self.dropout3(self.feed_forward(x))

    def forward(
        self,
        input,
        memory,
        attn_mask=None,
        key_mask=None,
        memory_attn_mask=None,
        memory_key_mask=None,
        cache=None,
    ):
        new = input.shape[1]
        if cache is not None:
            # torch's layer keeps nothing: here all tokens so far are kept, and gone through again
            width = input.shape[-1]
            input, _ = (t.flatten(1, 2) for t in cache.append(*[input.reshape(len(input), 1, -1, width)] * 2))
        t = input.shape[1]
        hidden = torch.ones(t, t, dtype=torch.bool, device=input.device).triu(1) if self.is_causal else None
        if attn_mask is not None:
            hidden = ~attn_mask if hidden is None else hidden | ~attn_mask
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            output = super().forward(
                input, memory, hidden, _hidden(memory_attn_mask), _hidden(key_mask), _hidden(memory_key_mask)
            )
        return output[:, output.shape[1] - new :]
