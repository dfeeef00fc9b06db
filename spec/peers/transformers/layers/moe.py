"""Mixtral's experts, which ask one by one who chose them, after a router that is not cast to float32; Switch's z-loss.

No capacity, no ReLU experts, no shared one, no noise: those of other models have other parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralTopKRouter
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func


class Routing(NamedTuple):
    logits: Tensor
    gates: Tensor
    indices: Tensor


def _config(embed_dim, num_experts, top_k, hidden_features=1):
    return MixtralConfig(
        hidden_size=embed_dim,
        intermediate_size=hidden_features,
        num_local_experts=num_experts,
        num_experts_per_tok=top_k,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
    )


def _start(module, *widths):
    """transformers leaves the weights empty."""
    for weight, width in zip(module.parameters(), widths):
        nn.init.uniform_(weight, -(width**-0.5), width**-0.5)


class TopKRouter(MixtralTopKRouter):
    noise_weight = None

    def __init__(self, embed_dim, num_experts, top_k=2, normalize=True, noisy=False):
        if noisy:
            raise NotImplementedError("Mixtral's router has no noise")
        super().__init__(_config(embed_dim, num_experts, top_k))
        self.normalize = normalize
        _start(self, embed_dim)

    def forward(self, input):
        logits = nn.functional.linear(input, self.weight)
        odds = logits.softmax(-1, torch.promote_types(logits.dtype, torch.float32))
        gates, indices = odds.topk(self.top_k, -1)
        if self.normalize:
            gates = gates / gates.sum(-1, keepdim=True)
        return Routing(logits, gates.to(input.dtype), indices)


class MixtureOfExperts(nn.Module):
    shared_experts = None

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
        if noisy or capacity_factor is not None or not gated or shared_features is not None:
            raise NotImplementedError("Mixtral has SwiGLU experts without a bound, noise or company")
        super().__init__()
        self.gate = TopKRouter(embed_dim, num_experts, top_k, normalize)
        self.experts = MixtralExperts(_config(embed_dim, num_experts, top_k, hidden_features))
        _start(self.experts, embed_dim, hidden_features)

    def forward(self, input):
        routing = self.gate(input)
        gates, indices = (s.reshape(-1, self.gate.top_k) for s in routing[1:])
        output = self.experts(input.reshape(-1, input.shape[-1]), indices, gates)
        return output.reshape(input.shape), routing


def router_z_loss(logits):
    if logits.dim() != 3:
        raise NotImplementedError("transformers wants (groups, tokens, experts)")
    return router_z_loss_func(logits)
