"""Standardizing y = γ x̂ + β, x̂ = (x − μ)/√(σ² + ε): what all normalizations share; they differ in the set S of values
that have one μ and one σ² in common.

    μ = 1/m Σ_S x,   σ² = 1/m Σ_S (x − μ)²,   m = |S|                       Wu & He 2018, arXiv:1803.08494, eq. 1-3
    ∂x = r·(g − mean_S(g) − x̂·mean_S(g·x̂)),   r = 1/√(σ² + ε),   g = γ·∂y
                                       the chain rule of Ioffe & Szegedy 2015, arXiv:1502.03167, §3, put in order

Convention: σ² is biased and taken of centred values, ε stands inside the root, statistics are float32 or wider.
"""

import math

import torch
from torch import Tensor

from ._autocast import without_autocast


def standardize(input: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple, over: tuple, eps: float):
    """y, μ and σ² of x, with S the dimensions `over`.

    Args:
        input: x.
        weight, bias: γ and β, or None.
        shape: broadcasts γ and β against x: size 1 wherever values share them, as many dimensions as x.
    """
    weight = None if weight is None else weight.reshape(shape)
    bias = None if bias is None else bias.reshape(shape)
    return _Standardize.apply(input, weight, bias, over, eps)


def inverse_root(variance, eps):
    """r = 1/√(σ² + ε)."""
    return (variance + eps).rsqrt()


class _Standardize(torch.autograd.Function):
    """The backward pass as one formula instead of autograd's chain of steps.

    μ and σ² are outputs although most callers drop them: a saved output is part of the graph, so that second
    derivatives flow through it; anything else that forward computes would be a constant to them.
    """

    @staticmethod
    def forward(ctx, input, weight, bias, over, eps):
        mean = input.mean(over, keepdim=True, dtype=torch.promote_types(input.dtype, torch.float32))
        output = input - mean
        variance = _squares(output, over) / _count(input, over)
        for factor in _factors(inverse_root(variance, eps), weight, over):
            output.mul_(factor)
        if bias is not None:
            output.add_(bias)
        ctx.over, ctx.eps, ctx.has_bias = over, eps, bias is not None
        ctx.save_for_backward(input, weight, mean, variance)
        return output.to(input.dtype), mean, variance

    @staticmethod
    @without_autocast
    def backward(ctx, d_output, d_mean, d_variance):
        input, weight, mean, variance = ctx.saved_tensors
        over, count = ctx.over, _count(input, ctx.over)
        d_output = d_output.to(mean.dtype)
        r = inverse_root(variance, ctx.eps)
        centred = input - mean

        # γ's gradient and the mean over S both add up ∂y·(x − μ): first along the dimensions that they share.
        shared = over if weight is None else [d for d, size in enumerate(weight.shape) if size == 1]
        both = [d for d in over if d in shared]
        product = d_output * centred
        moment, level = _sum(product, both), _sum(d_output, both)
        d_weight = None if weight is None else _sum_of_products(moment, r, shared)
        d_bias = _sum(level, shared) if ctx.has_bias else None
        if weight is not None:
            gain = weight.to(mean.dtype)
            moment, level = _sum_of_products(moment, gain, over), _sum_of_products(level, gain, over)
        moment, level = r * moment / count, level / count  # means of g·x̂ and of g

        # ∂μ/∂x = 1/m and ∂σ²/∂x = 2 (x − μ)/m join in where μ and σ² are used further.
        level = d_mean / count - r * level
        moment = 2 * d_variance / count - r.square() * moment
        # Memory that was just used is in the cache, new memory is not; a graph needs what it saved.
        free = (None, None) if torch.is_grad_enabled() else (product, centred)
        d_input = torch.mul(centred, moment, out=free[0])
        *first, last = _factors(r, weight, over)
        if first:
            d_output = torch.mul(d_output, weight, out=free[1])
        return d_input.addcmul_(d_output, last).add_(level), d_weight, d_bias, None, None


def _factors(r, weight, over):
    """Of what scales x − μ, r and γ: their product, unless that is as large as x."""
    if weight is None:
        return [r]
    return [weight, r] if all(weight.shape[d] > 1 for d in over) else [r * weight]


def _squares(centred, over):
    """Σ_S (x − μ)²."""
    if centred.shape[-1] > 1:  # a norm along the last dimension squares and adds in one pass, without another tensor
        return torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square().sum(over, keepdim=True)
    return centred.square().sum(over, keepdim=True)


def _count(tensor, dims):
    return math.prod([tensor.shape[d] for d in dims])


def _sum(tensor, dims):
    return tensor.sum(dims, keepdim=True) if dims else tensor


def _sum_of_products(tensor, factor, dims):
    """Σ tensor·factor; of matrices as a product, which writes no tensor of their size."""
    if tensor.dim() == 2:
        return tensor @ factor.mT if tuple(dims) == (1,) else factor.mT @ tensor
    return _sum(tensor * factor, dims)
