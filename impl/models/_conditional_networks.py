"""The three distributions of a conditional variational auto-encoder, as networks give them.

Sohn, Lee & Yan 2015 (NeurIPS 28), §4; x is the condition, y the data:

    recognition q(z|x, y) = N(z; μ_q(x, y), σ_q²(x, y)),  prior p(z|x) = N(z; μ_p(x), σ_p²(x)),  generation p(y|x, z)
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .vae import log_likelihood


class _ConditionalNetworks(nn.Module):
    """Encoder, decoder and prior, each checked for the shape of what it gives; arguments as in `ConditionalVAE`."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        likelihood: str = "bernoulli",
        prior: nn.Module | None = None,
    ):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"expected latent_dim >= 1, got {latent_dim}")
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"expected likelihood 'bernoulli' or 'gaussian', got {likelihood!r}")
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior

    def encode(
        self, data: Float[Tensor, "batch features *space"], condition: Shaped[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """μ and log σ² of q(z|x, y)."""
        _same_batch(condition, len(data))
        return self._gaussian(self.encoder(data, condition), len(data), "encoder")

    def prior_parameters(
        self, condition: Shaped[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """μ and log σ² of p(z|x)."""
        if self.prior is not None:
            return self._gaussian(self.prior(condition), len(condition), "prior network")
        zeros = next(self.parameters(), torch.empty(0)).new_zeros(len(condition), self.latent_dim)
        return zeros, zeros

    def decode(
        self, z: Float[Tensor, "*samples batch latent"], condition: Shaped[Tensor, "batch ..."]
    ) -> Float[Tensor, "..."]:
        """The mean of p(y|x, z), for one z a condition or several."""
        output = self._decoder_given(condition, z)(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        return output.sigmoid() if self.likelihood == "bernoulli" else output.chunk(2, dim=z.dim() - 1)[0]

    def log_likelihood(
        self,
        data: Float[Tensor, "batch features *space"],
        condition: Shaped[Tensor, "batch ..."],
        z: Float[Tensor, "*samples batch latent"],
    ) -> Float[Tensor, "*samples batch"]:
        """log p(y|x, z), summed over the dimensions of the data, for one z a condition or several."""
        _same_batch(condition, len(data))
        return log_likelihood(self._decoder_given(condition, z), data, z, self.likelihood)

    def _decoder_given(self, condition, z) -> Callable[[Tensor], Tensor]:
        """The decoder as a function of z, flattened from (*samples, B, latent): each draw meets its own condition."""
        _same_batch(condition, z.shape[-2])
        repeated = condition.expand(*z.shape[:-2], *condition.shape).flatten(0, z.dim() - 2)
        return lambda flat: self.decoder(flat, repeated)

    def _gaussian(self, output, batch, name):
        if output.shape != (batch, 2 * self.latent_dim):
            raise ValueError(f"expected {(batch, 2 * self.latent_dim)} from the {name}, got {tuple(output.shape)}")
        mu, logvar = output.chunk(2, dim=1)
        return mu, logvar


def _same_batch(condition, batch):
    if condition.shape[:1] != (batch,):
        raise ValueError(f"expected a condition for each of {batch} samples, got shape {tuple(condition.shape)}")
