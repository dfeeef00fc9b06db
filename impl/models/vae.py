"""Variational auto-encoder: a latent-variable model trained by gradient through its own sampling.

Kingma & Welling 2013, arXiv:1312.6114; importance-weighted bound: Burda, Grosse & Salakhutdinov 2015, arXiv:1509.00519.

    q(z|x) = N(z; μ(x), σ²(x) I),  z = μ + σ ⊙ ε,  ε ~ N(0, I)                            (§2.4, §3)
    L(x) = E_q[log p(x|z)] − β D_KL(q(z|x) ‖ N(0, I)) <= log p(x) for β = 1               (eq. 3)
    D_KL = ½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)                                             (eq. 10, appendix B)
    L_k(x) = E[log 1/k Σ_i p(x, z_i) / q(z_i|x)]                                          (Burda et al., eq. 8)

Convention: networks give log σ² ("logvar"); log p(x|z) and D_KL are sums over dimensions, the batch is averaged; the
bounds are to be maximised; `forward` in eval mode decodes the posterior mean, while the bounds sample in every mode.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ..layers.checks import check_not_negative, check_sizes
from ..layers.numerics import softplus

Data = Float[Tensor, "batch features *space"]
Latent = Float[Tensor, "batch latent"]
Latents = Float[Tensor, "*batch latent"]
Gaussian = tuple[Latent, Latent]  # μ and log σ²


def gaussian_kl(
    mu: Latents,
    logvar: Latents,
    reduction: str = "none",
    prior: tuple[Float[Tensor, "*#batch latent"], Float[Tensor, "*#batch latent"]] | None = None,
) -> Float[Tensor, "..."]:
    """D_KL(N(μ, σ²) ‖ prior) of diagonal Gaussians.

    Args:
        mu, logvar: μ and log σ².
        reduction: "none" for one value per latent dimension, "sum" for their total, "batchmean" for total / batch size.
        prior: μ and log σ² of another Gaussian; None stands for N(0, I).

    Raises:
        ValueError: μ and log σ² of different shapes, or another reduction.

    Source: Kingma & Welling 2013, appendix B.
    """
    if mu.shape != logvar.shape:
        raise ValueError(f"expected mu and logvar of one shape, got {tuple(mu.shape)} and {tuple(logvar.shape)}")
    if reduction not in ("none", "sum", "batchmean"):
        raise ValueError(f"expected reduction 'none', 'sum' or 'batchmean', got {reduction!r}")
    if prior is not None:  # no divergence changes with the coordinates: take those in which the prior is N(0, I)
        prior_mu, prior_logvar = prior
        mu, logvar = (mu - prior_mu) * (-0.5 * prior_logvar).exp(), logvar - prior_logvar
    divergence = 0.5 * (mu.square() + (logvar.expm1() - logvar))  # expm1: σ² − 1 without cancellation near σ = 1
    if reduction == "none":
        return divergence
    return divergence.sum() if reduction == "sum" else divergence.sum() / divergence.shape[0]


def log_normal(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(x; μ, σ²), element by element."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mu).square() * (-logvar).exp())


def sample_gaussian(
    mu: Latents, logvar: Latents, samples: int, generator: Generator | None
) -> Float[Tensor, "samples *batch latent"]:
    """z = μ + σ ⊙ ε: samples of N(μ, σ²), with a gradient to μ and log σ².

    Source: Kingma & Welling 2013, §2.4.
    """
    check_sizes(samples=samples)
    noise = torch.randn(samples, *mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return mu + (0.5 * logvar).exp() * noise


def log_likelihood(
    decoder: Callable[[Tensor], Tensor], x: Data, z: Float[Tensor, "*samples batch latent"], likelihood: str
) -> Float[Tensor, "*samples batch"]:
    """log p(x|z) under the distribution that the decoder returns, summed over the dimensions of x.

    Args:
        decoder: (samples·B, latent) → outputs as `VAE` describes them.
        likelihood: "bernoulli" or "gaussian".

    Raises:
        ValueError: the decoder's outputs do not have the shape of x.

    Source: Kingma & Welling 2013, appendix C.
    """
    dim = z.dim() - 1  # the first dimension of the data
    output = decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
    parameters = (output,) if likelihood == "bernoulli" else output.chunk(2, dim=dim)
    if parameters[0].shape[dim:] != x.shape[1:]:
        found = tuple(parameters[0].shape[dim:])
        raise ValueError(f"expected the decoder to give the data's shape {tuple(x.shape[1:])}, got {found}")
    if likelihood == "bernoulli":
        # x log y + (1 − x) log(1 − y) at y = sigmoid(logit), without overflow
        log_p = x * output - softplus(output)
    else:
        log_p = log_normal(x, *parameters)
    return log_p.flatten(dim).sum(-1)


def reduce_bound(bound: Float[Tensor, " batch"], reduction: str) -> Float[Tensor, "..."]:
    """The mean over the batch for "mean", the bound of each sample for "none"."""
    if reduction not in ("none", "mean"):
        raise ValueError(f"expected reduction 'none' or 'mean', got {reduction!r}")
    return bound.mean() if reduction == "mean" else bound


def check_likelihood(likelihood: str) -> None:
    """One of the two distributions of the data."""
    if likelihood not in ("bernoulli", "gaussian"):
        raise ValueError(f"expected likelihood 'bernoulli' or 'gaussian', got {likelihood!r}")


class VAE(nn.Module):
    """An encoder, a decoder, and the bound that trains both.

    Args:
        encoder: (B, *data) → (B, 2·latent_dim): μ, then log σ², of q(z|x).
        decoder: (B, latent_dim) → for "bernoulli" the logits, of the shape of x; for "gaussian" twice as many entries
            in dimension 1: the mean, then log σ², of p(x|z).
        latent_dim: the size of z.
        likelihood: "bernoulli" for x in [0, 1], or "gaussian".

    Raises:
        ValueError: latent_dim below 1, another likelihood, or networks whose outputs have other shapes.

    Source: Kingma & Welling 2013, §3 and appendix C.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int, likelihood: str = "bernoulli"):
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        check_likelihood(likelihood)
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood

    def forward(self, x: Data, generator: Generator | None = None) -> tuple[Data, Latent, Latent]:
        """Reconstruction, μ and log σ²; from a sample of z in training, from the posterior mean z = μ in evaluation."""
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, generator) if self.training else mu
        return self.decode(z), mu, logvar

    def encode(self, x: Data) -> Gaussian:
        """μ and log σ² of q(z|x)."""
        output = self.encoder(x)
        if output.shape != (x.shape[0], 2 * self.latent_dim):
            raise ValueError(f"expected {(len(x), 2 * self.latent_dim)} from the encoder, got {tuple(output.shape)}")
        mu, logvar = output.chunk(2, dim=1)
        return mu, logvar

    @staticmethod
    def reparameterize(mu: Latents, logvar: Latents, generator: Generator | None = None) -> Latents:
        """z = μ + σ ⊙ ε: a sample of N(μ, σ²) with a gradient to μ and log σ²."""
        return sample_gaussian(mu, logvar, 1, generator)[0]

    def decode(self, z: Latent) -> Data:
        """The mean of p(x|z)."""
        output = self.decoder(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output.chunk(2, dim=1)[0]

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n features *space"]:
        """The means of p(x|z) for n samples of z from the prior N(0, I)."""
        check_sizes(n=n)
        like = next(self.parameters(), torch.empty(0))
        return self.decode(torch.randn(n, self.latent_dim, generator=generator, dtype=like.dtype, device=like.device))

    def log_likelihood(self, x: Data, z: Float[Tensor, "*samples batch latent"]) -> Float[Tensor, "*samples batch"]:
        """log p(x|z), summed over the dimensions of x, for one z a sample or several."""
        return log_likelihood(self.decoder, x, z, self.likelihood)

    def elbo(
        self, x: Data, beta: float = 1.0, samples: int = 1, reduction: str = "mean", generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Estimates L(x) with draws of z in the likelihood and the closed form of D_KL (eq. 7, 10).

        Args:
            beta: weight of D_KL (Higgins et al. 2017), at least 0.
            samples: samples of z for each x.
            reduction: "mean" over the batch, or "none": shape (B,).
        """
        check_not_negative(beta=beta)
        mu, logvar = self.encode(x)
        z = sample_gaussian(mu, logvar, samples, generator)
        return reduce_bound(self.log_likelihood(x, z).mean(0) - beta * gaussian_kl(mu, logvar).sum(-1), reduction)

    def importance_bound(
        self, x: Data, samples: int, reduction: str = "mean", generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Estimates L_k(x), k = samples: tighter than L(x), and log p(x) in the limit; arguments as in `elbo`."""
        mu, logvar = self.encode(x)
        z = sample_gaussian(mu, logvar, samples, generator)
        log_ratio = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)) - log_normal(z, mu, logvar)  # p(z) / q(z|x)
        log_weight = self.log_likelihood(x, z) + log_ratio.sum(-1)
        return reduce_bound(log_weight.logsumexp(0) - math.log(samples), reduction)
