"""A conditional variational auto-encoder in the coordinates in which every prior is N(0, I): u = (z − μ_p) / σ_p.

There it is a plain variational auto-encoder, whose decoder undoes the change of coordinates.
"""

import math

import torch
from torch import nn


class Concatenated(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, first, condition):
        wide = first.new_empty(len(first), first.shape[1] + condition.shape[1], *first.shape[2:])
        wide = wide.to(torch.promote_types(first.dtype, condition.dtype))
        space = [1] * (first.dim() - condition.dim())
        planes = condition.reshape(*condition.shape, *space).broadcast_to(len(first), -1, *first.shape[2:])
        index = torch.arange(first.shape[1], wide.shape[1], device=wide.device)
        wide = torch.index_copy(wide, 1, index, planes.to(wide.dtype))
        return self.network(torch.index_copy(wide, 1, index.new_tensor(range(first.shape[1])), first.to(wide.dtype)))


class ConditionalVAE(nn.Module):
    def __init__(self, encoder, decoder, latent_dim, likelihood="bernoulli", prior=None):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.latent_dim, self.likelihood = latent_dim, likelihood

    def forward(self, data, condition, generator=None):
        q, p = self.encode(data, condition), self.prior_parameters(condition)
        z = q[0]
        if self.training:
            z = z + torch.sqrt(q[1].exp()) * torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return self.decode(z, condition), q, p

    def encode(self, data, condition):
        output = self.encoder(data, condition)
        return output[:, : self.latent_dim], output[:, self.latent_dim :]

    def prior_parameters(self, condition):
        if self.prior is None:
            like = next(self.parameters())
            both = like.new_zeros(len(condition), 2 * self.latent_dim)
        else:
            both = self.prior(condition)
        return both[:, : self.latent_dim], both[:, self.latent_dim :]

    def raw(self, z, condition):
        return torch.stack([self.decoder(one, condition) for one in z])

    def decode(self, z, condition):
        if z.dim() == 2:
            return self.decode(z[None], condition)[0]
        output = self.raw(z, condition)
        if self.likelihood == "bernoulli":
            return 1 / (1 + (-output).exp())
        return output[:, :, : output.shape[2] // 2]

    def log_likelihood(self, data, condition, z):
        if z.dim() == 2:
            return self.log_likelihood(data, condition, z[None])[0]
        output = self.raw(z, condition)
        if self.likelihood == "bernoulli":
            log_p = -(data * torch.nn.functional.softplus(-output) + (1 - data) * torch.nn.functional.softplus(output))
        else:
            width = output.shape[2] // 2
            mean, logvar = output[:, :, :width], output[:, :, width:]
            standard = (data - mean) / (logvar / 2).exp()
            log_p = -(standard**2 + logvar + math.log(2 * math.pi)) / 2
        return log_p.flatten(2).sum(2)

    def white(self, data, condition, samples, generator, by_prior):
        """Draws of u, shape (samples, B, latent); log p(y|x, u); μ and log σ² of q(u|x, y), zeros if by the prior."""
        m, v = self.prior_parameters(condition)
        if by_prior:
            mu, logvar = torch.zeros_like(m), torch.zeros_like(v)
        else:
            mu, logvar = self.encode(data, condition)
            mu, logvar = (mu - m) / (v / 2).exp(), logvar - v
        noise = torch.randn((samples, *mu.shape), generator=generator, dtype=mu.dtype, device=mu.device)
        u = mu + (logvar / 2).exp() * noise
        z = m + (v / 2).exp() * u
        return u, (None if data is None else self.log_likelihood(data, condition, z)), (mu, logvar), z

    def sample(self, condition, samples=None, generator=None):
        z = self.white(None, condition, samples or 1, generator, True)[3]
        output = self.decode(z, condition)
        return output if samples else output[0]

    def predict(self, condition, samples=None, generator=None):
        if samples is None:
            return self.decode(self.prior_parameters(condition)[0], condition)
        return self.sample(condition, samples, generator).sum(0) / samples

    def elbo(self, data, condition, beta=1.0, samples=1, reduction="mean", generator=None):
        _, log_p, (mu, logvar), _ = self.white(data, condition, samples, generator, False)
        each = log_p.sum(0) / samples - beta * (mu**2 + logvar.exp() - logvar - 1).sum(1) / 2
        return each.sum() / len(each) if reduction == "mean" else each

    def gsnn(self, data, condition, samples=1, reduction="mean", generator=None):
        each = self.white(data, condition, samples, generator, True)[1].sum(0) / samples
        return each.sum() / len(each) if reduction == "mean" else each

    def hybrid(self, data, condition, alpha, samples=1, reduction="mean", generator=None):
        bound = self.elbo(data, condition, 1.0, samples, reduction, generator)
        gsnn = self.gsnn(data, condition, samples, reduction, generator)
        return gsnn + alpha * (bound - gsnn)

    def monte_carlo_bound(self, data, condition, samples, reduction="mean", generator=None):
        each = torch.logsumexp(self.white(data, condition, samples, generator, True)[1] - math.log(samples), 0)
        return each.sum() / len(each) if reduction == "mean" else each

    def importance_bound(self, data, condition, samples, reduction="mean", generator=None):
        u, log_p, (mu, logvar), _ = self.white(data, condition, samples, generator, False)
        # N(u; 0, I) / q(u|x, y): log 2π of both cancels.
        log_ratio = ((u - mu) ** 2 / logvar.exp() + logvar - u**2).sum(2) / 2
        each = torch.logsumexp(log_p + log_ratio - math.log(samples), 0)
        return each.sum() / len(each) if reduction == "mean" else each
