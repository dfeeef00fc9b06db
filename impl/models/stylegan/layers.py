"""The layers of a style-based generator: equalised weights, styles, noise, resampling.

Convention: weights are stored as N(0, 1) and multiplied by 1/√fan_in at run time (equalised learning rate, Karras et
al. 2017, arXiv:1710.10196, §4.1); the activation is √2 · LeakyReLU of slope 0.2; resampling filters by [1, 3, 3, 1] in
each dimension with zeros outside: the first paper's nearest neighbour and [1, 2, 1] in one.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.activation import LeakyReLU
from ...layers.checks import check_channels, check_last, check_not_negative, check_sizes, check_space
from ...layers.convolution import convolve
from ...layers.linear import linear
from ...layers.numerics import at_least_float32
from ...layers.upsampling import Upsample
from ...layers.windows import pad

_rectify, _twice = LeakyReLU(0.2), Upsample(scale_factor=2, mode="bilinear")


def leaky(x: Tensor) -> Tensor:
    """√2 · LeakyReLU(x): keeps the second moment of a normal x, nearly."""
    return math.sqrt(2) * _rectify(x)


def upsampled(x: Float[Tensor, "b c h w"], border: int = 0) -> Float[Tensor, "b c n m"]:
    """Twice the size, filtered, with a border of what the filter leaks over the edge: (2H + 2·border, …)."""
    wide = 1 + border // 2  # inside of a margin of zeros the filter is bilinear interpolation
    crop = border - 2 * wide
    return pad(_twice(pad(x, [(wide, wide)] * 2)), [(crop, crop)] * 2)


def low_pass(x: Float[Tensor, "b c h w"], stride: int, padding: int) -> Float[Tensor, "b c n m"]:
    """Filters every channel by [1, 3, 3, 1]/8 in both dimensions."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    weight = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return convolve(pad(x, [(padding, padding)] * 2), weight, (stride, stride), (1, 1), x.shape[1])


class EqualizedLinear(nn.Module):
    """y = x (c W)ᵀ + λ b, c = λ/√in_features, of stored weights W ~ N(0, 1/λ²).

    Args:
        in_features, out_features: sizes of the last dimension.
        bias: what b starts from.
        lr_multiplier: λ; an optimizer of normalised steps learns λ times as fast.
    """

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias))
        self.lr_multiplier, self.gain = lr_multiplier, lr_multiplier / math.sqrt(in_features)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        check_last(x, self.weight.shape[1])
        return linear(x, self.gain * self.weight, self.lr_multiplier * self.bias)


class EqualizedConv2d(nn.Module):
    """Convolution with c w, c = 1/√fan_in, of stored weights w ~ N(0, 1).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as in `Conv2d`.
        up: 2 for an input that is upsampled first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        up: int = 1,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.stride, self.padding, self.up = stride, padding, up

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        y = _convolved(x, self.gain * self.weight, self.stride, self.padding, self.up)
        return y if self.bias is None else y + self.bias[:, None, None]


def _convolved(x, weight, stride, padding, up):
    check_space(x, 2, weight.shape[1])
    x = upsampled(x, padding) if up == 2 else pad(x, [(padding, padding)] * 2)
    return convolve(x, weight, (stride, stride), (1, 1), 1)


class MappingNetwork(nn.Module):
    """w = f(z): z on the sphere of mean square 1, then fully connected layers, each with its activation.

    Args:
        z_dim, w_dim: sizes of z and w; every hidden layer has w_dim units.
        num_layers: how many layers.
        lr_multiplier: λ of every layer: stored weights ~ N(0, 1/λ²), multiplied by λ/√fan_in, biases by λ.

    Raises:
        ValueError: a size below 1, lr_multiplier not positive and finite, another size of z.

    Source: Karras, Laine & Aila 2018, §2, figure 1b and appendix C.
    """

    def __init__(self, z_dim: int, w_dim: int, num_layers: int = 8, lr_multiplier: float = 0.01):
        super().__init__()
        check_sizes(z_dim=z_dim, w_dim=w_dim, num_layers=num_layers)
        if not 0 < lr_multiplier < math.inf:
            raise ValueError(f"expected a positive and finite lr_multiplier, got {lr_multiplier}")
        sizes = [z_dim] + [w_dim] * num_layers
        self.z_dim = z_dim
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, lr_multiplier=lr_multiplier) for a, b in zip(sizes, sizes[1:])
        )

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b w"]:
        check_last(z, self.z_dim)
        wide = at_least_float32(z)
        w = (wide * (wide.square().mean(-1, keepdim=True) + 1e-8).rsqrt()).to(z.dtype)
        for layer in self.layers:
            w = leaky(layer(w))
        return w


class AdaptiveInstanceNorm2d(nn.Module):
    """AdaIN(x_i, y) = y_s,i (x_i − μ(x_i))/σ(x_i) + y_b,i with the style (y_s, y_b) = A w + b of each sample (eq. 1).

    Args:
        num_features: channels of x.
        w_dim: size of w.
        eps: added to the variance, which is the biased one.

    `style` maps w to y_s, then y_b; at the start y_s is 1 and y_b is 0 but for A w.

    Raises:
        ValueError: a size below 1, a negative eps, an input of other channels, a w of another size.

    Source: Karras, Laine & Aila 2018, eq. 1.
    """

    def __init__(self, num_features: int, w_dim: int, eps: float = 1e-8):
        super().__init__()
        check_sizes(num_features=num_features, w_dim=w_dim)
        check_not_negative(eps=eps)
        self.style, self.eps = EqualizedLinear(w_dim, 2 * num_features), eps
        self.style.bias.data[:num_features] = 1

    def forward(self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        check_space(x, 2, self.style.bias.shape[0] // 2)
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        wide = at_least_float32(x)
        centred = wide - wide.mean((2, 3), keepdim=True)
        normed = centred * (centred.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return scale * normed.to(x.dtype) + shift


class ModulatedConv2d(nn.Module):
    """Convolution of each sample with weights of its own: w'_ijk = s_i w_ijk, w''_ijk = w'_ijk/√(Σ_i,k w'_ijk² + ε).

    s = A w + b scales the input channels i; demodulation makes every output channel j of unit variance for an input of
    unit variance, whatever s. As s_i and the root factor out of the sum over i and k, they scale input and output.

    Args:
        in_channels, out_channels: channels of the image before and after.
        kernel_size: odd; zeros around the image keep its size.
        w_dim: size of w.
        demodulate: if True, the second of the equations.
        up: 2 for an input that is upsampled first to twice its size, 1 for one that is not.
        eps: ε.

    The stored weight is N(0, 1) and multiplied by 1/√fan_in before everything else; `style` maps w to s, and starts
    from b = 1. There is no bias of the output.

    Raises:
        ValueError: a size below 1, an even kernel, up other than 1 and 2, a negative eps; an input of other channels, a
            w of another size.

    Source: Karras et al. 2019, eq. 1-3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        w_dim: int,
        demodulate: bool = True,
        up: int = 1,
        eps: float = 1e-8,
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, w_dim=w_dim)
        check_not_negative(eps=eps)
        if kernel_size % 2 == 0 or up not in (1, 2):
            raise ValueError(f"expected an odd kernel_size and up of 1 or 2, got {kernel_size} and {up}")
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.style = EqualizedLinear(w_dim, in_channels, bias=1.0)
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate, self.up, self.eps = demodulate, up, eps

    def forward(self, x: Float[Tensor, "b c h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b o p q"]:
        check_channels(x, self.weight.shape[1])
        weight, s = self.gain * self.weight, self.style(w)
        y = _convolved(x * s[:, :, None, None], weight, 1, self.weight.shape[2] // 2, self.up)  # eq. 1
        if self.demodulate:
            s, weight = at_least_float32(s), at_least_float32(weight)
            variance = s.square() @ weight.square().sum((2, 3)).T  # (B, O): Σ_i,k (s_i w_ijk)², eq. 2
            y = y * (variance + self.eps).rsqrt().to(y.dtype)[:, :, None, None]  # eq. 3
        return y


class NoiseInjection(nn.Module):
    """x + strength · noise, where one image of noise ~ N(0, 1) is shared by all channels of a sample.

    Args:
        size: height and width of the image.
        channels: how many strengths: one for each channel (StyleGAN), or 1 for all of them (StyleGAN2).

    The strengths start from 0. A fixed `image` (size, size) of noise is part of the state.

    Raises:
        ValueError: a size below 1, another noise_mode, an input of another size.

    Source: Karras, Laine & Aila 2018, §2 and figure 1b; Karras et al. 2019, §2.1.
    """

    def __init__(self, size: int, channels: int = 1):
        super().__init__()
        check_sizes(size=size, channels=channels)
        self.strength = nn.Parameter(torch.zeros(channels))
        self.register_buffer("image", torch.randn(size, size))

    def forward(
        self, x: Float[Tensor, "b c h w"], noise_mode: str | None = None, generator: Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Adds noise.

        Args:
            noise_mode: "random" for an image of its own for each sample, "const" for the fixed one, "none"; None stands
                for "random" in training and for "const" in evaluation.
            generator: of the random noise.
        """
        noise_mode = ("random" if self.training else "const") if noise_mode is None else noise_mode
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"expected noise_mode 'random', 'const' or 'none', got {noise_mode!r}")
        if x.dim() != 4 or x.shape[2:] != self.image.shape or self.strength.shape[0] not in (1, x.shape[1]):
            expected = f"{self.strength.shape[0]} (or any, for 1) channels of {tuple(self.image.shape)}"
            raise ValueError(f"expected {expected}, got shape {tuple(x.shape)}")
        if noise_mode == "none":
            return x
        noise = self.image.to(x.dtype)
        if noise_mode == "random":
            noise = torch.randn(
                x.shape[0], 1, *self.image.shape, generator=generator, dtype=x.dtype, device=x.device
            )  # (B, 1, H, W)
        return x + self.strength[:, None, None].to(x.dtype) * noise
