"""PixelCNN: the exact probability of an image, pixel after pixel and colour after colour, by masked convolutions.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759; gates, two stacks and conditions: van den Oord,
Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu 2016, arXiv:1606.05328.

    p(x) = Π_i p(x_i | x_<i), row by row; p(x_i | x_<i) = p(R | x_<i) p(G | R, x_<i) p(B | G, R, x_<i)  (2016a, eq. 1-2)
    mask: no tap below the centre or right of it; at it only colours before one's own (A) or up to it (B)  (2016a, §3.4)
    y = tanh(W_f * x + V_f c) ⊙ σ(W_g * x + V_g c), c a condition                                       (2016b, eq. 2-4)
    vertical stack: all rows above; horizontal stack: this row so far, and what the vertical one saw     (2016b, fig. 2)

Convention: channels are blocks of one colour after another, all of the first colour first; the order of colours is that
of the image's channels; the vertical stack has kernels of the rows that it may see in place of masks.
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Generator, Tensor, nn

from ...layers.checks import check_groups, check_sizes, check_space, per_dimension
from ...layers.convolution import Conv2d, convolve
from ...layers.numerics import at_least_float32
from ...layers.windows import pad

Maps = Float[Tensor, "b c h w"]
Made = Float[Tensor, "b o h w"]
Image = Num[Tensor, "b colours h w"]
Condition = Float[Tensor, "n features *space"]


class MaskedConv2d(nn.Module):
    """A convolution that sees nothing of what comes after a pixel: (B, C, H, W) → (B, O, H, W), padded with zeros.

    Args:
        in_channels, out_channels: C and O, both made of `num_groups` blocks.
        kernel_size: odd; one integer for both dimensions, or (height, width).
        mask_type: "A", for the first layer, hides the pixel itself and, at it, a block's own colour and those after it;
            "B" hides only the colours after a block's own.
        num_groups: how many colours there are: block g of the outputs sees blocks 0 … g − 1 (A) or 0 … g (B) at the
            centre, and all blocks at pixels before.
        bias: if True, one value is added for each output channel.

    Weight (O, C, height, width) and bias are initialised as torch.nn.Conv2d's; what the mask hides has gradient 0.

    Raises:
        ValueError: an argument out of range; channels that the blocks do not share evenly; an input of other dimensions
            or channels.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4, figure 2 and 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        mask_type: str = "B",
        num_groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        check_groups(num_groups, in_channels, out_channels)
        height, width = self.kernel_size = per_dimension("kernel_size", kernel_size, 2)
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size}")
        check_mask_type(mask_type)
        self.in_channels, self.out_channels, self.mask_type, self.num_groups = (
            in_channels,
            out_channels,
            mask_type,
            num_groups,
        )
        bound = (in_channels * height * width) ** -0.5  # 1/√fan-in
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, height, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        mask = torch.zeros_like(self.weight, requires_grad=False)
        mask[:, :, : height // 2] = 1
        mask[:, :, height // 2, : width // 2] = 1
        to = torch.arange(out_channels)[:, None] // (out_channels // num_groups)  # the colour of a channel
        of = torch.arange(in_channels) // (in_channels // num_groups)
        mask[:, :, height // 2, width // 2] = (of < to if mask_type == "A" else of <= to).to(mask.dtype)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Maps) -> Made:
        check_space(input, 2, self.in_channels)
        margins = [(side // 2, side // 2) for side in self.kernel_size]
        y = convolve(pad(input, margins), self.weight * self.mask, (1, 1), (1, 1), 1)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, mask_type={self.mask_type!r}, "
            f"num_groups={self.num_groups}, bias={self.bias is not None}"
        )


class GatedPixelCNNLayer(nn.Module):
    """One gated layer of both stacks: (v, h) → (v', h'), each (B, C, H, W) → (B, channels, H, W).

        v̂ = vertical(v) + V_v c                                 v' = gate(v̂)
        ĥ = horizontal(h) + to_horizontal(v̂) + V_h c            h' = output(gate(ĥ)) + h
        gate(a) = tanh(a_f) ⊙ σ(a_g), where each colour's block of a is a_f, then a_g

    Args:
        channels: of the outputs, `num_groups` blocks.
        kernel_size: odd, 3 or more: n. The vertical kernel has n columns and the rows that it may see, ⌊n/2⌋ above the
            pixel's own with "A" and its own as well with "B"; the horizontal one is a masked 1 × n.
        mask_type: "A" for the first layer, where v and h are both the image, and nothing is added to `output`; "B" for
            layers after it.
        in_channels: C, `channels` if None; they may differ with "A" alone.
        num_groups: how many colours there are.
        condition_features: the size F of a condition c, (B, F), or (B, F, H, W) of one for each pixel; None for none.

    What is in v at a pixel comes from rows above it, so that all colours may be mixed there: vertical and to_horizontal
    are plain convolutions; horizontal and output are masked.

    Raises:
        ValueError: an argument out of range; inputs of other shapes; a condition where none is expected, or none where
            one is.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2.1-2.3, figure 2.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        mask_type: str = "B",
        in_channels: int | None = None,
        num_groups: int = 1,
        condition_features: int | None = None,
    ):
        super().__init__()
        in_channels = channels if in_channels is None else in_channels
        check_groups(num_groups, in_channels, channels)
        check_mask_type(mask_type)
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size >= 3, got {kernel_size}")
        if mask_type == "B" and in_channels != channels:
            raise ValueError(f"expected in_channels = {channels} with mask_type 'B', got {in_channels}")
        if condition_features is not None:
            check_sizes(condition_features=condition_features)
        self.mask_type, self.num_groups, self.condition_features = mask_type, num_groups, condition_features
        side, above = kernel_size // 2, kernel_size // 2 + (mask_type == "B")
        # One row more than the image has where the kernel ends above the pixel: `forward` crops it.
        margins = ((kernel_size // 2, 0), (side, side))
        self.vertical = Conv2d(in_channels, 2 * channels, (above, kernel_size), padding=margins)
        self.to_horizontal = Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = MaskedConv2d(in_channels, 2 * channels, (1, kernel_size), mask_type, num_groups)
        self.output = MaskedConv2d(channels, channels, 1, "B", num_groups)
        if condition_features is not None:
            self.condition_vertical = Conv2d(condition_features, 2 * channels, 1, bias=False)
            self.condition_horizontal = Conv2d(condition_features, 2 * channels, 1, bias=False)

    def forward(self, v: Maps, h: Maps, condition: Condition | None = None) -> tuple[Made, Made]:
        if v.shape != h.shape:
            raise ValueError(f"expected v and h of one shape, got {tuple(v.shape)} and {tuple(h.shape)}")
        above = self.vertical(v)[:, :, : v.shape[2]]
        left = self.horizontal(h)
        if self.condition_features is not None:
            condition = _as_map(condition, h, self.condition_features)
            above, left = above + self.condition_vertical(condition), left + self.condition_horizontal(condition)
        elif condition is not None:
            raise ValueError(f"expected no condition without condition_features, got {tuple(condition.shape)}")
        left = self.output(self._gate(left + self.to_horizontal(above)))
        return self._gate(above), left + h if self.mask_type == "B" else left

    def _gate(self, a: Maps) -> Made:
        """tanh ⊙ σ of the two halves of each colour's block."""
        filtered, gate = a.unflatten(1, (self.num_groups, 2, -1)).unbind(2)
        return (filtered.tanh() * gate.sigmoid()).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"mask_type={self.mask_type!r}, num_groups={self.num_groups}"


class PixelCNN(nn.Module):
    """Gated PixelCNN: the distribution of images whose pixels have `num_levels` values, each colour of each in turn.

    Args:
        in_channels: colours of an image, in the order in which they are predicted: 3 for R, G, B.
        num_levels: values of a pixel's colour, 0 … num_levels − 1.
        channels: feature maps of a layer, a multiple of in_channels.
        num_layers: gated layers, the first with mask A.
        kernel_size, first_kernel_size: of the layers with mask B, and of the first.
        condition_features: the size of a condition, as for `GatedPixelCNNLayer`; None for none.

    The last horizontal map goes through ReLU, a masked 1×1, ReLU and a masked 1×1 convolution to the logits. Levels
    are scaled to [−1, 1] first.

    Raises:
        ValueError: an argument out of range, images of other channels, a condition as `GatedPixelCNNLayer`'s.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2 and figure 2; 256-way softmax: arXiv:1601.06759, §3.3.
    """

    def __init__(
        self,
        in_channels: int,
        num_levels: int = 256,
        channels: int = 120,
        num_layers: int = 15,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        condition_features: int | None = None,
    ):
        super().__init__()
        check_sizes(num_layers=num_layers)
        if num_levels < 2:
            raise ValueError(f"expected num_levels >= 2, got {num_levels}")
        self.in_channels, self.num_levels, self.condition_features = in_channels, num_levels, condition_features
        shared = {"num_groups": in_channels, "condition_features": condition_features}
        first = GatedPixelCNNLayer(channels, first_kernel_size, "A", in_channels, **shared)
        rest = (GatedPixelCNNLayer(channels, kernel_size, "B", **shared) for _ in range(num_layers - 1))
        self.layers = nn.ModuleList([first, *rest])
        self.hidden = MaskedConv2d(channels, channels, 1, "B", in_channels)
        self.logits = MaskedConv2d(channels, in_channels * num_levels, 1, "B", in_channels)

    def forward(self, x: Image, condition: Condition | None = None) -> Float[Tensor, "b levels colours h w"]:
        """Logits of p(x_i | x_<i) for each pixel and colour, the levels in dimension 1.

        Args:
            x: levels, of integer or floating dtype; it is the caller's to keep them in range.
        """
        check_space(x, 2, self.in_channels)
        x = x if x.is_floating_point() else x.to(self.logits.weight.dtype)
        v = h = 2 * x / (self.num_levels - 1) - 1
        for layer in self.layers:
            v, h = layer(v, h, condition)
        logits = self.logits(self.hidden(h.relu()).relu())
        return logits.unflatten(1, (self.in_channels, self.num_levels)).transpose(1, 2)

    def log_prob(self, x: Image, condition: Condition | None = None) -> Float[Tensor, " b"]:
        """log p(x) in nats, summed over pixels and colours; divided by their number times −ln 2 it is bits/dim.

        It has float32 at least, for a sum over thousands of pixels.

        Raises:
            ValueError: a level that is no integer in [0, num_levels).
        """
        levels = x.long()
        if (levels != x).any() or (levels < 0).any() or (levels >= self.num_levels).any():
            raise ValueError(f"expected integers in [0, {self.num_levels}), got {x.min()} to {x.max()}")
        each = at_least_float32(self(x, condition)).log_softmax(1).gather(1, levels[:, None])
        return each.flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        size: int | tuple[int, int],
        condition: Condition | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "n colours h w"]:
        """n images of height and width `size`, pixel by pixel and colour by colour, from what was sampled before.

        Args:
            condition: one for each image.
        """
        check_sizes(n=n)
        height, width = per_dimension("size", size, 2)
        x = torch.zeros(n, self.in_channels, height, width, dtype=torch.long, device=self.logits.weight.device)
        for row in range(height):
            seen = condition[:, :, : row + 1] if condition is not None and condition.dim() == 4 else condition
            for column in range(width):
                for colour in range(self.in_channels):
                    logits = self(x[:, :, : row + 1], seen)[:, :, colour, row, column]  # rows below have no part in it
                    probabilities = at_least_float32(logits).softmax(1)
                    x[:, colour, row, column] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        return x


def check_mask_type(mask_type: str) -> None:
    """One of the two masks."""
    if mask_type not in ("A", "B"):
        raise ValueError(f"expected mask_type 'A' or 'B', got {mask_type!r}")


def _as_map(condition: Condition | None, h: Maps, features: int) -> Float[Tensor, "b features h2 w2"]:
    """A condition (B, F) as (B, F, 1, 1), to be added everywhere; one of every pixel as it is."""
    if condition is None:
        raise ValueError(f"expected a condition of {features} features, got none")
    shape = (h.shape[0], features)
    if condition.shape not in (shape, (*shape, *h.shape[2:])):
        raise ValueError(
            f"expected a condition {shape}, with {tuple(h.shape[2:])} or not, got {tuple(condition.shape)}"
        )
    return condition[..., None, None] if condition.dim() == 2 else condition
