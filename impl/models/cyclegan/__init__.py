"""CycleGAN: images of one domain become images of another, and come back, learned without a single pair.

Zhu, Park, Isola & Efros 2017, arXiv:1703.10593. For generators G: X → Y and F: Y → X, each with a discriminator of its
domain, and means over x and y:

    L_GAN  G minimises E[(D_Y(G(x)) − 1)²];  D_Y minimises ½ (E[(D_Y(y) − 1)²] + E[D_Y(G(x))²])          §4, eq. 1
    L_cyc  = E|F(G(x)) − x| + E|G(F(y)) − y|                                                              eq. 2
    L      = L_GAN of G and D_Y + L_GAN of F and D_X + λ L_cyc                                            eq. 3
    L_id   = E|G(y) − y| + E|F(x) − x|, added with weight λ times `identity_weight`                       §5.2

Least squares in place of eq. 1's logarithms: Mao et al. 2016, arXiv:1611.04076. Discriminators see a history of
generated images: Shrivastava et al. 2016, arXiv:1612.07828. They judge patches: Isola et al. 2016, arXiv:1611.07004.

Convention: E is a mean over all elements. The half in D's loss is the paper's "divide the objective by 2". Eq. 3 has no
L_id, so identity_weight is 0; for paintings and photographs it is 0.5.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ...layers.checks import check_finite, check_not_negative, check_sizes
from .networks import PatchGANDiscriminator, ResnetGenerator

__all__ = ["CycleGAN", "ImagePool", "PatchGANDiscriminator", "ResnetGenerator", "linear_decay"]

FromX = Float[Tensor, "n ..."]  # real images of X, and what is made of them
FromY = Float[Tensor, "m ..."]  # likewise of Y
Scalar = Float[Tensor, ""]


class ImagePool(nn.Module):
    """A history of generated images: half of those shown to a discriminator are older ones.

    While it is not full, images are kept and come back as they are. From then on each image, with probability ½, takes
    the place of a kept one, drawn uniformly, which comes back in its stead. The history is a part of the state.

    Args:
        pool_size: how many images are kept; with 0, images pass.

    Raises:
        ValueError: a negative pool_size.

    Source: Zhu et al. 2017, arXiv:1703.10593, §4: "the 50 previously created images"; exchanged as released.
    """

    def __init__(self, pool_size: int = 50):
        super().__init__()
        check_not_negative(pool_size=pool_size)
        self.pool_size, self.images = pool_size, []

    def forward(self, images: Float[Tensor, "n ..."], generator: Generator | None = None) -> Float[Tensor, "n ..."]:
        """As many images, without gradient, of which some are old; those that are new may be kept.

        Args:
            generator: of the choices.
        """
        if not self.pool_size:
            return images.detach()
        shown = []
        for image in images.detach():
            if len(self.images) < self.pool_size:
                self.images.append(image.clone())
            elif torch.rand((), generator=generator) < 0.5:
                which = torch.randint(self.pool_size, (), generator=generator)
                image, self.images[which] = self.images[which].to(image), image.clone()
            shown.append(image)
        return torch.stack(shown)

    def get_extra_state(self) -> Tensor:
        return torch.stack(self.images) if self.images else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.images = list(state.clone())


class CycleGAN(nn.Module):
    """Two generators and two discriminators, their losses, and a step of training.

    Args:
        to_x, to_y: F: Y → X and G: X → Y.
        discriminator_x, discriminator_y: D_X and D_Y, images to logits of any number and shape.
        cycle_weight: λ >= 0.
        identity_weight: of L_id, in units of λ, >= 0; above 0 each generator must take images of both domains.
        pool_size: of each discriminator's `ImagePool`.

    Raises:
        ValueError: a negative or infinite weight, a negative pool_size.

    Source: Zhu et al. 2017, arXiv:1703.10593, eq. 3.
    """

    def __init__(
        self,
        to_x: nn.Module,
        to_y: nn.Module,
        discriminator_x: nn.Module,
        discriminator_y: nn.Module,
        cycle_weight: float = 10.0,
        identity_weight: float = 0.0,
        pool_size: int = 50,
    ):
        super().__init__()
        check_not_negative(cycle_weight=cycle_weight, identity_weight=identity_weight)
        check_finite(cycle_weight=cycle_weight, identity_weight=identity_weight)
        self.to_x, self.to_y = to_x, to_y
        self.discriminator_x, self.discriminator_y = discriminator_x, discriminator_y
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight
        self.pool_x, self.pool_y = ImagePool(pool_size), ImagePool(pool_size)

    def forward(self, x: FromX, y: FromY) -> tuple[FromY, FromX]:
        """What the generators make: F(y), an image of X, and G(x), an image of Y."""
        return self.to_x(y), self.to_y(x)

    def adversarial_loss(self, fake_x: FromY, fake_y: FromX) -> Scalar:
        """E[(D_X(F(y)) − 1)²] + E[(D_Y(G(x)) − 1)²]: what the generators minimise of L_GAN."""
        judged = self.discriminator_x(fake_x), self.discriminator_y(fake_y)
        return sum((logits - 1).square().mean() for logits in judged)

    def cycle_loss(self, x: FromX, y: FromY, fake_x: FromY, fake_y: FromX) -> Scalar:
        """L_cyc: each image against the one that came back.  Source: Zhu et al. 2017, eq. 2."""
        return (self.to_x(fake_y) - x).abs().mean() + (self.to_y(fake_x) - y).abs().mean()

    def identity_loss(self, x: FromX, y: FromY) -> Scalar:
        """L_id: a generator leaves an image as it is that is in its range already.  Source: Zhu et al. 2017, §5.2."""
        return (self.to_y(y) - y).abs().mean() + (self.to_x(x) - x).abs().mean()

    def generator_loss(self, x: FromX, y: FromY, fake_x: FromY, fake_y: FromX) -> Scalar:
        """L as generators minimise it, of images and what `forward` made of them.  Source: Zhu et al. 2017, eq. 3."""
        loss = self.adversarial_loss(fake_x, fake_y) + self.cycle_weight * self.cycle_loss(x, y, fake_x, fake_y)
        if self.identity_weight:
            loss = loss + self.cycle_weight * self.identity_weight * self.identity_loss(x, y)
        return loss

    def discriminator_loss(self, x: FromX, y: FromY, fake_x: FromY, fake_y: FromX) -> Scalar:
        """½ (E[(D(real) − 1)²] + E[D(fake)²]), the sum of both; no gradient goes to the fake images' generators."""
        sides = (self.discriminator_x, x, fake_x), (self.discriminator_y, y, fake_y)
        return sum(((D(real) - 1).square().mean() + D(fake.detach()).square().mean()) / 2 for D, real, fake in sides)

    def train_step(
        self,
        x: FromX,
        y: FromY,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        generator: Generator | None = None,
    ) -> tuple[float, float]:
        """A step of both generators, then one of both discriminators on the pools' images; the two losses.

        The images are made once, before either step.

        Args:
            x, y: a batch of each domain, in no relation to each other.
            generator: of the pools' choices.

        Source: Zhu et al. 2017, arXiv:1703.10593, §4.
        """
        fake_x, fake_y = self(x, y)
        of_generators = self.generator_loss(x, y, fake_x, fake_y)
        descend(of_generators, generator_optimizer)
        shown = self.pool_x(fake_x, generator), self.pool_y(fake_y, generator)
        of_discriminators = self.discriminator_loss(x, y, *shown)
        descend(of_discriminators, discriminator_optimizer)
        return of_generators.item(), of_discriminators.item()


def descend(loss: Scalar, optimizer: Optimizer) -> None:
    """One step along the loss's gradient; what others left in the parameters' gradients is cleared before."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def linear_decay(epoch: float, constant: int = 100, decay: int = 100) -> float:
    """The factor of the learning rate after so many epochs: 1 for the constant ones, then along a line to 0.

    Args:
        epoch: how many are done; parts of one count.
        constant, decay: how many epochs each takes.

    Raises:
        ValueError: a negative or infinite epoch, a negative constant, a decay below 1.

    Convention: 0 after constant + decay epochs; the released code divides by decay + 1 and counts from 1.
    Source: Zhu et al. 2017, arXiv:1703.10593, §4: 0.0002 for 100 epochs, to zero over the next 100.
    """
    check_not_negative(epoch=epoch, constant=constant)
    check_finite(epoch=epoch)
    check_sizes(decay=decay)
    return 1 - min(max(epoch - constant, 0) / decay, 1)
