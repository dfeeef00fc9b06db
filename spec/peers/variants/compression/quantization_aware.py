"""Straight-through gradients as backward passes written by hand: a mask, and the learned step's eq. 3 and 5."""

from typing import NamedTuple

import torch
from torch import nn

__all__ = ["FakeQuantize", "LearnedStepQuantizer", "QATLinear", "WeightFakeQuantize", "fake_quantize", "learned_step"]


class Grid(NamedTuple):
    scale: torch.Tensor
    zero_point: torch.Tensor
    quant_min: int
    quant_max: int
    axis: int = 0


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, low, high):
        q = torch.round(x / scale)
        clipped = torch.minimum(torch.maximum(q, low), high)
        ctx.save_for_backward(q == clipped)
        return (clipped * scale).to(x.dtype)

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0], None, None, None


def fake_quantize(input, scale, zero_point, quant_min=0, quant_max=255, axis=0):
    shape = [1] * input.dim()
    if scale.dim():
        shape[axis] = -1
    scale, zero_point = scale.detach().reshape(shape), zero_point.reshape(shape)
    return _Through.apply(input, scale, (quant_min - zero_point).to(scale), (quant_max - zero_point).to(scale))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, low, high, gain):
        ctx.save_for_backward(x, scale)
        ctx.ends, ctx.gain = (low, high), gain
        return (x / scale).clamp(low, high).round() * scale

    @staticmethod
    def backward(ctx, slope):
        x, scale = ctx.saved_tensors
        v = x / scale
        inside = (v > ctx.ends[0]) & (v < ctx.ends[1])
        of_scale = torch.where(inside, v.round() - v, v.clamp(*ctx.ends))
        return slope * inside, (slope * of_scale).sum() * ctx.gain, None, None, None


def learned_step(input, scale, quant_min, quant_max, gain):
    return _Step.apply(input, scale, quant_min, quant_max, gain)


def _grid(low, high, bits, symmetric, axis=0):
    low, high = torch.minimum(low, torch.zeros_like(low)), torch.maximum(high, torch.zeros_like(high))
    half = 2 ** (bits - 1) - 1
    if symmetric:
        scale = (torch.stack([low.abs(), high]).amax(0) / half).clamp(min=2.0**-23)
        return Grid(scale, torch.zeros(scale.shape, dtype=torch.int32, device=scale.device), -half, half, axis)
    scale = ((high - low) / (2**bits - 1)).clamp(min=2.0**-23)
    return Grid(scale, (-low / scale).round().int(), 0, 2**bits - 1, axis)


class _Range(nn.Module):
    def __init__(self, channels):
        super().__init__()
        shape = () if channels is None else (channels,)
        self.register_buffer("min_val", torch.zeros(shape))
        self.register_buffer("max_val", torch.zeros(shape))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))


class FakeQuantize(nn.Module):
    def __init__(self, bits=8, symmetric=False, channels=None, axis=0, averaging_constant=0.01):
        super().__init__()
        self.bits, self.symmetric, self.channels, self.axis = bits, symmetric, channels, axis
        self.constant, self.observer = averaging_constant, _Range(channels)

    def forward(self, input):
        if self.training and input.numel():
            seen, x = self.observer, input.detach()
            x = x.reshape(1, -1) if self.channels is None else x.movedim(self.axis, 0).reshape(self.channels, -1)
            constant = torch.full_like(seen.min_val, self.constant)
            weight = torch.where(seen.batches == 0, torch.ones_like(constant), constant)
            for kept, new in ((seen.min_val, x.amin(1)), (seen.max_val, x.amax(1))):
                kept.copy_((1 - weight) * kept + weight * new.reshape(kept.shape))
            seen.batches.add_(1)
        return fake_quantize(input, *self.grid())

    def grid(self):
        return _grid(self.observer.min_val, self.observer.max_val, self.bits, self.symmetric, self.axis)


class WeightFakeQuantize(nn.Module):
    def __init__(self, bits=8, per_channel=True):
        super().__init__()
        self.bits, self.per_channel = bits, per_channel

    def forward(self, weight):
        return fake_quantize(weight, *self.grid(weight))

    def grid(self, weight):
        rows = weight.detach().flatten(1)
        low, high = (rows.amin(1), rows.amax(1)) if self.per_channel else (rows.amin(), rows.amax())
        return _grid(low, high, self.bits, True)


class LearnedStepQuantizer(nn.Module):
    def __init__(self, bits=8, signed=True, per_sample=False):
        super().__init__()
        self.quant_min, self.quant_max = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        self.per_sample = per_sample
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, input):
        if self.training and input.numel():
            begin = 2 * input.detach().abs().mean() / self.quant_max**0.5
            self.scale.data.copy_(torch.where(self.started, self.scale.data, begin))
            self.started.fill_(True)
        count = input.numel() // (max(len(input), 1) if self.per_sample else 1)
        return learned_step(input, self.scale, self.quant_min, self.quant_max, (max(count, 1) * self.quant_max) ** -0.5)

    def grid(self, weight=None):
        zero = torch.zeros((), dtype=torch.int32, device=self.scale.device)
        return Grid(self.scale.detach(), zero, self.quant_min, self.quant_max)


class QATLinear(nn.Linear):
    def __init__(self, in_features, out_features, bias=True, bits=8, per_channel=True):
        super().__init__(in_features, out_features, bias)
        self.input_quantizer, self.output_quantizer = FakeQuantize(), FakeQuantize()
        self.weight_quantizer = WeightFakeQuantize(bits, per_channel)

    @classmethod
    def from_float(cls, linear, bits=8, per_channel=True):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, bits, per_channel)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.to(linear.weight).train(linear.training)

    def forward(self, input):
        weight = self.weight_quantizer(self.weight)
        return self.output_quantizer(nn.functional.linear(self.input_quantizer(input), weight, self.bias))
