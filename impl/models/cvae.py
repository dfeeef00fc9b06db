"""Conditional variational auto-encoder: a latent-variable model of structured outputs, of all that fit a condition.

Sohn, Lee & Yan 2015, "Learning Structured Output Representation using Deep Conditional Generative Models" (NeurIPS 28).
In the paper's notation x is the condition and y the data:

    p(y|x) = ∫ p(z|x) p(y|x, z) dz,  q(z|x, y) ≈ p(z|x, y), both Gaussians in z                             (§4)
    L_CVAE = E_q[log p(y|x, z)] − D_KL(q(z|x, y) ‖ p(z|x)) <= log p(y|x)                                    (eq. 4, 5)
    log p(y|x) ≈ log 1/S Σ_s p(y|x, z_s), z_s ~ p(z|x), by Monte Carlo,                                     (§4.1)
               ≈ log 1/S Σ_s p(y|x, z_s) p(z_s|x) / q(z_s|x, y), z_s ~ q(z|x, y), by importance sampling    (§4.1)
    L_GSNN = E_p(z|x)[log p(y|x, z)],  L_hybrid = α L_CVAE + (1 − α) L_GSNN                                 (§4.2)

Convention: as in `VAE`: networks give log σ², sums over dimensions, means over the batch, all objectives are to be
maximised, `forward` in eval mode decodes the posterior mean. Without a prior network p(z|x) = N(0, I).
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from ..layers.checks import check_not_negative, check_sizes
from .vae import (
    VAE,
    Data,
    Gaussian,
    check_likelihood,
    gaussian_kl,
    log_likelihood,
    log_normal,
    reduce_bound,
    sample_gaussian,
)

Condition = Shaped[Tensor, "batch ..."]


class Concatenated(nn.Module):
    """Makes a network of two tensors from a network of one: f(a, x) = network([a; x]), joined in dimension 1.

    Args:
        network: (B, features + K, *space) → anything.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, first: Data, condition: Condition) -> Float[Tensor, "batch ..."]:
        """The network's output for data or latents, and a condition (B, K, *space), or (B, K) for all of the space.

        Raises:
            ValueError: a condition of another batch size or space; class labels that are not one-hot.
        """
        batch, space = len(first), tuple(first.shape[2:])
        if condition.dim() == 2:
            condition = condition[(..., *[None] * len(space))].expand(-1, -1, *space)
        if condition.dim() != first.dim() or (len(condition), *condition.shape[2:]) != (batch, *space):
            either = " or ".join(dict.fromkeys((f"({batch}, K)", f"({', '.join(map(str, (batch, 'K', *space)))})")))
            raise ValueError(f"expected a condition of shape {either}, got {tuple(condition.shape)}")
        return self.network(torch.cat([first, condition], dim=1))


class ConditionalVAE(nn.Module):
    """Recognition, generation and prior network, and the bounds that train them.

    Args:
        encoder: q(z|x, y), called with (data, condition) → (B, 2·latent_dim): μ, then log σ².
        decoder: p(y|x, z), called with (z, condition) → for "bernoulli" the logits, of the shape of the data; for
            "gaussian" twice as many entries in dimension 1: the mean, then log σ².
        latent_dim: the size of z.
        likelihood: "bernoulli" for data in [0, 1], or "gaussian".
        prior: p(z|x), called with (condition) → (B, 2·latent_dim), as the encoder; None stands for N(0, I).

    The condition is a tensor (B, ...) of any kind that the networks take; `Concatenated` makes encoder and decoder from
    plain networks.

    Raises:
        ValueError: latent_dim below 1, another likelihood, networks whose outputs have other shapes, or not as many
            conditions as data.

    Source: Sohn, Lee & Yan 2015, §4.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        likelihood: str = "bernoulli",
        prior: nn.Module | None = None,
    ):
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        check_likelihood(likelihood)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior

    def encode(self, data: Data, condition: Condition) -> Gaussian:
        """μ and log σ² of q(z|x, y)."""
        _check_batch(condition, data.shape[0])
        return _halves(self.encoder(data, condition), data.shape[0], self.latent_dim, "encoder")

    def prior_parameters(self, condition: Condition) -> Gaussian:
        """μ and log σ² of p(z|x)."""
        if self.prior is not None:
            return _halves(self.prior(condition), condition.shape[0], self.latent_dim, "prior network")
        zeros = next(self.parameters(), torch.empty(0)).new_zeros(condition.shape[0], self.latent_dim)
        return zeros, zeros

    def decode(self, z: Float[Tensor, "*samples batch latent"], condition: Condition) -> Float[Tensor, "..."]:
        """The mean of p(y|x, z), for one z a condition or several."""
        output = self.decoder(z.flatten(0, -2), _repeated(condition, z)).unflatten(0, z.shape[:-1])
        return output.sigmoid() if self.likelihood == "bernoulli" else output.chunk(2, dim=z.dim() - 1)[0]

    def log_likelihood(
        self, data: Data, condition: Condition, z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(y|x, z), summed over the dimensions of the data, for one z a condition or several."""
        _check_batch(condition, data.shape[0])
        conditions = _repeated(condition, z)
        return log_likelihood(lambda flat: self.decoder(flat, conditions), data, z, self.likelihood)

    def forward(
        self, data: Data, condition: Condition, generator: Generator | None = None
    ) -> tuple[Data, Gaussian, Gaussian]:
        """Reconstruction, q(z|x, y), p(z|x); from a sample of z in training, from the posterior mean in evaluation."""
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = VAE.reparameterize(*posterior, generator) if self.training else posterior[0]
        return self.decode(z, condition), posterior, prior

    def sample(
        self, condition: Condition, samples: int | None = None, generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        """The means of p(y|x, z) for samples of z from the prior: (B, *data), or (samples, B, *data) where given."""
        z = sample_gaussian(*self.prior_parameters(condition), 1 if samples is None else samples, generator)
        return self.decode(z[0] if samples is None else z, condition)

    def predict(self, condition: Condition, samples: int | None = None, generator: Generator | None = None) -> Data:
        """One output a condition: E[y|x, z*] at the prior's mean z* = E[z|x], or 1/S Σ_s E[y|x, z_s] ≈ E[y|x] (§4.1).

        Args:
            samples: S, samples of z from the prior; with None its mean alone.
        """
        prior = self.prior_parameters(condition)
        if samples is None:
            return self.decode(prior[0], condition)
        return self.decode(sample_gaussian(*prior, samples, generator), condition).mean(0)

    def elbo(
        self,
        data: Data,
        condition: Condition,
        beta: float = 1.0,
        samples: int = 1,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates L_CVAE with samples of z in the likelihood and the closed form of D_KL (eq. 5).

        Args:
            beta: weight of D_KL, at least 0.
            samples: samples of z for each pair of data and condition.
            reduction: "mean" over the batch, or "none": shape (B,).
        """
        check_not_negative(beta=beta)
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = sample_gaussian(*posterior, samples, generator)
        log_p = self.log_likelihood(data, condition, z).mean(0)
        return reduce_bound(log_p - beta * gaussian_kl(*posterior, prior=prior).sum(-1), reduction)

    def gsnn(
        self,
        data: Data,
        condition: Condition,
        samples: int = 1,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates L_GSNN, a Gaussian stochastic network without recognition (§4.2); arguments as in `elbo`."""
        z = sample_gaussian(*self.prior_parameters(condition), samples, generator)
        return reduce_bound(self.log_likelihood(data, condition, z).mean(0), reduction)

    def hybrid(
        self,
        data: Data,
        condition: Condition,
        alpha: float,
        samples: int = 1,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates L_hybrid = α L_CVAE + (1 − α) L_GSNN (§4.2); arguments as in `elbo`."""
        if not 0 <= alpha <= 1:
            raise ValueError(f"expected 0 <= alpha <= 1, got {alpha}")
        bound = self.elbo(data, condition, samples=samples, reduction=reduction, generator=generator)
        return alpha * bound + (1 - alpha) * self.gsnn(data, condition, samples, reduction, generator)

    def monte_carlo_bound(
        self,
        data: Data,
        condition: Condition,
        samples: int,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates log p(y|x) by samples of the prior (§4.1): a bound in the mean; arguments as in `elbo`."""
        z = sample_gaussian(*self.prior_parameters(condition), samples, generator)
        return reduce_bound(self.log_likelihood(data, condition, z).logsumexp(0) - math.log(samples), reduction)

    def importance_bound(
        self,
        data: Data,
        condition: Condition,
        samples: int,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates log p(y|x) by weighted samples of the posterior (§4.1): a bound in the mean, tighter with more."""
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = sample_gaussian(*posterior, samples, generator)
        log_ratio = log_normal(z, *prior) - log_normal(z, *posterior)  # p(z|x) / q(z|x, y)
        log_weight = self.log_likelihood(data, condition, z) + log_ratio.sum(-1)
        return reduce_bound(log_weight.logsumexp(0) - math.log(samples), reduction)


def _repeated(condition, z):
    """The conditions as rows for z flattened from (*samples, B, latent): each sample of z with its own condition."""
    _check_batch(condition, z.shape[-2])
    return condition.expand(*z.shape[:-2], *condition.shape).flatten(0, z.dim() - 2)


def _halves(output, batch, width, name):
    """μ and log σ² from a network's output."""
    if output.shape != (batch, 2 * width):
        raise ValueError(f"expected {(batch, 2 * width)} from the {name}, got {tuple(output.shape)}")
    mu, logvar = output.chunk(2, dim=1)
    return mu, logvar


def _check_batch(condition, batch):
    if condition.shape[:1] != (batch,):
        raise ValueError(f"expected a condition for each of {batch} samples, got shape {tuple(condition.shape)}")
