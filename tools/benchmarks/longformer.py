"""Longformer next to transformers' Longformer of the same size."""

import torch
from torch import nn

from impl.models.longformer import Longformer
from tools.bench import Pair

VOCABULARY, WIDTH, HEADS, LAYERS, WINDOW = 100, 192, 3, 2, 64


class _Ours(nn.Module):
    """Windows alone: the projections of global tokens are left out of the gradients."""

    def __init__(self):
        super().__init__()
        self.model = Longformer(VOCABULARY, WIDTH, HEADS, WINDOW, 1, LAYERS, 4 * WIDTH, max_len=2048, dropout=0.0)
        _leave_out(self.model)

    def parameters(self, recurse=True):
        return (p for p in super().parameters(recurse) if p.requires_grad)

    def forward(self, tokens):
        return self.model(tokens)


class _Library(_Ours):
    def __init__(self):
        nn.Module.__init__(self)
        from transformers import LongformerConfig, LongformerForMaskedLM

        sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": HEADS}
        sizes |= {"num_hidden_layers": LAYERS, "intermediate_size": 4 * WIDTH, "max_position_embeddings": 2050}
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.model = LongformerForMaskedLM(LongformerConfig(**sizes, **no_dropout, attention_window=[WINDOW] * LAYERS))
        _leave_out(self.model)

    def forward(self, tokens):
        return self.model(tokens).logits


def _leave_out(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("global" not in name and "pooler" not in name)


def _pair(length):
    return Pair(
        item="longformer",
        name=f"Longformer, {length}",
        ours=_Ours,
        theirs=_Library,
        inputs=lambda: (torch.randint(2, VOCABULARY, (2, length)),),
    )


PAIRS = [_pair(512), _pair(1536)]
