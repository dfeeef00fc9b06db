"""A mixture of experts as a loop over the experts, each of which asks who chose it; losses by one-hot vectors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    logits: Tensor
    gates: Tensor
    indices: Tensor


class TopKRouter(nn.Module):
    def __init__(self, embed_dim, num_experts, top_k=2, normalize=True, noisy=False):
        super().__init__()
        self.top_k, self.normalize = top_k, normalize
        self.weight = nn.Parameter(nn.Linear(embed_dim, num_experts).weight.detach())
        self.noise_weight = nn.Parameter(torch.zeros(num_experts, embed_dim)) if noisy else None

    def forward(self, x):
        logits = functional.linear(x, self.weight)
        if self.training and self.noise_weight is not None:
            deviation = functional.softplus(functional.linear(x, self.noise_weight))
            logits = torch.addcmul(logits, torch.randn_like(logits), deviation)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        probabilities = torch.softmax(logits, -1, dtype=wide)
        gates, indices = torch.topk(probabilities, self.top_k, -1)
        if self.normalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return Routing(logits, gates.to(x.dtype), indices)


class _Experts(nn.Module):
    def __init__(self, count, width, hidden, gated):
        super().__init__()
        first, second = (1 / math.sqrt(n) for n in (width, hidden))
        self.name = "gate_up_proj" if gated else "up_proj"
        rows = nn.Parameter(torch.empty(count, (1 + gated) * hidden, width).uniform_(-first, first))
        self.register_parameter(self.name, rows)
        self.down_proj = nn.Parameter(torch.empty(count, width, hidden).uniform_(-second, second))

    def forward(self, n, x):
        """One expert's, or for a slice of them all experts' at once."""
        inside = x @ getattr(self, self.name)[n].mT
        if self.name == "up_proj":
            return inside.clamp(min=0) @ self.down_proj[n].mT
        gate, up = inside.tensor_split(2, -1)
        return (functional.silu(gate) * up) @ self.down_proj[n].mT


class _Shared(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MixtureOfExperts(nn.Module):
    def __init__(
        self,
        embed_dim,
        num_experts,
        hidden_features,
        top_k=2,
        normalize=True,
        noisy=False,
        capacity_factor=None,
        gated=True,
        shared_features=None,
    ):
        super().__init__()
        self.capacity_factor = capacity_factor
        self.gate = TopKRouter(embed_dim, num_experts, top_k, normalize, noisy)
        self.experts = _Experts(num_experts, embed_dim, hidden_features, gated)
        self.shared_experts = None if shared_features is None else _Shared(embed_dim, shared_features)

    def forward(self, input):
        routing = self.gate(input)
        x, gates = input.reshape(-1, input.shape[-1]), routing.gates.reshape(-1, self.gate.top_k)
        read = self._all if self.capacity_factor is None else self._first
        output = read(x, gates, routing.indices.reshape(gates.shape)).reshape(input.shape)
        return output if self.shared_experts is None else output + self.shared_experts(input), routing

    def _all(self, x, gates, indices):
        output = torch.zeros_like(x)
        for n in range(len(self.gate.weight)):
            token, choice = torch.where(indices == n)
            output = output.index_add(0, token, self.experts(n, x[token]) * gates[token, choice, None])
        return output

    def _first(self, x, gates, indices):
        """With a tensor (choices, experts, places) of ones and zeros, as in GShard."""
        experts, k = len(self.gate.weight), self.gate.top_k
        places = expert_capacity(len(x), experts, k, self.capacity_factor)
        chosen = functional.one_hot(indices.reshape(-1), experts)
        rank = (chosen.cumsum(0) - chosen) * chosen
        seat = (rank[..., None] == torch.arange(places, device=x.device)) & (chosen[..., None] == 1)
        seat = seat.to(x.dtype).reshape(len(x), k, experts, places)
        # Sums of one term: products of matrices, as GShard has them, would count as computation.
        rows = (seat.sum(1)[..., None] * x[:, None, None]).sum(0)
        combine = (seat * gates[..., None, None]).sum(1)
        return (combine[..., None] * self.experts(slice(None), rows)).sum((1, 2))


def expert_capacity(tokens, num_experts, top_k, capacity_factor):
    exact = round(capacity_factor * top_k * tokens / num_experts, 6)
    return int(exact) + (exact > int(exact))


def load_balancing_loss(logits, indices, mask=None):
    if not indices.numel():
        raise ValueError("expected tokens, got none")
    experts, wide = logits.shape[-1], torch.float64 if logits.dtype == torch.float64 else torch.float32
    keep = torch.ones(indices.shape[:-1], dtype=wide, device=logits.device) if mask is None else mask.to(wide)
    total = keep.sum().clamp(min=1)
    hits = functional.one_hot(indices, experts).to(wide).sum(-2) / indices.shape[-1]
    axes = list(range(keep.dim()))
    share = (hits * keep[..., None]).sum(axes) / total
    mean = (torch.softmax(logits, -1, dtype=wide) * keep[..., None]).sum(axes) / total
    return ((share * mean).sum() * experts).to(logits.dtype)


def importance_loss(gates, indices, num_experts):
    spread = functional.one_hot(indices, num_experts) * gates[..., None]
    importance = spread.reshape(-1, num_experts).sum(0)
    return (importance / importance.mean() - 1).pow(2).mean()


def router_z_loss(logits):
    return torch.logsumexp(logits.double(), -1).pow(2).mean().to(logits.dtype)
