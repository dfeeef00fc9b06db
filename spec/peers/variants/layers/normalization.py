"""Normalizations by Welford's one-pass variance, with 1/√(σ² + ε) and γ folded into one factor."""

import torch
from torch import nn


def _normalize(x, dims, weight, bias, eps):
    """(x − μ)·a + β with a = γ/√(σ² + ε), statistics in float32 or wider."""
    if x.numel() == 0:
        return x, None, None
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    variance, mean = torch.var_mean(wide, dims, correction=0, keepdim=True)
    y = _affine(wide - mean, 1 / torch.sqrt(variance + eps), weight, bias)
    return y.to(x.dtype), mean, variance


def _affine(centred, scale, weight, bias):
    scale = scale if weight is None else scale * weight
    return centred * scale if bias is None else torch.addcmul(bias, centred, scale)


class _Norm(nn.Module):
    """γ and β of one shape, or none."""

    def __init__(self, shape, eps, weight=True, bias=True):
        super().__init__()
        self.eps = eps
        for name, fill, wanted in (("weight", torch.ones, weight), ("bias", torch.zeros, bias)):
            self.register_parameter(name, nn.Parameter(fill(shape)) if wanted else None)

    def shaped(self, shape):
        return (None if p is None else p.reshape(shape) for p in (self.weight, self.bias))


class _Tracking(_Norm):
    """Batch and instance norm: the sets differ, and so do the defaults."""

    def __init__(self, features, eps, momentum, affine, track):
        super().__init__(features, eps, affine, affine)
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(features) if track else None)
        self.register_buffer("running_var", torch.ones(features) if track else None)
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64) if track else None)

    def forward(self, x):
        columns = (1, -1, *[1] * (x.dim() - 2))
        weight, bias = self.shaped(columns)
        if self.running_mean is not None and not self.training:
            scale = 1 / torch.sqrt(self.running_var + self.eps)
            return _affine(x - self.running_mean.reshape(columns), scale.reshape(columns), weight, bias).to(x.dtype)
        dims = [d for d in range(x.dim()) if d not in self.kept]
        count = x[0, 0].numel() * (1 if 0 in self.kept else len(x)) if len(x) else 0
        if count < 2:
            raise ValueError(f"expected more than one value per channel, got shape {tuple(x.shape)}")
        y, mean, variance = _normalize(x, dims, weight, bias, self.eps)
        if self.running_mean is not None:
            self.num_batches_tracked += 1
            share = 1 / self.num_batches_tracked.to(self.running_mean.dtype) if self.momentum is None else self.momentum
            others = [d for d in range(x.dim()) if d != 1]
            for old, new in ((self.running_mean, mean), (self.running_var, variance * count / (count - 1))):
                old.copy_(((1 - share) * old + share * new.mean(others)).detach())
        return y

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name, buffer in self.named_buffers():
            if name == "num_batches_tracked":
                state_dict.setdefault(prefix + name, buffer)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _BatchNorm(_Tracking):
    kept = (1,)

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class _InstanceNorm(_Tracking):
    kept = (0, 1)

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False):
        super().__init__(num_features, eps, momentum, affine, track_running_stats)


class BatchNorm1d(_BatchNorm):
    pass


class BatchNorm2d(_BatchNorm):
    pass


class BatchNorm3d(_BatchNorm):
    pass


class InstanceNorm1d(_InstanceNorm):
    pass


class InstanceNorm2d(_InstanceNorm):
    pass


class InstanceNorm3d(_InstanceNorm):
    pass


class LayerNorm(_Norm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        super().__init__(shape, eps, elementwise_affine, elementwise_affine and bias)
        self.dims = tuple(range(-len(shape), 0))

    def forward(self, x):
        return _normalize(x, self.dims, self.weight, self.bias, self.eps)[0]


class GroupNorm(_Norm):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        if num_channels % num_groups:
            raise ValueError(f"expected a multiple of {num_groups} channels, got {num_channels}")
        super().__init__(num_channels, eps, affine, affine)
        self.groups = num_groups

    def forward(self, x):
        grouped = x.unflatten(1, (self.groups, -1))
        weight, bias = self.shaped((1, self.groups, -1, *[1] * (x.dim() - 2)))
        return _normalize(grouped, tuple(range(2, grouped.dim())), weight, bias, self.eps)[0].flatten(1, 2)
