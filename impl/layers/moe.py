"""Mixture of experts: a router sends each token to a few of many feed-forward layers, and adds up what they say.

Shazeer et al. 2017, arXiv:1701.06538, eq. 1-7; Fedus, Zoph & Shazeer 2021 (Switch), arXiv:2101.03961, eq. 1-6;
Jiang et al. 2024 (Mixtral), arXiv:2401.04088, §2.1; Dai et al. 2024 (DeepSeekMoE), arXiv:2401.06066, §3.2, for shared
experts; Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, eq. 5, for the z-loss.

    y = Σ_{i ∈ top k} g_i E_i(x) (+ a shared expert that reads every token),   s = W_g x (+ N(0, 1)·softplus(W_noise x))
    renormalised (Shazeer, Mixtral)   g = softmax of the k largest s
    not          (Switch, DeepSeek)   g = the k largest of softmax(s); with k = 1 only these give the router a gradient
    capacity C = ⌈factor · k · tokens / experts⌉: an expert takes the first C tokens sent to it, of the rest it says 0

Convention: places are given out token by token in the order of the input, a token's choices one after the other.
Parameters are named as in transformers' Mixtral and DeepSeek: `gate.weight` W_g, `experts.gate_up_proj` (experts,
2·hidden, d) with the gate's rows above, or `experts.up_proj` of ReLU experts, `experts.down_proj`,
`shared_experts.gate_proj`, `.up_proj`, `.down_proj`; W_noise is `gate.noise_weight`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._experts import ReLUExperts, SwiGLUExperts
from ._routing_losses import importance_loss, load_balancing_loss, router_z_loss
from .gated import SwiGLU

__all__ = [
    "MixtureOfExperts",
    "Routing",
    "TopKRouter",
    "expert_capacity",
    "importance_loss",
    "load_balancing_loss",
    "router_z_loss",
]


class Routing(NamedTuple):
    """Where tokens go: `logits` (…, experts), with the noise if any; `gates` and `indices` (…, k), largest first."""

    logits: Tensor
    gates: Tensor
    indices: Tensor


class TopKRouter(nn.Module):
    """Chooses k experts for each token, and their weights.

    Args:
        embed_dim: width of the tokens.
        num_experts: experts to choose from.
        top_k: k.
        normalize: softmax over the k chosen; otherwise over all, so that gates sum to less than 1.
        noisy: in training, add N(0, 1)·softplus(W_noise x) to the logits? W_noise starts at 0.

    Raises:
        ValueError: a size below 1, more choices than experts; tokens of another width.

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5; Fedus et al. 2021, arXiv:2101.03961, eq. 1.
    """

    def __init__(self, embed_dim: int, num_experts: int, top_k: int = 2, normalize: bool = True, noisy: bool = False):
        super().__init__()
        _check_sizes(embed_dim=embed_dim, num_experts=num_experts, top_k=top_k)
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
            spread = torch.logaddexp(input @ self.noise_weight.T, logits.new_zeros(()))  # softplus
            logits = logits + torch.randn_like(logits) * spread
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.normalize:
            best, indices = wide.topk(self.top_k, dim=-1)
            gates = best.softmax(-1)
        else:
            gates, indices = wide.softmax(-1).topk(self.top_k, dim=-1)
        return Routing(logits, gates.to(input.dtype), indices)

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, normalize={self.normalize}"


class MixtureOfExperts(nn.Module):
    """A router and its experts: tokens (…, d) → (…, d), and the routing, which the balance losses read.

    Args:
        embed_dim: width of the tokens.
        num_experts: experts to choose from.
        hidden_features: width inside of an expert.
        top_k, normalize, noisy: as in `TopKRouter`.
        capacity_factor: how many times an expert's even share of the choices it may take; None for no bound.
        gated: SwiGLU experts as in Mixtral, or ReLU ones as in Switch?
        shared_features: width inside of a SwiGLU that reads every token beside the chosen experts; None for none.

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
        _check_sizes(hidden_features=hidden_features)
        if capacity_factor is not None and not 0 < capacity_factor < math.inf:
            raise ValueError(f"expected a finite capacity_factor > 0 or None, got {capacity_factor}")
        self.capacity_factor = capacity_factor
        self.gate = TopKRouter(embed_dim, num_experts, top_k, normalize, noisy)
        self.experts = (SwiGLUExperts if gated else ReLUExperts)(num_experts, embed_dim, hidden_features)
        self.shared_experts = None if shared_features is None else SwiGLU(embed_dim, shared_features)

    def forward(self, input: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch d"], Routing]:
        routing = self.gate(input)
        x = input.reshape(-1, input.shape[-1])
        chosen = routing.indices.reshape(len(x), self.gate.top_k)
        said = self._ragged(x, chosen) if self.capacity_factor is None else self._bounded(x, chosen)  # (tokens, k, d)
        output = (said * routing.gates.reshape(*chosen.shape, 1)).sum(1).view_as(input)
        return output if self.shared_experts is None else output + self.shared_experts(input), routing

    def _ragged(self, x, chosen):
        """Choices sorted by expert, so that an expert's rows are neighbours; then back into their places."""
        order = chosen.flatten().argsort()
        counts = chosen.flatten().bincount(minlength=len(self.gate.weight)).tolist()
        rows = x.index_select(0, order // chosen.shape[1])
        return self.experts(rows.split(counts)).index_select(0, order.argsort()).view(*chosen.shape, x.shape[1])

    def _bounded(self, x, chosen):
        """C places for each expert, of which row n·C + i is the i-th of expert n; a row of zeros after them all."""
        (tokens, top_k), experts = chosen.shape, len(self.gate.weight)
        places = expert_capacity(tokens, experts, top_k, self.capacity_factor)
        choice = chosen.flatten()
        taken = (choice[:, None] == torch.arange(experts, device=x.device)).long()
        rank = taken.cumsum(0).gather(1, choice[:, None]).squeeze(1) - 1  # how many earlier choices are the same
        place = torch.where(rank < places, choice * places + rank, experts * places)
        token = torch.arange(len(choice), device=x.device) // top_k
        source = token.new_full((experts * places + 1,), tokens).index_copy(0, place, token)[:-1]
        zero = x.new_zeros(1, x.shape[1])
        rows = torch.cat([x, zero]).index_select(0, source).view(experts, places, x.shape[1])
        said = torch.cat([self.experts(rows).flatten(0, 1), zero])
        return said.index_select(0, place).view(tokens, top_k, x.shape[1])

    def extra_repr(self) -> str:
        return f"capacity_factor={self.capacity_factor}"


def expert_capacity(tokens: int, num_experts: int, top_k: int, capacity_factor: float) -> int:
    """⌈capacity_factor · k · tokens / experts⌉, the most tokens that an expert takes.

    Convention: rounded up, so that a factor of 1 drops nothing of a balanced batch.
    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 3.
    """
    return math.ceil(capacity_factor * top_k * tokens / num_experts - 1e-9)  # 1.1 · 10 is 11, not 11.000000000000002


def _check_sizes(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} >= 1, got {size}")
