"""What normalizing flows on images share: dequantisation, logits of grey values, squeezing, and the units of a result.

Dinh, Sohl-Dickstein & Bengio 2016, arXiv:1605.08803; dequantisation: Theis, van den Oord & Bethge 2015,
arXiv:1511.01844.

    x = (grey + u) / levels,  u ~ U[0, 1)                                                 (Theis et al., §3.1)
    y = logit(α + (1 − α) x),  log|dy/dx| = log(1 − α) − log p − log(1 − p),  p = α + (1 − α) x        (§4.1)
    squeeze: (C, H, W) → (4C, H/2, W/2), a permutation, so log|det| = 0                           (§3.6, figure 3)
    bits per dimension = (−log p(x) + D log levels) / (D log 2) for the density of x in [0, 1)    (Theis et al., §3.1)

Convention: α + (1 − α) x, as the paper has it; a common variant is α + (1 − 2α) x. Channel
4c + 2i + j of a squeezed image is row i, column j of the 2×2 blocks of channel c, as torch.nn.PixelUnshuffle.
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from .checks import check_fractions, check_sizes, check_space
from .numerics import softplus


def dequantize(
    grey: Num[Tensor, "*shape"], levels: int = 256, generator: Generator | None = None
) -> Float[Tensor, "*shape"]:
    """x = (grey + u)/levels, u ~ U[0, 1): a density of x bounds the probability of the grey values from below.

    Args:
        grey: grey values 0, 1, …, levels − 1; of integers x has torch's default dtype.
        levels: how many there are.

    Returns:
        x, at least 0 and below 1 in every dtype, whatever rounding does.

    Raises:
        ValueError: fewer than 1 level.

    Source: Theis, van den Oord & Bethge 2015, §3.1.
    """
    check_sizes(levels=levels)
    dtype = grey.dtype if grey.is_floating_point() else torch.get_default_dtype()
    noise = torch.rand(grey.shape, generator=generator, dtype=dtype, device=grey.device)
    return ((grey + noise) / levels).clamp(max=1 - torch.finfo(dtype).eps / 2)  # (255 + u)/256 may round to 1


def to_logits(
    x: Float[Tensor, "batch features *space"], alpha: float = 0.05
) -> tuple[Float[Tensor, "batch features *space"], Float[Tensor, " batch"]]:
    """y = logit(α + (1 − α) x) of x in [0, 1), and Σ log|dy/dx| of each sample.

    Raises:
        ValueError: alpha outside of [0, 1).

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1.
    """
    check_fractions(alpha=alpha)
    p = alpha + (1 - alpha) * x
    y = p.log() - (-p).log1p()
    return y, _log_slope(y, alpha)


def from_logits(
    y: Float[Tensor, "batch features *space"], alpha: float = 0.05
) -> tuple[Float[Tensor, "batch features *space"], Float[Tensor, " batch"]]:
    """x = (sigmoid(y) − α)/(1 − α), the inverse of `to_logits`, and Σ log|dx/dy|; for low y, x is below 0.

    Raises:
        ValueError: alpha outside of [0, 1).
    """
    check_fractions(alpha=alpha)
    return (y.sigmoid() - alpha) / (1 - alpha), -_log_slope(y, alpha)


def _log_slope(y, alpha):
    """Σ log|dy/dx|: −log p − log(1 − p) = softplus(−y) + softplus(y), without rounding near p = 0 and 1."""
    return (softplus(y) + softplus(-y) + math.log1p(-alpha)).flatten(1).sum(1)


def squeeze(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c4 h2 w2"]:
    """(B, C, H, W) → (B, 4C, H/2, W/2): a block of 2×2 pixels becomes four channels of one.

    Raises:
        ValueError: not four dimensions, or an odd height or width.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.6, figure 3.
    """
    check_space(x, 2)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"expected an even height and width, got shape {tuple(x.shape)}")
    blocks = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, H/2, 2, W/2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unsqueeze(x: Float[Tensor, "b c4 h2 w2"]) -> Float[Tensor, "b c h w"]:
    """The inverse of `squeeze`: (B, 4C, H, W) → (B, C, 2H, 2W).

    Raises:
        ValueError: not four dimensions, or channels that are no multiple of 4.
    """
    check_space(x, 2)
    if x.shape[1] % 4 or not x.shape[1]:
        raise ValueError(f"expected a multiple of 4 channels, got shape {tuple(x.shape)}")
    blocks = x.unflatten(1, (-1, 2, 2))  # (B, C, 2, 2, H, W)
    return blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def log_standard_normal(z: Float[Tensor, "batch features *space"]) -> Float[Tensor, " batch"]:
    """log N(z; 0, I), one value a sample."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def bits_per_dim(log_prob: Float[Tensor, "*batch"], dims: int, levels: int = 256) -> Float[Tensor, "*batch"]:
    """(−log p + D log levels)/(D log 2): bits per dimension of grey values, of a density of x = (grey + u)/levels.

    Args:
        log_prob: log p(x) in nats, summed over the D = dims dimensions of a sample.
        levels: how many grey values there are.

    Raises:
        ValueError: dims or levels below 1.

    Source: Theis, van den Oord & Bethge 2015, §3.1.
    """
    check_sizes(dims=dims, levels=levels)
    return (math.log(levels) - log_prob / dims) / math.log(2)
