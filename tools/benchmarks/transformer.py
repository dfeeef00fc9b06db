"""Transformer blocks next to torch.nn's layers."""

import torch
from torch import nn

from impl.layers.transformer import FeedForward, TransformerDecoderBlock, TransformerEncoderBlock
from tools.bench import Pair

_TOKENS, _MEMORY = (4, 256, 192), (4, 320, 192)


def _pair(name, ours, theirs, *shapes):
    return Pair(
        item="transformer-block",
        name=name,
        ours=ours,
        theirs=theirs,
        inputs=lambda: tuple(torch.randn(shape) for shape in shapes),
    )


def _encoder(kind, **options):
    return lambda: kind(192, 3, 768, dropout=0.0, **options)


class _Decoder(nn.Module):
    """torch.nn.TransformerDecoderLayer with the causal mask that ours has by itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(192, 3, 768, dropout=0.0, batch_first=True)

    def forward(self, tokens, memory):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.layer(tokens, memory, tgt_mask=mask, tgt_is_causal=True)


def _network():
    return nn.Sequential(nn.Linear(192, 768), nn.ReLU(), nn.Linear(768, 192))


PAIRS = [
    _pair("FeedForward", lambda: FeedForward(192, 768), _network, _TOKENS),
    _pair(
        "TransformerEncoderBlock",
        _encoder(TransformerEncoderBlock),
        _encoder(nn.TransformerEncoderLayer, batch_first=True),
        _TOKENS,
    ),
    _pair(
        "… pre-norm, GELU",
        _encoder(TransformerEncoderBlock, norm_first=True, activation="gelu"),
        _encoder(nn.TransformerEncoderLayer, norm_first=True, activation="gelu", batch_first=True),
        _TOKENS,
    ),
    _pair(
        "TransformerDecoderBlock", lambda: TransformerDecoderBlock(192, 3, 768, dropout=0.0), _Decoder, _TOKENS, _MEMORY
    ),
]
