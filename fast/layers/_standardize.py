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
        # A norm along the last dimension squares and adds in one pass; `square()` of everything would write a tensor.
        squares = torch.linalg.vector_norm(output, dim=-1, keepdim=True).square()
        variance = squares.sum(over, keepdim=True) / _count(input, over)
        output.mul_(inverse_root(variance, eps))
        if weight is not None:
            output.mul_(weight)
        if bias is not None:
            output.add_(bias)
        ctx.over, ctx.eps, ctx.has_bias = over, eps, bias is not None
        ctx.save_for_backward(input, weight, mean, variance)
        return output.to(input.dtype), mean, variance

    @staticmethod
    def backward(ctx, d_output, d_mean, d_variance):
        input, weight, mean, variance = ctx.saved_tensors
        over, count = ctx.over, _count(input, ctx.over)
        d_output, gain = d_output.to(mean.dtype), 1 if weight is None else weight
        r = inverse_root(variance, ctx.eps)
        centred = input - mean

        # γ's gradient and the mean over S both add up ∂y·x̂: first along the dimensions that they share.
        shared = over if weight is None else [d for d, size in enumerate(weight.shape) if size == 1]
        moment = _sum(d_output * centred, [d for d in over if d in shared]).mul_(r)
        d_weight = None if weight is None else _sum(moment, shared)
        d_bias = _sum(d_output, shared) if ctx.has_bias else None
        moment = _sum(moment.mul_(gain), over) / count  # mean of g·x̂
        gradient = d_output * gain  # g
        level = _sum(gradient, over) / count  # mean of g

        # ∂μ/∂x = 1/m and ∂σ²/∂x = 2 (x − μ)/m join in where μ and σ² are used further.
        level = r * level - d_mean / count
        moment = r.square() * moment - 2 * d_variance / count
        d_input = gradient.mul_(r).sub_(level).addcmul_(centred, moment, value=-1)
        return d_input, d_weight, d_bias, None, None


def _count(tensor, dims):
    return math.prod([tensor.shape[d] for d in dims])


def _sum(tensor, dims):
    return tensor.sum(dims, keepdim=True) if dims else tensor
