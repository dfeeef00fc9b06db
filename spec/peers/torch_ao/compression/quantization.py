"""Observers of torch.ao, integers of torch's quantized tensors and folding of torch.nn.utils.

torch keeps an observer's ranges per channel in buffers without a size until the first batch; here they have it at once.
It has no percentile over a widening histogram, no fixed-point multiplier in Python and no layer with our arguments.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.ao.quantization import observer as library
from torch.nn.utils import fusion

__all__ = ["Grid", "MinMaxObserver", "MovingAverageMinMaxObserver", "dequantize", "fold_batch_norm", "quantize"]


class Grid(NamedTuple):
    scale: torch.Tensor
    zero_point: torch.Tensor
    quant_min: int
    quant_max: int
    axis: int = 0


def quantize(input, scale, zero_point, quant_min=0, quant_max=255, axis=0):
    """By fake quantization, which is float32 or wider and has any range, and back to integers."""
    wide = torch.promote_types(input.dtype, scale.dtype)
    x, scale = input.detach().to(wide), scale.detach()
    steps, point = scale.float(), zero_point.float()
    if wide == torch.float64 or x.is_meta:
        return _by_definition(x, scale.to(wide), zero_point, quant_min, quant_max, axis)
    if scale.dim():
        y = torch.fake_quantize_per_channel_affine(x, steps, zero_point, axis, quant_min, quant_max)
        shape = [1] * x.dim()
        shape[axis] = -1
        steps, point = steps.reshape(shape), point.reshape(shape)
    else:
        y = torch.fake_quantize_per_tensor_affine(x, steps, zero_point, quant_min, quant_max)
    return _stored((y / steps).round() + point, quant_min, quant_max)


def _by_definition(x, scale, zero_point, quant_min, quant_max, axis):
    """torch's kernels compute in float32 and not on the meta device."""
    if scale.dim():
        shape = [1] * x.dim()
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    q = torch.round(x / scale, decimals=0) + zero_point
    return _stored(q.clip(quant_min, quant_max), quant_min, quant_max)


def _stored(q, quant_min, quant_max):
    for dtype in (torch.uint8, torch.int8, torch.int16):
        if torch.iinfo(dtype).min <= quant_min and quant_max <= torch.iinfo(dtype).max:
            return q.to(dtype)
    return q.to(torch.int32)


def dequantize(input, scale, zero_point, axis=0):
    if scale.dim():
        shape = [1] * input.dim()
        shape[axis] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    return scale * (input.long() - zero_point.long())


class _Observer(nn.Module):
    kinds = ()
    options = {}

    def __init__(self, bits=8, symmetric=False, channels=None, axis=0, **options):
        super().__init__()
        half = 2 ** (bits - 1) - 1
        ends = {"quant_min": -half, "quant_max": half} if symmetric else {"quant_min": 0, "quant_max": 2**bits - 1}
        kind = "symmetric" if symmetric else "affine"
        options = self.options | options
        if channels is None:
            made = self.kinds[0](dtype=torch.qint32, qscheme=getattr(torch, f"per_tensor_{kind}"), **ends, **options)
        else:
            made = self.kinds[1](
                ch_axis=axis, dtype=torch.qint32, qscheme=getattr(torch, f"per_channel_{kind}"), **ends, **options
            )
        self.library, self.ends, self.axis, self.channels = made, (ends["quant_min"], ends["quant_max"]), axis, channels

    @property
    def min_val(self):
        return self.library.min_val

    @property
    def max_val(self):
        return self.library.max_val

    def forward(self, input):
        if self.channels is not None and input.dim() and input.numel():
            # torch wants the axis from the front.
            self.library.ch_axis = self.axis % input.dim()
        return self.library(input) if input.numel() and not input.is_meta else input

    def grid(self):
        scale, zero_point = self.library.calculate_qparams()
        shape = () if self.channels is None else (self.channels,)
        return Grid(scale.reshape(shape), zero_point.int().reshape(shape), *self.ends, self.axis)


class MinMaxObserver(_Observer):
    kinds = (library.MinMaxObserver, library.PerChannelMinMaxObserver)


class MovingAverageMinMaxObserver(_Observer):
    kinds = (library.MovingAverageMinMaxObserver, library.MovingAveragePerChannelMinMaxObserver)


def fold_batch_norm(layer, norm):
    fuse = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
    norm = copy.deepcopy(norm).eval()
    if norm.weight is None:  # torch folds a linear layer with affine norms only
        norm.weight = nn.Parameter(torch.ones_like(norm.running_mean))
        norm.bias = nn.Parameter(torch.zeros_like(norm.running_mean))
    return fuse(copy.deepcopy(layer).eval(), norm).train(layer.training)
