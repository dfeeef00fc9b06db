"""The networks of CycleGAN: a generator of residual blocks, and a discriminator of patches.

Zhu, Park, Isola & Efros 2017, arXiv:1703.10593, §7.2; patches: Isola et al. 2016, arXiv:1611.07004.
"""

from jaxtyping import Float
from torch import Tensor, nn

from ...layers.activation import LeakyReLU
from ...layers.checks import check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.normalization import InstanceNorm2d
from ...layers.transposed_convolution import ConvTranspose2d

Images = Float[Tensor, "n c h w"]


def initialise(network: nn.Module) -> None:
    """Weights from N(0, 0.02²), biases 0."""
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.02) if parameter.dim() > 1 else parameter.data.zero_()


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3×3 with reflected borders."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (Conv2d(channels, channels, 3, padding=1, padding_mode="reflect") for _ in range(2))
        self.norm1, self.norm2 = InstanceNorm2d(channels), InstanceNorm2d(channels)

    def forward(self, x: Images) -> Images:
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class ResnetGenerator(nn.Module):
    """An image becomes one of equal size with values in (−1, 1): c7s1-64, d128, d256, R256 × 9, u128, u64, c7s1-3.

    c7s1-k is a 7×7 convolution to k channels, dk one of 3×3 and stride 2, Rk a residual block, uk a transposed 3×3 of
    stride 2. c and R have reflected borders, d and u zeros. Instance normalization and ReLU follow each c, d and u but
    the last c, which tanh follows.

    Args:
        in_channels, out_channels: of the two domains.
        width: of the first layer; doubled by each of the two that halve the size.
        num_blocks: 9, or 6 for images of 128×128.

    Raises:
        ValueError: a size below 1; images of other channels, or with a side that is no multiple of 4 or below 8.

    Source: Zhu et al. 2017, arXiv:1703.10593, §7.2; weights N(0, 0.02²) at first, §7.1, and biases 0.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, num_blocks: int = 9):
        super().__init__()
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, num_blocks=num_blocks)
        self.in_channels = in_channels
        steps = [(width, 2 * width), (2 * width, 4 * width)]
        first = Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect")
        self.down = nn.ModuleList([first, *(Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)])
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(num_blocks))
        self.up = nn.ModuleList(
            ConvTranspose2d(b, a, 3, stride=2, padding=1, output_padding=1) for a, b in reversed(steps)
        )
        self.last = Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect")
        self.down_norms = nn.ModuleList(InstanceNorm2d(layer.out_channels) for layer in self.down)
        self.up_norms = nn.ModuleList(InstanceNorm2d(layer.out_channels) for layer in self.up)
        initialise(self)

    def forward(self, images: Images) -> Float[Tensor, "n o h w"]:
        check_space(images, 2, self.in_channels)
        if any(side % 4 or side < 8 for side in images.shape[2:]):
            raise ValueError(f"expected sides that are multiples of 4 from 8 on, got shape {tuple(images.shape)}")
        x = images
        for layer, norm in zip(self.down, self.down_norms):
            x = norm(layer(x)).relu()
        for block in self.blocks:
            x = block(x)  # (n, 4·width, h/4, w/4)
        for layer, norm in zip(self.up, self.up_norms):
            x = norm(layer(x)).relu()
        return self.last(x).tanh()  # (n, out_channels, h, w)


class PatchGANDiscriminator(nn.Module):
    """Each patch of 70×70 pixels, at every eighth, has a logit: C64-C128-C256-C512 and a last convolution to 1 channel.

    All are of 4×4, with padding 1, all but the last two of stride 2; instance normalization on all but the first and
    the last, LeakyReLU of 0.2 on all but the last. The logits are those of least squares: no sigmoid.

    Args:
        in_channels: of the images.
        width: of the first layer; doubled by each further one up to 8·width.
        num_layers: of stride 2; patches have sides of 16, 34, 70, 142 pixels for 1 to 4.

    Raises:
        ValueError: a size below 1; images of other channels, or too small for a logit.

    Source: Zhu et al. 2017, arXiv:1703.10593, §4 and §7.2; weights N(0, 0.02²) at first, §7.1, and biases 0.
    """

    def __init__(self, in_channels: int, width: int = 64, num_layers: int = 3):
        super().__init__()
        check_sizes(in_channels=in_channels, width=width, num_layers=num_layers)
        widths = [in_channels, *(width * min(2**n, 8) for n in range(num_layers + 1)), 1]
        strides = [2] * num_layers + [1, 1]
        self.layers = nn.ModuleList(
            Conv2d(a, b, 4, stride, padding=1) for a, b, stride in zip(widths, widths[1:], strides)
        )
        self.norms = nn.ModuleList(InstanceNorm2d(channels) for channels in widths[2:-1])
        self.activation = LeakyReLU(0.2)
        initialise(self)

    def forward(self, images: Images) -> Float[Tensor, "n 1 p q"]:
        first, *middle, last = self.layers
        x = self.activation(first(images))
        for layer, norm in zip(middle, self.norms):
            x = self.activation(norm(layer(x)))
        return last(x)
