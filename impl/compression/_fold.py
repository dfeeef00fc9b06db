"""Folding: a batch norm in evaluation is a fixed affine map, and a layer before it can do its work.

    W_fold = γW/√(σ² + ε),   b_fold = β + γ(b − μ)/√(σ² + ε)      Jacob et al. 2017, arXiv:1712.05877, eq. 14

Convention: outputs are dimension 0 of the weight, as in linear and convolution layers of torch.nn.
"""

import copy

import torch
from torch import nn


def fold_batch_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of a linear or convolution layer that does in evaluation what the layer and its batch norm did.

    Args:
        layer: has `weight` (out, …) and `bias` (out) or None.
        norm: has running_mean, running_var, eps, and weight and bias, or None for those.

    Raises:
        ValueError: a norm without running statistics or of another width; a transposed convolution.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 14; Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.
    """
    if norm.running_mean is None:
        raise ValueError("expected a norm with running statistics, got one without")
    if getattr(layer, "transposed", False):
        raise ValueError("expected outputs in dimension 0 of the weight, got a transposed convolution")
    if len(norm.running_mean) != len(layer.weight):
        raise ValueError(f"expected a norm of width {len(layer.weight)}, got {len(norm.running_mean)}")
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        gain = (norm.running_var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight
        bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        bias = bias * gain if norm.bias is None else bias * gain + norm.bias
        layer.bias = nn.Parameter(bias)
        layer.weight.copy_(layer.weight * gain.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    return layer
