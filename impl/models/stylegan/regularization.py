"""Two regularisers of adversarial training: of the discriminator at real images, of the generator along its styles."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_fractions, check_not_negative, check_sizes


def r1_penalty(
    discriminator: Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c *space"],
    gamma: float = 10.0,
    interval: int = 1,
) -> Float[Tensor, ""]:
    """R₁ = γ/2 · E‖∇D(x)‖² over real images x, times the interval: a gradient reaches the discriminator alone.

    Args:
        discriminator: images → logits, one each.
        images: real ones; they are constants.
        gamma: γ, at least 0.
        interval: every how many steps the penalty is taken ("lazy regularisation"); it grows by as much.

    Raises:
        ValueError: gamma negative, interval below 1, or no images.

    Source: Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406, eq. 9; lazily: Karras et al. 2019, §3.1.
    """
    check_not_negative(gamma=gamma)
    check_sizes(interval=interval, images=images.shape[0])
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
        return interval * gamma / 2 * gradient.square().sum() / images.shape[0]


class PathLengthPenalty(nn.Module):
    """E(‖J_wᵀ y‖ − a)²: a step of fixed size in w changes the image by a fixed amount (eq. 4).

    J_wᵀ y = ∇_w (g(w) · y) for images y of noise ~ N(0, 1/(H·W)); where every layer has its own w, the norm is the root
    of the mean over layers of squared norms. a is a moving average of the norms, a constant to the gradient.

    Args:
        decay: of the moving average, in [0, 1): a ← decay · a + (1 − decay) · E‖J_wᵀ y‖, from 0.

    In training a call moves a first, then compares with it; in evaluation a is unchanged. One call of the generator
    samples the noise of all images, in their shape.

    Raises:
        ValueError: decay outside of [0, 1), no images.

    Source: Karras et al. 2019, eq. 4 and appendix B.
    """

    def __init__(self, decay: float = 0.99):
        super().__init__()
        check_fractions(decay=decay)
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        ws: Float[Tensor, "b layers d"],
        generator: Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The penalty, not yet weighted.

        Args:
            images: g(w), from these very ws.
            ws: the styles of every layer.
            generator: of y.
        """
        check_sizes(images=images.shape[0])
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        projection = (images * noise).sum() / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad(projection, ws, create_graph=True)
        lengths = gradient.square().sum(-1).mean(-1).sqrt()
        if self.training:
            self.mean.lerp_(lengths.detach().mean().to(self.mean.dtype), 1 - self.decay)
        return (lengths - self.mean.clone()).square().mean()
