"""A variational auto-encoder in which every distribution is one of torch.distributions."""

import math

import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence


def gaussian_kl(mu, logvar, reduction="none", prior=None):
    prior_mu, prior_logvar = (torch.zeros_like(mu), torch.zeros_like(logvar)) if prior is None else prior
    divergence = kl_divergence(normal(mu, logvar), normal(prior_mu, prior_logvar))
    if reduction == "none":
        return divergence
    return divergence.sum() / (mu.shape[0] if reduction == "batchmean" else 1)


def normal(mu, logvar):
    return Normal(mu, torch.exp(logvar / 2), validate_args=False)


class VAE(nn.Module):
    def __init__(self, encoder, decoder, latent_dim, likelihood="bernoulli"):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood

    def forward(self, x, generator=None):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, generator) if self.training else mu
        return self.decode(z), mu, logvar

    def encode(self, x):
        return tuple(self.encoder(x).chunk(2, dim=1))

    @staticmethod
    def reparameterize(mu, logvar, generator=None):
        q = normal(mu, logvar)  # its `rsample` takes no generator
        noise = torch.empty_like(mu, memory_format=torch.contiguous_format).normal_(generator=generator)
        return q.loc + noise * q.scale

    def likelihood_of(self, z):
        """p(x|z), the decoder called on one draw of z."""
        output = self.decoder(z)
        if self.likelihood == "bernoulli":
            return Bernoulli(logits=output, validate_args=False)
        return normal(*output.chunk(2, dim=1))

    def decode(self, z):
        return self.likelihood_of(z).mean

    def sample(self, n, generator=None):
        like = next(self.parameters(), torch.empty(0))
        return self.decode(like.new_empty(n, self.latent_dim).normal_(generator=generator))

    def log_likelihood(self, x, z):
        if z.dim() == 2:
            return self.likelihood_of(z).log_prob(x).flatten(1).sum(1)
        return torch.stack([self.log_likelihood(x, draw) for draw in z])

    def elbo(self, x, beta=1.0, samples=1, reduction="mean", generator=None):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu.repeat(samples, 1, 1), logvar.repeat(samples, 1, 1), generator)
        bound = self.log_likelihood(x, z).mean(0) - beta * gaussian_kl(mu, logvar).sum(1)
        return bound.mean() if reduction == "mean" else bound

    def importance_bound(self, x, samples, reduction="mean", generator=None):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu.repeat(samples, 1, 1), logvar.repeat(samples, 1, 1), generator)
        log_ratio = normal(0 * mu, 0 * mu).log_prob(z) - normal(mu, logvar).log_prob(z)
        log_weight = self.log_likelihood(x, z) + log_ratio.sum(2)
        # log Σ w by another route: the mean of log w under the normalised weights, and their entropy.
        share = torch.softmax(log_weight, 0)
        bound = (share * (log_weight - torch.log_softmax(log_weight, 0))).sum(0) - math.log(samples)
        return bound.mean() if reduction == "mean" else bound
