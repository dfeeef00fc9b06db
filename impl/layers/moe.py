"""Mixture of experts: a router sends each token to a few of many feed-forward layers, and adds up their outputs.

Shazeer et al. 2017, arXiv:1701.06538, eq. 1-7; Fedus, Zoph & Shazeer 2021 (Switch), arXiv:2101.03961, eq. 1-6;
Jiang et al. 2024 (Mixtral), arXiv:2401.04088, §2.1; Dai et al. 2024 (DeepSeekMoE), arXiv:2401.06066, §3.2, for shared
experts; Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, eq. 5, for the z-loss.

    y = Σ_{i ∈ top k} g_i E_i(x) (+ a shared expert of every token),   s = W_g x (+ N(0, 1)·softplus(W_noise x))
    renormalised (Shazeer, Mixtral)   g = softmax of the k largest s
    not          (Switch, DeepSeek)   g = the k largest of softmax(s); with k = 1 only these give the router a gradient
    capacity C = ⌈factor · k · tokens / experts⌉: an expert takes the first C tokens sent to it, for the rest it gives 0
    experts       E_i(x) = W₂_i (Swish(W_i x) ⊗ V_i x)   Shazeer 2020 (SwiGLU), arXiv:2002.05202; or W₂_i max(0, W_i x)
    load balance  N Σ_i f_i P_i                 Fedus et al. 2021, eq. 4-6
    importance    CV²(Σ_tokens g_i)             Shazeer et al. 2017, eq. 6-7
    z             mean (log Σ_i exp s_i)²       Zoph et al. 2022, eq. 5

Convention: capacity is used up token by token in the order of the input, a token's choices one after the other. In the
load balance f sums to 1, so that an even load costs 1 for every k; transformers' sums to k. Sums over tokens are
float32 or wider, whatever the dtype of what is summed: in bfloat16 they stop growing. Experts have no biases and start
as `Linear` does.
Parameters are named as in transformers' Mixtral and DeepSeek: `gate.weight` W_g, `experts.gate_up_proj` (experts,
2·hidden, d) with the gate's rows above, or `experts.up_proj` of ReLU experts, `experts.down_proj`,
`shared_experts.gate_proj`, `.up_proj`, `.down_proj`; W_noise is `gate.noise_weight`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .checks import check_sizes
from .gated import SwiGLU, swish
from .numerics import at_least_float32, softplus


class Routing(NamedTuple):
    """Where tokens go: `logits` (…, experts), with the noise if any; `gates` and `indices` (…, k), largest first.

    Gates have the dtype of the input, indices are int64.
    """

    logits: Tensor
    gates: Tensor
    indices: Tensor


class TopKRouter(nn.Module):
    """Chooses k experts for each token, and their weights.

    Args:
        embed_dim: width of the tokens.
        num_experts: experts to choose from.
        top_k: k.
        normalize: if True, softmax over the k chosen, else over all, so that gates sum to less than 1.
        noisy: if True, N(0, 1)·softplus(W_noise x) is added to the logits in training; W_noise starts at 0.

    Raises:
        ValueError: a size below 1, more choices than experts; tokens of another width.

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5; Fedus et al. 2021, arXiv:2101.03961, eq. 1.
    """

    def __init__(self, embed_dim: int, num_experts: int, top_k: int = 2, normalize: bool = True, noisy: bool = False):
        super().__init__()
        check_sizes(embed_dim=embed_dim, num_experts=num_experts, top_k=top_k)
        if top_k > num_experts:
            raise ValueError(f"expected top_k <= num_experts = {num_experts}, got {top_k}")
        self.top_k, self.normalize = top_k, normalize
        bound = embed_dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_experts, embed_dim).uniform_(-bound, bound))  # W_g
        self.noise_weight = nn.Parameter(torch.zeros(num_experts, embed_dim)) if noisy else None  # W_noise

    def forward(self, input: Float[Tensor, "*batch d"]) -> Routing:
        width = self.weight.shape[1]
        if not input.dim() or input.shape[-1] != width:
            raise ValueError(f"expected tokens of width {width}, got shape {tuple(input.shape)}")
        logits = input @ self.weight.T
        if self.training and self.noise_weight is not None:
            logits = logits + torch.randn_like(logits) * softplus(input @ self.noise_weight.T)
        wide = at_least_float32(logits)
        if self.normalize:
            best, indices = wide.topk(self.top_k, dim=-1)
            gates = best.softmax(-1)
        else:
            gates, indices = wide.softmax(-1).topk(self.top_k, dim=-1)
        return Routing(logits, gates.to(input.dtype), indices)

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, normalize={self.normalize}"


class _SwiGLUExperts(nn.Module):
    def __init__(self, num_experts: int, embed_dim: int, hidden_features: int):
        super().__init__()
        self.gate_up_proj = _uniform(num_experts, 2 * hidden_features, embed_dim)
        self.down_proj = _uniform(num_experts, embed_dim, hidden_features)

    def forward(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        return _each(_swiglu, rows, self.gate_up_proj, self.down_proj)


class _ReLUExperts(nn.Module):
    def __init__(self, num_experts: int, embed_dim: int, hidden_features: int):
        super().__init__()
        self.up_proj = _uniform(num_experts, hidden_features, embed_dim)
        self.down_proj = _uniform(num_experts, embed_dim, hidden_features)

    def forward(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        return _each(lambda x, up, down: (x @ up.mT).relu() @ down.mT, rows, self.up_proj, self.down_proj)


def _each(layer: Callable[..., Tensor], rows: Tensor | Sequence[Tensor], *weights: Tensor) -> Tensor:
    """The layer of each expert on its rows: a block (experts, capacity, d), or a list of ragged shares."""
    if isinstance(rows, Tensor):
        return layer(rows, *weights)
    # unbind, unlike an index for each expert, has one backward pass over the stack.
    return torch.cat([layer(share, *own) for share, *own in zip(rows, *(w.unbind() for w in weights))])


def _swiglu(x, gate_up, down):
    gate, value = (x @ gate_up.mT).chunk(2, dim=-1)
    return (swish(gate) * value) @ down.mT


def _uniform(experts, outputs, inputs):
    return nn.Parameter(torch.empty(experts, outputs, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))


class MixtureOfExperts(nn.Module):
    """A router and its experts: tokens (…, d) → (…, d), and the routing, from which the balance losses are computed.

    Args:
        embed_dim: width of the tokens.
        num_experts: experts to choose from.
        hidden_features: width inside of an expert.
        top_k, normalize, noisy: as in `TopKRouter`.
        capacity_factor: an expert's capacity over its even share of the choices; None for no bound.
        gated: if True, SwiGLU experts as in Mixtral, else ReLU ones as in Switch.
        shared_features: width inside of a SwiGLU for every token, added to the chosen experts; None for none.

    Raises:
        ValueError: a size below 1, more choices than experts, a factor that is not positive and finite; tokens of
            another width.

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1; Dai et al. 2024, arXiv:2401.06066, eq. 9.
    """

    def __init__(
        self,
        embed_dim: int,
        num_experts: int,
        hidden_features: int,
        top_k: int = 2,
        normalize: bool = True,
        noisy: bool = False,
        capacity_factor: float | None = None,
        gated: bool = True,
        shared_features: int | None = None,
    ):
        super().__init__()
        check_sizes(hidden_features=hidden_features)
        if capacity_factor is not None and not 0 < capacity_factor < math.inf:
            raise ValueError(f"expected a finite capacity_factor > 0 or None, got {capacity_factor}")
        self.capacity_factor = capacity_factor
        self.gate = TopKRouter(embed_dim, num_experts, top_k, normalize, noisy)
        self.experts = (_SwiGLUExperts if gated else _ReLUExperts)(num_experts, embed_dim, hidden_features)
        self.shared_experts = None if shared_features is None else SwiGLU(embed_dim, shared_features)

    def forward(self, input: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch d"], Routing]:
        routing = self.gate(input)
        x = input.reshape(-1, input.shape[-1])
        chosen = routing.indices.reshape(x.shape[0], self.gate.top_k)
        each = self._ragged(x, chosen) if self.capacity_factor is None else self._bounded(x, chosen)  # (tokens, k, d)
        output = (each * routing.gates.reshape(*chosen.shape, 1)).sum(1).view_as(input)
        return output if self.shared_experts is None else output + self.shared_experts(input), routing

    def _ragged(self, x, chosen):
        """Sorts the choices by expert, so that an expert's rows are neighbours, and the outputs back."""
        order = chosen.flatten().argsort()
        counts = chosen.flatten().bincount(minlength=len(self.gate.weight)).tolist()
        rows = x.index_select(0, order // chosen.shape[1])
        return self.experts(rows.split(counts)).index_select(0, order.argsort()).view(*chosen.shape, x.shape[1])

    def _bounded(self, x, chosen):
        """C rows for each expert, of which row n·C + i is the i-th of expert n; a row of zeros after them all."""
        (tokens, top_k), experts = chosen.shape, len(self.gate.weight)
        capacity = expert_capacity(tokens, experts, top_k, self.capacity_factor)
        choice = chosen.flatten()
        taken = (choice[:, None] == torch.arange(experts, device=x.device)).long()
        rank = taken.cumsum(0).gather(1, choice[:, None]).squeeze(1) - 1  # how many earlier choices are the same
        row = torch.where(rank < capacity, choice * capacity + rank, experts * capacity)
        token = torch.arange(choice.shape[0], device=x.device) // top_k
        source = token.new_full((experts * capacity + 1,), tokens).index_copy(0, row, token)[:-1]
        zero = x.new_zeros(1, x.shape[1])
        rows = torch.cat([x, zero]).index_select(0, source).view(experts, capacity, x.shape[1])
        outputs = torch.cat([self.experts(rows).flatten(0, 1), zero])
        return outputs.index_select(0, row).view(tokens, top_k, x.shape[1])

    def extra_repr(self) -> str:
        return f"capacity_factor={self.capacity_factor}"


def expert_capacity(tokens: int, num_experts: int, top_k: int, capacity_factor: float) -> int:
    """⌈capacity_factor · k · tokens / experts⌉, the most tokens that an expert takes.

    Convention: rounded up, so that a factor of 1 drops nothing of a balanced batch.
    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 3.
    """
    return math.ceil(capacity_factor * top_k * tokens / num_experts - 1e-9)  # 1.1 · 10 is 11, not 11.000000000000002


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
    probabilities = at_least_float32(logits).reshape(-1, experts).softmax(-1)
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
    wide = at_least_float32(gates.flatten())
    importance = wide.new_zeros(num_experts).index_add(0, indices.flatten(), wide)
    mean = importance.mean()
    return ((importance - mean).square().mean() / mean.square()).to(gates.dtype)


def router_z_loss(logits: Float[Tensor, "*batch n"]) -> Float[Tensor, ""]:
    """The mean of (log Σ_i exp s_i)² over tokens, which keeps logits small.

    Source: Zoph et al. 2022, arXiv:2202.08906, eq. 5.
    """
    return at_least_float32(logits).logsumexp(-1).square().mean().to(logits.dtype)


def _check_tokens(name, found, expected):
    if found != expected:
        raise ValueError(f"expected {name} of tokens {tuple(expected)}, got {tuple(found)}")
