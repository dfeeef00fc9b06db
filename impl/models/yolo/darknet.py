"""YOLOv3's network: the trunk Darknet-53, and three scales whose coarse features join the finer ones.

Redmon & Farhadi 2018, arXiv:1804.02767, §2.3, §2.4 and table 1. What the predictions mean stands in `anchors`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.activation import LeakyReLU
from ...layers.checks import check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.normalization import BatchNorm2d
from ...layers.upsampling import Upsample
from .anchors import ANCHORS, Predictions


class ConvolutionBlock(nn.Module):
    """Convolution without bias, batch normalization, leaky ReLU of slope 0.1: what Darknet consists of."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.convolution = Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm, self.activation = BatchNorm2d(out_channels), LeakyReLU(0.1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o p q"]:
        return self.activation(self.norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """x + a 3 × 3 convolution of a 1 × 1 convolution to half the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.narrow = ConvolutionBlock(channels, channels // 2, 1)
        self.wide = ConvolutionBlock(channels // 2, channels, 3)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.wide(self.narrow(x))


class Darknet53(nn.Module):
    """The trunk: images to three maps, an eighth, a 16th and a 32nd of their size, with 8, 16 and 32 times `width`.

    Args:
        width: channels of the first convolution.
        depths: residual blocks of the five stages, each of which halves the size and doubles the channels.
        channels: of the images.

    Raises:
        ValueError: a size below 1, other than five depths; images of other channels.

    Source: Redmon & Farhadi 2018, arXiv:1804.02767, table 1.
    """

    def __init__(self, width: int = 32, depths: Sequence[int] = (1, 2, 8, 8, 4), channels: int = 3):
        super().__init__()
        check_sizes(width=width, channels=channels)
        if len(depths) != 5:
            raise ValueError(f"expected depths of five stages, got {tuple(depths)}")
        self.first = ConvolutionBlock(channels, width, 3)
        widths = [width << n for n in range(6)]
        self.stages = nn.ModuleList(
            nn.Sequential(ConvolutionBlock(before, after, 3, 2), *(ResidualBlock(after) for _ in range(depth)))
            for before, after, depth in zip(widths, widths[1:], depths)
        )

    def forward(
        self, images: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, "n c8 h8 w8"], Float[Tensor, "n c16 h16 w16"], Float[Tensor, "n c32 h32 w32"]]:
        x, maps = self.first(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[2:])


class YOLOv3(nn.Module):
    """Images (N, C, H, W) to predictions (N, P, 5 + num_classes), P = 3 · (1 + 4 + 16) · H/32 · W/32 for three shapes.

    Args:
        num_classes: number of classes.
        width, depths, channels: as those of `Darknet53`.
        anchors: shapes in pixels, as many for each of the three strides, 32 first.

    The row of a prediction is (t_x, t_y, t_w, t_h, t_o, classes), and that of its prior in `prior_grid` is the same.

    Raises:
        ValueError: a size below 1, other than three sets of shapes of equal number; images of other channels, or of a
            side that 32 does not divide.

    Source: Redmon & Farhadi 2018, arXiv:1804.02767, §2.3.
    """

    def __init__(
        self,
        num_classes: int = 80,
        width: int = 32,
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        anchors: Sequence[Sequence[Sequence[float]]] = ANCHORS,
        channels: int = 3,
    ):
        super().__init__()
        check_sizes(num_classes=num_classes)
        if len(anchors) != 3 or len({len(shapes) for shapes in anchors}) != 1:
            raise ValueError(f"expected as many shapes for each of three strides, got {anchors}")
        self.anchors, self.values = anchors, 5 + num_classes
        self.trunk, self.upsample = Darknet53(width, depths, channels), Upsample(scale_factor=2)
        self.necks, self.heads, self.routes = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for n, w in enumerate((16 * width, 8 * width, 4 * width)):
            if n:
                self.routes.append(ConvolutionBlock(2 * w, w, 1))
            sizes = (2 * w + (w if n else 0), w, 2 * w, w, 2 * w, w)
            blocks = (ConvolutionBlock(a, b, 1 if b == w else 3) for a, b in zip(sizes, sizes[1:]))
            self.necks.append(nn.Sequential(*blocks))
            last = Conv2d(2 * w, len(anchors[0]) * self.values, 1)
            self.heads.append(nn.Sequential(ConvolutionBlock(w, 2 * w, 3), last))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Predictions:
        check_space(images, 2)
        if images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"expected sides that 32 divides, got shape {tuple(images.shape)}")
        found, x = [], None
        for n, fine in enumerate(reversed(self.trunk(images))):
            x = fine if x is None else torch.cat([self.upsample(self.routes[n - 1](x)), fine], dim=1)
            x = self.necks[n](x)
            y = self.heads[n](x).unflatten(1, (-1, self.values))  # (n, shapes, values, rows, columns)
            found.append(y.movedim(2, 4).flatten(1, 3))
        return torch.cat(found, dim=1)
