"""The discriminators: of the first paper, which grows with its images, and of the second, with residual connections."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_sizes
from ...layers.pooling import AvgPool2d
from .layers import EqualizedConv2d, EqualizedLinear, leaky, low_pass

_halve = AvgPool2d(2)


def resolutions(resolution: int) -> list[int]:
    """4, 8, …, resolution; ValueError if that is no power of two."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"expected resolution as a power of two >= 4, got {resolution}")
    return [4 << n for n in range(resolution.bit_length() - 2)]


def widths(resolution: int, channel_base: int, channel_max: int) -> list[int]:
    """Channels at 4, 8, …, resolution: min(channel_base // size, channel_max)."""
    check_sizes(channel_max=channel_max)
    found = [min(channel_base // size, channel_max) for size in resolutions(resolution)]
    if found[-1] < 1:
        raise ValueError(f"expected channel_base >= resolution {resolution}, got {channel_base}")
    return found


def minibatch_stddev(x: Float[Tensor, "b c h w"], group_size: int = 4) -> Float[Tensor, "b d h w"]:
    """Appends a channel with the standard deviation over a group of samples, averaged over channels and pixels.

    Args:
        x: (B, C, H, W); groups are of min(group_size, B) samples, and sample n is in group n mod the number of groups.
        group_size: at least 1.

    Returns:
        (B, C + 1, H, W); the variance is the biased one, with 1e-8 added under the root.

    Raises:
        ValueError: group_size below 1, a batch that does not divide into groups.

    Source: Karras et al. 2017, arXiv:1710.10196, §3; Karras et al. 2019, appendix B.
    """
    check_sizes(group_size=group_size)
    group = max(1, min(group_size, x.shape[0]))
    if x.shape[0] % group:
        raise ValueError(f"expected a batch that divides into groups of {group}, got {x.shape[0]} samples")
    groups = x.unflatten(0, (group, -1))  # (group, groups, C, H, W)
    deviation = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))  # (groups,)
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class _Block(nn.Module):
    """Two convolutions; before the second, which halves the size, a low-pass filter."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3, padding=1)
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x):
        return leaky(self.conv1(low_pass(leaky(self.conv0(x)), stride=1, padding=2)))


class _Head(nn.Module):
    """From features at 4×4 to one logit."""

    def __init__(self, channels, group_size):
        super().__init__()
        check_sizes(group_size=group_size)
        self.group_size = group_size
        self.conv = EqualizedConv2d(channels + 1, channels, 3, padding=1)
        self.linear = EqualizedLinear(16 * channels, channels)
        self.out = EqualizedLinear(channels, 1)

    def forward(self, x):
        x = leaky(self.conv(minibatch_stddev(x, self.group_size)))
        return self.out(leaky(self.linear(x.flatten(1))))


class StyleGANDiscriminator(nn.Module):
    """Logits of images of any resolution from 4 to its own: it grows with them.

    Args:
        resolution: of the largest images, a power of two, at least 4.
        channel_base, channel_max: min(channel_base // size, channel_max) channels at each size.
        image_channels: of the images.
        group_size: of `minibatch_stddev`.

    `from_rgb`, a 1×1 convolution and the activation, makes features of images; there is one for each size, from 4 on.
    A block, of which blocks[0] goes from 8 to 4, is a 3×3 convolution with its activation, the filter [1, 3, 3, 1]/8
    with two zeros around the image, a 3×3 convolution of stride 2 without padding, and its activation. The head is
    `minibatch_stddev`, a 3×3 convolution, a linear layer, each with its activation, and a linear layer to the logit.

    Raises:
        ValueError: a size out of range, images of other channels or of no such resolution, alpha outside of [0, 1].

    Source: Karras, Laine & Aila 2018, appendix C; Karras et al. 2017, arXiv:1710.10196, §2 and table 2.
    """

    def __init__(
        self,
        resolution: int,
        channel_base: int = 16384,
        channel_max: int = 512,
        image_channels: int = 3,
        group_size: int = 4,
    ):
        super().__init__()
        check_sizes(image_channels=image_channels)
        channels = widths(resolution, channel_base, channel_max)
        self.sizes, self.image_channels = resolutions(resolution), image_channels
        self.from_rgb = nn.ModuleList(EqualizedConv2d(image_channels, c, 1) for c in channels)
        self.blocks = nn.ModuleList(_Block(c, below) for below, c in zip(channels, channels[1:]))
        self.head = _Head(channels[0], group_size)

    def forward(self, images: Float[Tensor, "b c h w"], alpha: float = 1.0) -> Float[Tensor, "b 1"]:
        """Logits.

        Args:
            images: (B, C, size, size).
            alpha: weight of the layers of this size; the rest goes to the images at half of it, which skip them.
        """
        check_fade(alpha)
        check_images(images, self.image_channels, self.sizes)
        last = self.sizes.index(images.shape[2])
        x = leaky(self.from_rgb[last](images))
        for n in range(last - 1, -1, -1):
            x = self.blocks[n](x)
            if n == last - 1 and alpha < 1:
                x = torch.lerp(leaky(self.from_rgb[n](_halve(images))), x, alpha)
        return self.head(x)


class StyleGAN2Discriminator(nn.Module):
    """Logits of images of one resolution, by blocks with residual connections: x ← (F(x) + W x)/√2.

    Args:
        resolution, channel_max, image_channels, group_size: as in `StyleGANDiscriminator`.
        channel_base: likewise; the second paper's is twice the first's.

    Blocks and head are those of `StyleGANDiscriminator`, and blocks[0] is the one of the largest images. W is the
    filter [1, 3, 3, 1]/8 of stride 2, with one zero around the image, then a 1×1 convolution without bias.

    Raises:
        ValueError: a size out of range, images of other channels or of another resolution.

    Source: Karras et al. 2019, §4.1, figure 7 and appendix B.
    """

    def __init__(
        self,
        resolution: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        image_channels: int = 3,
        group_size: int = 4,
    ):
        super().__init__()
        check_sizes(image_channels=image_channels)
        channels = widths(resolution, channel_base, channel_max)[::-1]
        self.resolution, self.image_channels = resolution, image_channels
        self.from_rgb = EqualizedConv2d(image_channels, channels[0], 1)
        pairs = list(zip(channels, channels[1:]))
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in pairs)
        self.skips = nn.ModuleList(EqualizedConv2d(a, b, 1, bias=False) for a, b in pairs)
        self.head = _Head(channels[-1], group_size)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1"]:
        """Logits of images (B, C, resolution, resolution)."""
        check_images(images, self.image_channels, [self.resolution])
        x = leaky(self.from_rgb(images))
        for block, skip in zip(self.blocks, self.skips):
            x = (block(x) + skip(low_pass(x, stride=2, padding=1))) / math.sqrt(2)
        return self.head(x)


def check_fade(alpha: float) -> None:
    """The weight of a layer that is faded in."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha in [0, 1], got {alpha}")


def check_images(images: Tensor, channels: int, sizes: list[int]) -> None:
    """Square images of one of these sizes."""
    if images.dim() != 4 or images.shape[1] != channels or tuple(images.shape[2:]) not in [(n, n) for n in sizes]:
        raise ValueError(f"expected {channels} channels and squares of {sizes}, got shape {tuple(images.shape)}")
