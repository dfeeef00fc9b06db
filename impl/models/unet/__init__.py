"""U-Net: a path that contracts an image to what it shows, one that expands it again, and at each size a bridge between.

Ronneberger, Fischer & Brox 2015, arXiv:1505.04597, §2 and figure 1. With c channels at first and `depth` halvings:

    contracting   two 3 × 3 convolutions with ReLU, then a 2 × 2 maximum; c, 2c, 4c, … channels
    expanding     a 2 × 2 up-convolution that halves the channels, after the features of the contracting path of that
                  size, cut to the middle; then two 3 × 3 convolutions with ReLU
    last          a 1 × 1 convolution to the scores of classes

Convolutions have no padding, so that each score rests on pixels of the image alone: 4(3·2^depth − 2) rows and columns
fewer come out, 388 of 572, and an image may be cut into overlapping tiles. The loss counts each pixel by its weight,

    E = −Σ w(x) log p_{l(x)}(x),   w(x) = w_c(x) + w₀ exp(−(d₁(x) + d₂(x))²/2σ²)                     eq. 1 and 2

where d₁ and d₂ are the distances to the nearest and the second nearest cell: what separates touching cells counts most.

Convention: distances are those to a cell's nearest pixel, the second term is 0 within cells and where there are fewer
than two; E is the mean over all pixels. Dropout is of the features where the contracting path ends.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...layers.checks import check_finite, check_not_negative, check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.dropout import Dropout
from ...layers.numerics import at_least_float32
from ...layers.pooling import MaxPool2d
from ...layers.transposed_convolution import ConvTranspose2d

__all__ = ["Convolutions", "UNet", "border_weights", "weighted_cross_entropy"]

_BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"  # |a|² + |b|² − 2ab has half the digits


class Convolutions(nn.Module):
    """Two 3 × 3 convolutions, each with a ReLU."""

    def __init__(self, before: int, after: int, padding: str):
        super().__init__()
        self.conv1, self.conv2 = Conv2d(before, after, 3, padding=padding), Conv2d(after, after, 3, padding=padding)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d p q"]:
        return self.conv2(self.conv1(x).relu()).relu()


class UNet(nn.Module):
    """Images to the scores of classes at each pixel, or with "valid" at those that are not too near to an edge.

    Args:
        in_channels: of the images.
        num_classes: scores of a pixel.
        base_channels: c, of the first convolutions; they double at each halving.
        depth: halvings.
        padding: of the 3 × 3 convolutions: "valid", none, as in the paper, or "same", zeros that keep the size.
        dropout: probability with which a feature at the end of the contracting path is dropped in training.

    Raises:
        ValueError: a size below 1, another padding, dropout outside [0, 1]; images of other channels, sides that are
            too small or that do not halve evenly.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, figure 1; initial weights N(0, 2/N) for N incoming values, §3.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        base_channels: int = 64,
        depth: int = 4,
        padding: str = "valid",
        dropout: float = 0.0,
    ):
        super().__init__()
        check_sizes(num_classes=num_classes, base_channels=base_channels, depth=depth)
        if padding not in ("valid", "same"):
            raise ValueError(f'expected padding "valid" or "same", got {padding!r}')
        self.padding, self.depth = padding, depth
        channels = [base_channels * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            Convolutions(before, after, padding) for before, after in zip([in_channels, *channels], channels)
        )
        self.pool, self.dropout = MaxPool2d(2), Dropout(dropout)
        self.up = nn.ModuleList(ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1])
        self.expanding = nn.ModuleList(Convolutions(2 * c, c, padding) for c in channels[:-1])
        self.head = Conv2d(base_channels, num_classes, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.data.zero_()
            else:  # an up-convolution's output sees one pixel of each channel
                incoming = parameter.shape[0] if name.startswith("up.") else parameter[0].numel()
                parameter.data.normal_(std=(2 / incoming) ** 0.5)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k rows columns"]:
        self._check(images)
        x, bridges = images, []
        for level, convolutions in enumerate(self.contracting):
            x = convolutions(self.pool(x) if level else x)  # (n, 2^level · c, …)
            bridges.append(x)
        x = self.dropout(x)
        for level in reversed(range(self.depth)):
            x = self.up[level](x)
            x = self.expanding[level](torch.cat([_middle(bridges[level], x.shape[2:]), x], dim=1))
        return self.head(x)

    def _check(self, images):
        """Every maximum has an even size, and something is left at the end."""
        check_space(images, 2, self.contracting[0].conv1.in_channels)
        step, cut = 2**self.depth, self.padding == "valid"
        halved, lost = (4 * (step - 1), 4 * (3 * step - 2)) if cut else (0, 0)
        for side in images.shape[2:]:
            if side <= lost or (side - halved) % step:
                raise ValueError(f"expected sides above {lost} that are {halved % step} modulo {step}, got {side}")


def _middle(x: Tensor, size) -> Tensor:
    """The middle rows and columns of x."""
    top, left = ((side - wanted) // 2 for side, wanted in zip(x.shape[2:], size))
    return x[:, :, top : top + size[0], left : left + size[1]]


def border_weights(
    cells: Int[Tensor, "*batch h w"], w0: float = 10.0, sigma: float = 5.0, class_weights: Tensor | None = None
) -> Float[Tensor, "*batch h w"]:
    """w of every pixel, which makes the narrow background between cells count most.

    Args:
        cells: 0 for background, and another number for each cell.
        w0: w₀, the most that the border between touching cells adds.
        sigma: σ, in pixels, how near cells have to be.
        class_weights: w_c of background and of cells, (2,); 1 for both if None.

    Raises:
        ValueError: negative w0, sigma of 0 or less, class_weights of another shape, cells of fewer dimensions than 2.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, eq. 2.
    """
    check_not_negative(w0=w0)
    check_finite(w0=w0)
    if cells.dim() < 2:
        raise ValueError(f"expected cells of shape (*batch, height, width), got {tuple(cells.shape)}")
    if not 0 < sigma < torch.inf:
        raise ValueError(f"expected a finite sigma > 0, got {sigma}")
    if class_weights is None:
        class_weights = torch.ones(2, device=cells.device)
    if class_weights.shape != (2,):
        raise ValueError(f"expected class_weights of shape (2,), got {tuple(class_weights.shape)}")
    border = torch.zeros(cells.shape, dtype=torch.float64, device=cells.device)
    for one, weights in zip(cells[None].flatten(0, -3), border[None].flatten(0, -3)):
        background, numbers = one == 0, [k for k in one.unique().tolist() if k != 0]
        if len(numbers) > 1:
            nearest = torch.stack([_distance(background, one == k) for k in numbers]).sort(0).values[:2]  # d₁ and d₂
            weights[background] = w0 * torch.exp(-nearest.sum(0).square() / (2 * sigma**2))
    return class_weights[(cells != 0).long()] + border.to(class_weights.dtype)


def _distance(pixels: Bool[Tensor, "h w"], cell: Bool[Tensor, "h w"]) -> Float[Tensor, " n"]:
    """From each of the pixels to the nearest of the cell."""
    to_each = torch.cdist(pixels.nonzero().double(), cell.nonzero().double(), compute_mode=_BY_DIFFERENCES)
    return to_each.amin(1)


def weighted_cross_entropy(
    scores: Float[Tensor, "n k h w"], classes: Int[Tensor, "n h w"], weights: Float[Tensor, "n h w"]
) -> Float[Tensor, ""]:
    """E: the mean over all pixels of −w(x) log p_{l(x)}(x), p the softmax of the scores.

    Args:
        classes: l, each pixel's true class.
        weights: w, of `border_weights`; with 1 everywhere this is the cross entropy.

    Raises:
        ValueError: shapes that do not fit together.

    Source: Ronneberger et al. 2015, arXiv:1505.04597, eq. 1.
    """
    expected = (scores.shape[0], *scores.shape[2:])
    if scores.dim() != 4 or classes.shape != expected or weights.shape != expected:
        found = [tuple(t.shape) for t in (scores, classes, weights)]
        raise ValueError(f"expected scores (n, k, h, w), classes and weights (n, h, w), got {found}")
    log_p = at_least_float32(scores).log_softmax(1).gather(1, classes[:, None])[:, 0]  # (n, h, w)
    return -(weights * log_p).mean().to(scores.dtype)
