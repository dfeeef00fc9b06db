"""BigBird next to transformers' BigBird of the same size."""

import torch
from torch import nn

from impl.models.bigbird import BigBird
from tools.bench import Pair

VOCABULARY, WIDTH, HEADS, LAYERS, BLOCK = 100, 192, 3, 2, 32


class _Library(nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import BigBirdConfig, BigBirdForMaskedLM

        sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": HEADS, "block_size": BLOCK}
        sizes |= {"num_hidden_layers": LAYERS, "intermediate_size": 4 * WIDTH, "max_position_embeddings": 2048}
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.model = BigBirdForMaskedLM(BigBirdConfig(**sizes, **no_dropout, sep_token_id=None))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("pooler" not in name)

    def parameters(self, recurse=True):
        return (p for p in super().parameters(recurse) if p.requires_grad)

    def forward(self, tokens):
        return self.model(tokens).logits


def _pair(length):
    return Pair(
        item="bigbird",
        name=f"BigBird, {length}",
        ours=lambda: BigBird(VOCABULARY, WIDTH, HEADS, LAYERS, 4 * WIDTH, 2048, BLOCK, dropout=0.0),
        theirs=_Library,
        inputs=lambda: (torch.randint(1, VOCABULARY, (2, length)),),
    )


PAIRS = [_pair(512), _pair(1536)]
