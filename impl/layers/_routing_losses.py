"""Losses that keep a router from sending everything to a few experts, and its logits small.

    load balance   N Σ_i f_i P_i                                  Fedus et al. 2021 (Switch), arXiv:2101.03961, eq. 4-6
    importance     CV²(Σ_tokens g_i)                              Shazeer et al. 2017, arXiv:1701.06538, eq. 6-7
    z              mean (log Σ_i exp s_i)²                        Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, eq. 5

Convention: f sums to 1, so that an even load costs 1 for every k; transformers' sums to k. Sums over tokens are
float32 or wider, whatever the dtype of what is summed: in bfloat16 they stop growing.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def load_balancing_loss(
    logits: Float[Tensor, "*batch n"], indices: Int[Tensor, "*batch k"], mask: Bool[Tensor, "*batch"] | None = None
) -> Float[Tensor, ""]:
    """N Σ_i f_i P_i: f_i the share of the choices that went to expert i, P_i its mean probability.

    1 where routing is even, N where one expert is sure to get everything. f is a count: the gradient goes through P.

    Args:
        logits, indices: of one layer's `Routing`; layers are balanced one by one.
        mask: True at tokens, False at padding, which counts nowhere; padding alone costs 0.

    Raises:
        ValueError: no tokens; choices, or a mask, of other tokens than the logits.

    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4-6.
    """
    if not indices.numel():
        raise ValueError(f"expected tokens to balance, got none in logits of shape {tuple(logits.shape)}")
    tokens, experts = logits.shape[:-1], logits.shape[-1]
    _check_tokens("indices", indices.shape[:-1], tokens)
    _check_tokens("mask", tokens if mask is None else mask.shape, tokens)
    probabilities = logits.reshape(-1, experts).softmax(-1, torch.promote_types(logits.dtype, torch.float32))
    sent = (indices[..., None] == torch.arange(experts, device=indices.device)).to(probabilities.dtype).mean(-2)
    if mask is None:
        share, probability = sent.reshape(-1, experts).mean(0), probabilities.mean(0)
    else:
        weight = mask.flatten().to(probabilities.dtype) / mask.sum().clamp(min=1)
        share, probability = weight @ sent.reshape(-1, experts), weight @ probabilities
    return (experts * (share * probability).sum()).to(logits.dtype)


def importance_loss(gates: Float[Tensor, "*batch k"], indices: Int[Tensor, "*batch k"], num_experts: int) -> Tensor:
    """CV², the variance over the squared mean, of the experts' importance Σ_tokens g_i.

    0 where all experts have the same weight, N − 1 where one has it all. Differentiable through the gates.

    Raises:
        ValueError: gates and choices of different shapes.

    Convention: the variance is biased, divided by N.
    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 6-7.
    """
    if gates.shape != indices.shape:
        raise ValueError(f"expected as many gates as choices, {tuple(indices.shape)}, got {tuple(gates.shape)}")
    wide = gates.flatten().to(torch.promote_types(gates.dtype, torch.float32))
    importance = wide.new_zeros(num_experts).index_add(0, indices.flatten(), wide)
    mean = importance.mean()
    return ((importance - mean).square().mean() / mean.square()).to(gates.dtype)


def router_z_loss(logits: Float[Tensor, "*batch n"]) -> Float[Tensor, ""]:
    """The mean of (log Σ_i exp s_i)² over tokens, which keeps logits small.

    Source: Zoph et al. 2022, arXiv:2202.08906, eq. 5.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.logsumexp(-1).square().mean().to(logits.dtype)


def _check_tokens(name, found, expected):
    if found != expected:
        raise ValueError(f"expected {name} of tokens {tuple(expected)}, got {tuple(found)}")
