"""Wasserstein GAN with gradient penalty: a critic whose slope is held at one tells how far two distributions are apart.

Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville 2017, arXiv:1704.00028, algorithm 1; the distance: Arjovsky, Chintala &
Bottou 2017, arXiv:1701.07875. For data x, x̃ = G(z), z ~ N(0, I), and one ε ~ U[0, 1] for each sample:

    x̂ = ε x + (1 − ε) x̃
    L_D = E[D(x̃)] − E[D(x)] + λ E[(‖∇_x̂ D(x̂)‖₂ − 1)²]                                   eq. 3
    L_G = −E[D(G(z))]
    n_critic steps of D for each step of G                                                algorithm 1

Convention: the norm is over all dimensions of a sample; a slope below 1 is punished as one above ("two-sided", §4). The
critic must not couple samples: its gradient at x̂ is a sample's own (§4, "no critic batch normalization").
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ...layers.checks import check_finite, check_not_negative, check_sizes
from ...layers.numerics import at_least_float32

__all__ = ["WGANGP", "gradient_penalty"]

Data = Float[Tensor, "n ..."]
Scalar = Float[Tensor, ""]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Data, fake: Data, generator: Generator | None = None
) -> Scalar:
    """The mean of (‖∇_x̂ D(x̂)‖₂ − 1)² over points between real and fake samples, one for each pair.

    It has a gradient to what D depends on, and none to real and fake; under no_grad it has the same value.

    Args:
        critic: D, (n, …) → (n,) or (n, 1).
        real, fake: as many of one shape.
        generator: of ε.

    Raises:
        ValueError: shapes that differ, no samples, or a critic that gives another number of values.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, eq. 3 and §4.
    """
    if real.shape != fake.shape or not len(real):
        raise ValueError(f"expected samples of one shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
    epsilon = torch.rand(len(real), generator=generator, dtype=real.dtype).to(real.device)
    epsilon = epsilon.view(-1, *[1] * (real.dim() - 1))
    learns = torch.is_grad_enabled()
    with torch.enable_grad():
        between = (epsilon * real + (1 - epsilon) * fake).detach().requires_grad_()
        score = scores(critic, between).sum()  # samples do not meet in D: the gradient of the sum is each one's own
        (gradient,) = torch.autograd.grad(score, between, create_graph=learns)
    slope = torch.linalg.vector_norm(at_least_float32(gradient).flatten(1), dim=1)
    return (slope - 1).square().mean()


def scores(critic: Callable[[Tensor], Tensor], x: Data) -> Float[Tensor, " n"]:
    """D(x), one number a sample."""
    found = critic(x)
    if found.numel() != len(x) or found.shape[0] != len(x):
        raise ValueError(f"expected one number for each of {len(x)} samples from the critic, got {tuple(found.shape)}")
    return found.flatten()


class WGANGP(nn.Module):
    """A generator and a critic, their losses, and a step of training.

    Args:
        generator: G, (n, latent_dim) → (n, …).
        critic: D, (n, …) → (n,) or (n, 1), without anything that couples samples.
        latent_dim: width of z.
        penalty_weight: λ >= 0.

    Raises:
        ValueError: a latent_dim below 1, a negative or infinite weight; samples that `gradient_penalty` refuses.

    Source: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, latent_dim: int, penalty_weight: float = 10.0):
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        check_not_negative(penalty_weight=penalty_weight)
        check_finite(penalty_weight=penalty_weight)
        self.generator, self.critic = generator, critic
        self.latent_dim, self.penalty_weight = latent_dim, penalty_weight

    def sample(self, n: int, generator: Generator | None = None) -> Data:
        """G(z) for n samples of z ~ N(0, I)."""
        check_sizes(n=n)
        like = next(self.generator.parameters(), torch.empty(0))
        z = torch.randn(n, self.latent_dim, generator=generator, dtype=like.dtype).to(like.device)
        return self.generator(z)

    def forward(self, x: Data) -> Float[Tensor, " n"]:
        """D(x) of each sample."""
        return scores(self.critic, x)

    def critic_loss(self, real: Data, fake: Data, generator: Generator | None = None) -> Scalar:
        """L_D, to be minimised over D; no gradient goes to the fake samples' generator."""
        fake = fake.detach()
        distance = self(real).mean() - self(fake).mean()
        return self.penalty_weight * gradient_penalty(self.critic, real, fake, generator) - distance

    def generator_loss(self, fake: Data) -> Scalar:
        """L_G, to be minimised over G."""
        return -self(fake).mean()

    def train_step(
        self,
        batches: Sequence[Data],
        critic_optimizer: Optimizer,
        generator_optimizer: Optimizer,
        generator: Generator | None = None,
    ) -> tuple[float, float]:
        """A step of D for each of the batches, then one of G; the last L_D and L_G.

        Each step sets the gradients of the network that it trains, and touches those of the other nowhere.

        Args:
            batches: n_critic batches of data, 5 in the paper.

        Raises:
            ValueError: no batch.

        Source: Gulrajani et al. 2017, algorithm 1.
        """
        if not len(batches):
            raise ValueError("expected a batch for the critic, got none")
        for real in batches:
            with torch.no_grad():
                fake = self.sample(len(real), generator)
            of_critic = self.critic_loss(real, fake, generator)
            descend(of_critic, self.critic, critic_optimizer)
        of_generator = self.generator_loss(self.sample(len(real), generator))
        descend(of_generator, self.generator, generator_optimizer)
        return of_critic.item(), of_generator.item()


def descend(loss: Scalar, network: nn.Module, optimizer: Optimizer) -> None:
    """One step of the network's parameters along the loss's gradient to them alone."""
    learned = [p for p in network.parameters() if p.requires_grad]
    for parameter, gradient in zip(learned, torch.autograd.grad(loss, learned, allow_unused=True)):
        parameter.grad = gradient
    optimizer.step()
