"""A variational auto-encoder over the Gaussians of diffusers' AutoencoderKL and torch's cross entropy."""

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


def posterior(mu, logvar):
    """Each entry as an image of one channel and pixel: diffusers sums divergences and densities over the rest."""
    return DiagonalGaussianDistribution(torch.stack([mu.flatten(), logvar.flatten()], dim=1)[..., None, None])


def log_density(x, mu, logvar):
    return -posterior(mu, logvar).nll(x.reshape(-1, 1, 1, 1)).view(x.shape)


def gaussian_kl(mu, logvar, reduction="none", prior=None):
    prior = None if prior is None else posterior(*(t.expand_as(mu) for t in prior))
    divergence = posterior(mu, logvar).kl(prior).view(mu.shape)
    if reduction == "none":
        return divergence
    return divergence.sum() / (mu.shape[0] if reduction == "batchmean" else 1)


class VAE(nn.Module):
    def __init__(self, encoder, decoder, latent_dim, likelihood="bernoulli"):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood

    def forward(self, x, generator=None):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, generator) if self.training else posterior(mu, logvar).mode().view(mu.shape)
        return self.decode(z), mu, logvar

    def encode(self, x):
        return tuple(self.encoder(x).tensor_split(2, dim=1))

    @staticmethod
    def reparameterize(mu, logvar, generator=None):
        return posterior(mu, logvar).sample(generator).view(mu.shape)

    def decode(self, z):
        output = self.decoder(z)
        return torch.sigmoid(output) if self.likelihood == "bernoulli" else output[:, : output.shape[1] // 2]

    def sample(self, n, generator=None):
        zeros = next(self.parameters()).new_zeros(n, self.latent_dim)
        return self.decode(self.reparameterize(zeros, zeros, generator))

    def log_likelihood(self, x, z):
        if z.dim() == 3:
            return torch.stack([self.log_likelihood(x, draw) for draw in z])
        output = self.decoder(z)
        if self.likelihood == "bernoulli":
            return -binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)
        return log_density(x, *output.tensor_split(2, dim=1)).flatten(1).sum(1)

    def elbo(self, x, beta=1.0, samples=1, reduction="mean", generator=None):
        mu, logvar = self.encode(x)
        z = self.reparameterize(*(t.repeat(samples, 1, 1) for t in (mu, logvar)), generator)
        bound = self.log_likelihood(x, z).mean(0) - beta * gaussian_kl(mu, logvar).sum(1)
        return bound.mean() if reduction == "mean" else bound

    def importance_bound(self, x, samples, reduction="mean", generator=None):
        mu, logvar = (t.repeat(samples, 1, 1) for t in self.encode(x))
        z = self.reparameterize(mu, logvar, generator)
        log_ratio = log_density(z, 0 * mu, 0 * mu) - log_density(z, mu, logvar)
        weight = self.log_likelihood(x, z) + log_ratio.sum(2)
        top = weight.detach().amax(0)
        bound = top + (weight - top).exp().mean(0).log()
        return bound.mean() if reduction == "mean" else bound
