"""Positions by autograd alone: x cos + rotate_half(x) sin, and sinusoids as complex numbers of length 1."""

import math

import torch
from torch import nn

__all__ = [
    "LearnedPositionalEmbedding",
    "RotaryEmbedding",
    "SinusoidalPositionalEncoding",
    "interpolated_frequencies",
    "llama3_frequencies",
    "ntk_frequencies",
    "rotary_frequencies",
    "sinusoids",
    "token_positions",
]


def rotary_frequencies(dim, base=10000.0):
    _check(dim, base)
    return torch.tensor([base ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64, device="cpu")


def _check(dim, base):
    if dim < 2 or dim % 2 or base <= 0:
        raise ValueError(f"expected an even width and a positive base, got {dim} and {base}")


def interpolated_frequencies(frequencies, scale):
    return frequencies * (1 / scale)


def ntk_frequencies(dim, scale, base=10000.0):
    slowed = torch.linspace(0, 1, dim // 2, dtype=torch.float64)
    return rotary_frequencies(dim, base) * scale**-slowed


def llama3_frequencies(frequencies, scale=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192):
    turns = original_max_position * frequencies / (2 * math.pi)
    kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
    between = (1 - kept) * frequencies / scale + kept * frequencies
    slow = torch.where(turns < low_freq_factor, frequencies / scale, between)
    return torch.where(turns > high_freq_factor, frequencies, slow)


def sinusoids(positions, d_model, base=10000.0):
    if base <= 0:
        raise ValueError(f"expected base > 0, got {base}")
    turned = torch.polar(torch.ones((), dtype=torch.float64), positions[..., None] * rotary_frequencies(d_model, base))
    return torch.view_as_real(turned).flip(-1).flatten(-2)


def token_positions(key_mask):
    return torch.where(key_mask.any(-1, keepdim=True), key_mask.long().cumsum(-1) - 1, 0).clamp_min(0)


def _positions(tokens, start):
    return torch.arange(tokens) + start if isinstance(start, int) else start


class SinusoidalPositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.0, base=10000.0):
        super().__init__()
        self.d_model, self.base, self.dropout = d_model, base, nn.Dropout(dropout)

    def forward(self, input, positions=0):
        places = _positions(input.shape[1], positions).to(input.device)
        angles = places[..., None] * rotary_frequencies(self.d_model, self.base).to(input.device)
        encoding = torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
        return self.dropout(input + encoding.to(input.dtype))


class LearnedPositionalEmbedding(nn.Embedding):
    def __init__(self, max_len, d_model):
        super().__init__(max_len, d_model)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, input, positions=0):
        return input + super().forward(_positions(input.shape[1], positions).to(input.device))


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base=10000.0, interleaved=True, rotary_dim=None, frequencies=None):
        super().__init__()
        self.rotary_dim, self.interleaved = rotary_dim or dim, interleaved
        self.frequencies = rotary_frequencies(self.rotary_dim, base) if frequencies is None else frequencies

    def forward(self, input, positions=0):
        angles = _positions(input.shape[-2], positions).to(input.device)[..., None] * self.frequencies.to(input.device)
        while 2 < angles.dim() < input.dim():
            angles = angles.unsqueeze(1)
        wide = torch.promote_types(input.dtype, torch.float32)
        turned, rest = input.to(wide).tensor_split([self.rotary_dim], -1)
        cos, sin = angles.cos().to(wide), angles.sin().to(wide)
        if self.interleaved:
            cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
            across = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
        else:
            cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
            half = self.rotary_dim // 2
            across = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        return torch.cat([turned * cos + across * sin, rest], -1).to(input.dtype)
