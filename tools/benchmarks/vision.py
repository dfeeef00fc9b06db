"""Vision models next to torch.nn's layers and transformers' models."""

import torch
from torch import nn

from impl.models.mae import MaskedAutoencoder
from impl.models.segmenter import LinearDecoder, Segmenter
from impl.models.swin import SwinTransformer
from impl.models.unet import UNet
from impl.models.vit import VisionTransformer
from impl.models.yolo import STAGES, YOLO
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


class _Loss(nn.Module):
    """The loss of a masked autoencoder as a function of images."""

    def __init__(self):
        super().__init__()
        self.model = MaskedAutoencoder(112, 16, 192, 3, 3, decoder_width=96, decoder_layers=1, decoder_heads=3)

    def forward(self, images):
        return self.model.loss(images)


class _LibraryMAE(nn.Module):
    """The same of torch.nn's encoder layers, with two argsorts as in the released code."""

    def __init__(self):
        super().__init__()
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.patches, self.class_token = nn.Conv2d(3, 192, 16, stride=16), nn.Parameter(torch.zeros(192))
        self.positions, self.decoder_positions = torch.zeros(49, 192), torch.zeros(50, 96)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(192, 3, 768, **options) for _ in range(3))
        self.norm, self.narrow, self.mask_token = nn.LayerNorm(192), nn.Linear(192, 96), nn.Parameter(torch.zeros(96))
        self.painter = nn.TransformerEncoderLayer(96, 3, 384, **options)
        self.decoder_norm, self.head = nn.LayerNorm(96), nn.Linear(96, 768)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT + self.positions
        shuffled = torch.rand(x.shape[:2]).argsort(1)
        back = shuffled.argsort(1)
        x = x.gather(1, shuffled[:, :12, None].expand(-1, -1, 192))
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.narrow(self.norm(x))
        full = torch.cat([x[:, 1:], self.mask_token.expand(len(x), 37, -1)], dim=1)
        full = full.gather(1, back[:, :, None].expand(-1, -1, 96))
        x = self.painter(torch.cat([x[:, :1], full], dim=1) + self.decoder_positions)
        painted = self.head(self.decoder_norm(x))[:, 1:]
        target = nn.functional.unfold(images, 16, stride=16).mT
        hidden = (back >= 12).float()
        return ((painted - target).square().mean(2) * hidden).sum() / hidden.sum()


class _LibrarySegmenter(nn.Module):
    """The states of `_LibraryViT`'s patches, one linear layer, and torch's interpolation."""

    def __init__(self):
        super().__init__()
        self.encoder, self.scores = _LibraryViT(), nn.Linear(192, 21)
        self.encoder.head = nn.Identity()

    def forward(self, images):
        encoder = self.encoder
        z = encoder.patches(images).flatten(2).mT
        z = torch.cat([encoder.class_token.expand(len(z), 1, -1), z], dim=1) + encoder.positions
        for block in encoder.blocks:
            z = block(z)
        scores = self.scores(encoder.norm(z)[:, 1:]).mT.unflatten(2, (14, 14))
        return nn.functional.interpolate(scores, scale_factor=16, mode="bilinear")


class _LibraryUNet(nn.Module):
    """A U-Net of two halvings of torch.nn's layers."""

    def __init__(self):
        super().__init__()

        def two(before, after):
            return nn.Sequential(nn.Conv2d(before, after, 3), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU())

        self.first, self.second, self.third = two(1, 32), two(32, 64), two(64, 128)
        self.up, self.up_again = nn.ConvTranspose2d(128, 64, 2, stride=2), nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.fourth, self.fifth, self.head = two(128, 64), two(64, 32), nn.Conv2d(32, 2, 1)

    def forward(self, images):
        fine = self.first(images)
        middle = self.second(nn.functional.max_pool2d(fine, 2))
        x = self.up(self.third(nn.functional.max_pool2d(middle, 2)))
        x = self.up_again(self.fourth(torch.cat([middle[:, :, 4:-4, 4:-4], x], dim=1)))
        return self.head(self.fifth(torch.cat([fine[:, :, 16:-16, 16:-16], x], dim=1)))


def _library_swin():
    """The first two stages of Swin-T by transformers."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(depths=[2, 2], num_heads=[3, 6], drop_path_rate=0.0, num_labels=100)
    model = SwinForImageClassification(config)
    return lambda images: model(images).logits


class _LibraryYOLO(nn.Sequential):
    """The first three stages of YOLO's convolutions, with torch.nn's layers."""

    def __init__(self):
        layers, width = [], 3
        for n, stage in enumerate(STAGES[:3]):
            layers += [nn.MaxPool2d(2)] if n else []
            for kernel, out, stride in stage:
                layers += [nn.Conv2d(width, out, kernel, stride, kernel // 2), nn.LeakyReLU(0.1)]
                width = out
        layers += [nn.Flatten(), nn.Linear(512 * 14 * 14, 64), nn.LeakyReLU(0.1), nn.Linear(64, 1470)]
        super().__init__(*layers, nn.Unflatten(1, (7, 7, 30)))


PAIRS = [
    Pair(
        item="vit",
        name="three layers of Ti/16",
        ours=lambda: VisionTransformer(224, 16, 3, 3, 192, 768, num_classes=100),
        theirs=_LibraryViT,
        inputs=lambda: (torch.randn(4, 3, 224, 224),),
    ),
    Pair(
        item="mae",
        name="loss, 49 patches",
        ours=_Loss,
        theirs=_LibraryMAE,
        inputs=lambda: (torch.randn(8, 3, 112, 112),),
    ),
    Pair(
        item="segmenter",
        name="linear decoder, three layers of Ti/16",
        ours=lambda: Segmenter(VisionTransformer(224, 16, 3, 3, 192, 768, num_classes=None), LinearDecoder(192, 21)),
        theirs=_LibrarySegmenter,
        inputs=lambda: (torch.randn(2, 3, 224, 224),),
    ),
    Pair(
        item="swin",
        name="two stages of T",
        ours=lambda: SwinTransformer(96, (2, 2), (3, 6), num_classes=100),
        theirs=_library_swin,
        inputs=lambda: (torch.randn(2, 3, 224, 224),),
    ),
    Pair(
        item="unet",
        name="two halvings of 32 channels",
        ours=lambda: UNet(1, 2, 32, 2),
        theirs=_LibraryUNet,
        inputs=lambda: (torch.randn(2, 1, 92, 92),),
    ),
    Pair(
        item="yolo",
        name="three stages, 112 × 112",
        ours=lambda: YOLO(112, stages=STAGES[:3], hidden=64, dropout=0.0),
        theirs=_LibraryYOLO,
        inputs=lambda: (torch.randn(2, 3, 112, 112),),
    ),
]
