"""A mixture of experts next to transformers' Mixtral block of the same size: forward and backward."""

import torch
from torch import nn

from impl.layers.moe import MixtureOfExperts
from tools.bench import Pair

WIDTH, HIDDEN, EXPERTS = 256, 512, 8


class _Output(nn.Module):
    """Without the routing, which Mixtral's block does not return."""

    def __init__(self, **options):
        super().__init__()
        self.layer = MixtureOfExperts(WIDTH, EXPERTS, HIDDEN, **options)

    def forward(self, input):
        return self.layer(input)[0]


def _mixtral():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    block = MixtralSparseMoeBlock(
        MixtralConfig(hidden_size=WIDTH, intermediate_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=2)
    )
    for parameter in block.parameters():  # transformers leaves them empty
        nn.init.normal_(parameter, std=WIDTH**-0.5)
    return block


PAIRS = [
    Pair(
        item="moe",
        name=name,
        ours=lambda options=options: _Output(**options),
        theirs=_mixtral,
        inputs=lambda: (torch.randn(2, 256, WIDTH),),
    )
    for name, options in (("512 tokens of 256", {}), ("512 tokens, factor 1.25", {"capacity_factor": 1.25}))
]
