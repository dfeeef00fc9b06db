"""The network of DDPM: a U-Net of residual blocks that know the time, with attention at some sizes.

Ho, Jain & Abbeel 2020, arXiv:2006.11239, appendix B. At each size, from fine to coarse and back:

    residual block    x + conv(SiLU(GN(conv(SiLU(GN(x))) + W SiLU(e))))        e: what a perceptron makes of the time
    attention         x + W_O attention(GN(x)), over all pixels, where the size is in the list
    coarser           a convolution of stride 2;    finer   each pixel repeated 2 × 2, then a convolution

Every feature on the way down, those of the first convolution and of each resizing included, joins one block on the way
up, the last first.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ...layers.activation import SiLU
from ...layers.attention import MultiHeadAttention
from ...layers.checks import check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.normalization import GroupNorm

Images = Float[Tensor, "n c h w"]
_silu = SiLU()


def timestep_embedding(
    t: Shaped[Tensor, " n"], width: int, shift: float = 1.0, cosine_first: bool = False
) -> Float[Tensor, "n width"]:
    """[sin(t ω₀) … sin(t ω_{k−1}), cos(t ω₀) … cos(t ω_{k−1})] with k = width/2 and ω_i = 10000^(−i/(k − shift)).

    Args:
        shift: 1 as in DDPM's code, so that the slowest frequency is 1/10000; 0 as in Stable Diffusion's.
        cosine_first: if True, cosines come before sines, as in Stable Diffusion's.

    Raises:
        ValueError: an odd width, or one for which k − shift is not positive.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B: the sinusoidal position embedding of the Transformer.
    """
    half = width // 2
    if width % 2 or half <= shift:
        raise ValueError(f"expected an even width above {2 * shift:g}, got {width}")
    i = torch.arange(half, dtype=torch.float64, device=t.device)
    angles = t.double()[:, None] * torch.exp(-math.log(10000) * i / (half - shift))  # float32 has no digits at t = 1000
    parts = [angles.cos(), angles.sin()] if cosine_first else [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).to(torch.get_default_dtype())


class ResidualBlock(nn.Module):
    """Two convolutions, each after a group norm and SiLU; the time is added between them.

    Args:
        in_channels, out_channels: where they differ, a 1 × 1 convolution carries the input past the others.
        time_width: of the vector e; None for a block that no time is given to, as in an autoencoder.
        groups, eps: of the norms.
        dropout: probability with which a feature is dropped before the second convolution.

    Raises:
        ValueError: a size below 1, groups that do not divide, dropout outside [0, 1]; inputs of other shapes.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; the second convolution is 0 at first, as released.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_width: int | None,
        groups: int = 32,
        eps: float = 1e-6,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, in_channels, eps), Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = None if time_width is None else Linear(time_width, out_channels)
        self.norm2, self.conv2 = GroupNorm(groups, out_channels, eps), Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = Dropout(dropout)
        self.shortcut = None if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        _zero(self.conv2)

    def forward(self, x: Images, e: Float[Tensor, "n d"] | None = None) -> Float[Tensor, "n o h w"]:
        h = self.conv1(_silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(_silu(e))[:, :, None, None]
        h = self.conv2(self.dropout(_silu(self.norm2(h))))
        return h + (x if self.shortcut is None else self.shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention of one head among all pixels, after a group norm and with a residual branch.

    Args:
        channels: of the image.
        groups, eps: of the norm.

    Raises:
        ValueError: a size below 1, groups that do not divide; an image of other channels.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; the last map is 0 at first, as released.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-6):
        super().__init__()
        self.norm, self.attention = GroupNorm(groups, channels, eps), MultiHeadAttention(channels, 1)
        _zero(self.attention.out_proj)

    def forward(self, x: Images) -> Images:
        pixels = self.norm(x).flatten(2).mT  # (n, h · w, c)
        return x + self.attention(pixels).mT.unflatten(2, x.shape[2:])


class DDPMUNet(nn.Module):
    """Noisy images and their times to a prediction of the images' shape.

    Args:
        in_channels, out_channels: of images and prediction; as many as in_channels if None.
        base_channels: of the first convolution.
        channel_mults: channels of each size, from fine to coarse, as multiples of base_channels.
        num_res_blocks: residual blocks of each size on the way down; there is one more on the way up.
        attention_levels: the sizes that have attention after each residual block, 0 for the finest.
        num_classes: if given, a label may be passed for each image, whose embedding is added to e; label num_classes
            stands for none, which classifier-free guidance needs.
        dropout, groups, norm_eps: of the residual blocks.
        attention: makes what stands for `AttentionBlock`, from a number of channels; keyword arguments of the call go
            to it.
        embed_time: embeds t, with that width.
        downsample_padding: of the convolutions of stride 2, as in `Conv2d`; as released, right and bottom alone.

    Raises:
        ValueError: a size below 1, groups that do not divide the channels, no size, an attention level that is none,
            dropout outside [0, 1]; images of other channels or of sides that do not halve evenly, labels without
            num_classes or the other way round.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; classes: Nichol & Dhariwal 2021, arXiv:2102.09672, §2.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int | None = None,
        base_channels: int = 128,
        channel_mults: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        num_classes: int | None = None,
        dropout: float = 0.0,
        groups: int = 32,
        norm_eps: float = 1e-6,
        attention: Callable[[int], nn.Module] | None = None,
        embed_time: Callable[[Tensor, int], Tensor] = timestep_embedding,
        downsample_padding: int | Sequence = ((0, 1), (0, 1)),
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, num_res_blocks=num_res_blocks, sizes=len(channel_mults))
        check_sizes(num_classes=1 if num_classes is None else num_classes)
        if not set(attention_levels) <= set(range(len(channel_mults))):
            raise ValueError(f"expected attention at levels 0 to {len(channel_mults) - 1}, got {attention_levels}")
        widths, e_width = [base_channels * m for m in channel_mults], 4 * base_channels
        attention = attention or (lambda channels: AttentionBlock(channels, groups, norm_eps))

        def residual(before, after):
            return ResidualBlock(before, after, e_width, groups, norm_eps, dropout)

        def level(inputs, width, number, resize):
            blocks = [residual(before, width) for before in inputs]
            found = [attention(width) for _ in inputs] if number in attention_levels else []
            return _Level(blocks, found, resize)

        self.base_channels, self.embed_time = base_channels, embed_time
        self.time1, self.time2 = Linear(base_channels, e_width), Linear(e_width, e_width)
        self.classes = None if num_classes is None else Embedding(num_classes + 1, e_width)
        self.first = Conv2d(in_channels, base_channels, 3, padding=1)
        self.down, kept, width = nn.ModuleList(), [base_channels], base_channels
        for number, after in enumerate(widths):
            last = number == len(widths) - 1
            resize = None if last else Conv2d(after, after, 3, stride=2, padding=downsample_padding)
            self.down.append(level([width] + [after] * (num_res_blocks - 1), after, number, resize))
            width = after
            kept += [width] * (num_res_blocks + (not last))
        self.middle1, self.middle_attention, self.middle2 = (
            residual(width, width),
            attention(width),
            residual(width, width),
        )
        self.up = nn.ModuleList()
        for number, after in reversed(list(enumerate(widths))):
            inputs = []
            for _ in range(num_res_blocks + 1):
                inputs.append(width + kept.pop())
                width = after
            resize = Conv2d(after, after, 3, padding=1) if number else None
            self.up.append(level(inputs, after, number, resize))
        self.norm, self.last = (
            GroupNorm(groups, width, norm_eps),
            Conv2d(width, out_channels or in_channels, 3, padding=1),
        )
        _zero(self.last)

    def forward(
        self, x: Images, t: Shaped[Tensor, " n"], labels: Int[Tensor, " n"] | None = None, **attention
    ) -> Float[Tensor, "n o h w"]:
        """The prediction for images x at times t, of classes `labels` if the network has any."""
        self._check(x, labels)
        e = self.embed_time(t, self.base_channels).to(self.time1.weight.dtype)
        e = self.time2(_silu(self.time1(e)))
        if labels is not None:
            e = e + self.classes(labels)
        x = self.first(x)
        kept = [x]
        for level in self.down:
            for number in range(len(level.blocks)):
                x = level(number, x, e, **attention)
                kept.append(x)
            if level.resize is not None:
                x = level.resize(x)
                kept.append(x)
        x = self.middle1(x, e)
        x = self.middle2(self.middle_attention(x, **attention), e)
        for level in self.up:
            for number in range(len(level.blocks)):
                x = level(number, torch.cat([x, kept.pop()], dim=1), e, **attention)
            if level.resize is not None:
                x = level.resize(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.last(_silu(self.norm(x)))

    def _check(self, x, labels):
        check_space(x, 2, self.first.in_channels)
        step = 2 ** (len(self.down) - 1)
        if x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"expected sides that {step} divides, got {tuple(x.shape)}")
        if (labels is None) != (self.classes is None):
            wanted = "labels" if self.classes is not None else "no labels"
            raise ValueError(f"expected {wanted}, got {None if labels is None else tuple(labels.shape)}")


class _Level(nn.Module):
    """The blocks of one size, an attention after each or none, and what leads to the next size."""

    def __init__(self, blocks, attentions, resize):
        super().__init__()
        self.blocks, self.attentions, self.resize = nn.ModuleList(blocks), nn.ModuleList(attentions), resize

    def forward(self, number, x, e, **attention):
        x = self.blocks[number](x, e)
        return self.attentions[number](x, **attention) if len(self.attentions) else x


def _zero(layer: nn.Module) -> None:
    """A branch that adds nothing at first: a deep network begins as the identity."""
    for parameter in layer.parameters():
        parameter.data.zero_()
