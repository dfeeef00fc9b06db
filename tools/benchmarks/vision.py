"""Vision models next to torch.nn's layers."""

import torch
from torch import nn

from impl.models.vit import VisionTransformer
from tools.bench import Pair


class _LibraryViT(nn.Module):
    """ViT-Ti/16 with 100 classes of torch.nn's encoder layers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, stride=16)
        self.class_token, self.positions = nn.Parameter(torch.zeros(192)), nn.Parameter(torch.zeros(197, 192))
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(192, 3, 768, **options) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 100)

    def forward(self, images):
        z = self.patches(images).flatten(2).mT
        z = torch.cat([self.class_token.expand(len(z), 1, -1), z], dim=1) + self.positions
        for block in self.blocks:
            z = block(z)
        return self.head(self.norm(z)[:, 0])


PAIRS = [
    Pair(
        item="vit",
        name="three layers of Ti/16",
        ours=lambda: VisionTransformer(224, 16, 3, 3, 192, 768, num_classes=100),
        theirs=_LibraryViT,
        inputs=lambda: (torch.randn(4, 3, 224, 224),),
    ),
]
