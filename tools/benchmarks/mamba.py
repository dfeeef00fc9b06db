"""A Mamba block next to transformers' slow path and mambapy's parallel scan: forward and backward."""

import torch

from impl.models.mamba import MambaBlock
from tools.bench import Pair

WIDTH = 128


def _transformers():
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=WIDTH, num_hidden_layers=1, time_step_rank=WIDTH // 16, use_mambapy=False)
    return MambaMixer(config, 0)


def _mambapy():
    from mambapy.mamba import MambaBlock as Block
    from mambapy.mamba import MambaConfig

    return Block(MambaConfig(WIDTH, 1))


PAIRS = [
    Pair(
        item="mamba",
        name=f"128 tokens of {WIDTH}, {library}",
        ours=lambda: MambaBlock(WIDTH),
        theirs=theirs,
        inputs=lambda: (torch.randn(2, 128, WIDTH),),
    )
    for library, theirs in (("mambapy", _mambapy), ("transformers", _transformers))
]
