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

from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from ._concatenated import Concatenated
from ._conditional_networks import _ConditionalNetworks
from .vae import VAE, gaussian_kl, log_normal

__all__ = ["Concatenated", "ConditionalVAE"]


class ConditionalVAE(_ConditionalNetworks):
    """Recognition, generation and prior network, and the bounds that train them.

    Args:
        encoder: q(z|x, y), called with (data, condition) → (B, 2·latent_dim): μ, then log σ².
        decoder: p(y|x, z), called with (z, condition) → for "bernoulli" the logits, of the shape of the data; for
            "gaussian" twice as many entries in dimension 1: the mean, then log σ².
        latent_dim: the size of z.
        likelihood: "bernoulli" for data in [0, 1], or "gaussian".
        prior: p(z|x), called with (condition) → (B, 2·latent_dim), as the encoder; N(0, I) if not given.

    The condition is a tensor (B, ...) of any kind that the networks read; `Concatenated` makes encoder and decoder of
    plain ones.

    Raises:
        ValueError: latent_dim below 1, another likelihood, networks whose outputs have other shapes, or not as many
            conditions as data.

    Source: Sohn, Lee & Yan 2015, §4.
    """

    def forward(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        generator: Generator | None = None,
    ) -> tuple[
        Float[Tensor, "batch features *space"],
        tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]],
        tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]],
    ]:
        """Reconstruction, q(z|x, y) and p(z|x); of a draw of z in training, of the posterior mean in evaluation."""
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = VAE.reparameterize(*posterior, generator) if self.training else posterior[0]
        return self.decode(z, condition), posterior, prior

    def sample(
        self,
        condition: Shaped[Tensor, "batch ..."],
        samples: int | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """The means of p(y|x, z) for draws of z from the prior: (B, *data), or (samples, B, *data) where given."""
        z = _draw(self.prior_parameters(condition), 1 if samples is None else samples, generator)
        return self.decode(z[0] if samples is None else z, condition)

    def predict(
        self,
        condition: Shaped[Tensor, "batch ..."],
        samples: int | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch features *space"]:
        """One output a condition: E[y|x, z*] at the prior's mean z* = E[z|x], or 1/S Σ_s E[y|x, z_s] ≈ E[y|x] (§4.1).

        Args:
            samples: S, draws of z from the prior; none, but its mean, if not given.
        """
        prior = self.prior_parameters(condition)
        if samples is None:
            return self.decode(prior[0], condition)
        return self.decode(_draw(prior, samples, generator), condition).mean(0)

    def elbo(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        beta: float = 1.0,
        samples: int = 1,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates L_CVAE with draws of z in the likelihood and the closed form of D_KL (eq. 5).

        Args:
            beta: weight of D_KL.
            samples: draws of z for each pair of data and condition.
            reduction: "mean" over the batch, or "none": shape (B,).
        """
        if beta < 0:
            raise ValueError(f"expected beta >= 0, got {beta}")
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        log_p = self.log_likelihood(data, condition, _draw(posterior, samples, generator)).mean(0)
        return _reduce(log_p - beta * gaussian_kl(*posterior, prior=prior).sum(-1), reduction)

    def gsnn(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        samples: int = 1,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates L_GSNN, a Gaussian stochastic network without recognition (§4.2); arguments as in `elbo`."""
        z = _draw(self.prior_parameters(condition), samples, generator)
        return _reduce(self.log_likelihood(data, condition, z).mean(0), reduction)

    def hybrid(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
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
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        samples: int,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates log p(y|x) by draws from the prior (§4.1): a bound in the mean; arguments as in `elbo`."""
        z = _draw(self.prior_parameters(condition), samples, generator)
        return _reduce(self.log_likelihood(data, condition, z).logsumexp(0) - math.log(samples), reduction)

    def importance_bound(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        samples: int,
        reduction: str = "mean",
        generator: Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """Estimates log p(y|x) by weighted draws from the posterior (§4.1): a bound in the mean, tighter with more."""
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = _draw(posterior, samples, generator)
        log_ratio = log_normal(z, *prior) - log_normal(z, *posterior)  # p(z|x) / q(z|x, y)
        log_weight = self.log_likelihood(data, condition, z) + log_ratio.sum(-1)
        return _reduce(log_weight.logsumexp(0) - math.log(samples), reduction)


def _draw(gaussian, samples, generator):
    """Draws of z, shape (samples, B, latent)."""
    if samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples}")
    mu, logvar = gaussian
    shape = (samples, *mu.shape)
    return VAE.reparameterize(mu.expand(shape), logvar.expand(shape), generator)


def _reduce(bound, reduction):
    if reduction not in ("none", "mean"):
        raise ValueError(f"expected reduction 'none' or 'mean', got {reduction!r}")
    return bound.mean() if reduction == "mean" else bound
