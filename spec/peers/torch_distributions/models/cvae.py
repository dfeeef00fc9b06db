"""A conditional variational auto-encoder in which every distribution is one of torch.distributions, draw by draw."""

import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence


class Concatenated(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, first, condition):
        if condition.dim() < first.dim():
            ones = torch.ones(1, 1, *first.shape[2:], dtype=condition.dtype, device=condition.device)
            condition = condition.reshape(*condition.shape, *[1] * (first.dim() - 2)) * ones
        return self.network(torch.cat((first, condition), 1))


class ConditionalVAE(nn.Module):
    def __init__(self, encoder, decoder, latent_dim, likelihood="bernoulli", prior=None):
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.latent_dim, self.likelihood = latent_dim, likelihood

    def forward(self, data, condition, generator=None):
        posterior, prior = self.encode(data, condition), self.prior_parameters(condition)
        z = _draw(normal(posterior), generator) if self.training else posterior[0]
        return self.decode(z, condition), posterior, prior

    def encode(self, data, condition):
        return tuple(self.encoder(data, condition).tensor_split(2, 1))

    def prior_parameters(self, condition):
        if self.prior is not None:
            return tuple(self.prior(condition).tensor_split(2, 1))
        like = next(self.parameters())
        zeros = torch.zeros(condition.shape[0], self.latent_dim, dtype=like.dtype, device=like.device)
        return zeros, zeros.clone()

    def output(self, z, condition):
        """p(y|x, z) for one z a condition."""
        parameters = self.decoder(z, condition)
        if self.likelihood == "bernoulli":
            return Bernoulli(logits=parameters, validate_args=False)
        return normal(parameters.tensor_split(2, 1))

    def decode(self, z, condition):
        if z.dim() == 2:
            return self.output(z, condition).mean
        return torch.stack([self.decode(draw, condition) for draw in z])

    def log_likelihood(self, data, condition, z):
        if z.dim() == 2:
            return self.output(z, condition).log_prob(data).flatten(1).sum(1)
        return torch.stack([self.log_likelihood(data, condition, draw) for draw in z])

    def sample(self, condition, samples=None, generator=None):
        prior = normal(self.prior_parameters(condition))
        if samples is None:
            return self.decode(_draw(prior, generator), condition)
        return self.decode(_draw(prior, generator, samples), condition)

    def predict(self, condition, samples=None, generator=None):
        if samples is None:
            return self.decode(self.prior_parameters(condition)[0], condition)
        return self.sample(condition, samples, generator).mean(0)

    def elbo(self, data, condition, beta=1.0, samples=1, reduction="mean", generator=None):
        q, p = normal(self.encode(data, condition)), normal(self.prior_parameters(condition))
        log_p = self.log_likelihood(data, condition, _draw(q, generator, samples)).mean(0)
        return _reduced(log_p - beta * kl_divergence(q, p).sum(1), reduction)

    def gsnn(self, data, condition, samples=1, reduction="mean", generator=None):
        z = _draw(normal(self.prior_parameters(condition)), generator, samples)
        return _reduced(self.log_likelihood(data, condition, z).mean(0), reduction)

    def hybrid(self, data, condition, alpha, samples=1, reduction="mean", generator=None):
        parts = [
            self.elbo(data, condition, 1.0, samples, reduction, generator),
            self.gsnn(data, condition, samples, reduction, generator),
        ]
        return torch.lerp(parts[1], parts[0], float(alpha))

    def monte_carlo_bound(self, data, condition, samples, reduction="mean", generator=None):
        z = _draw(normal(self.prior_parameters(condition)), generator, samples)
        return _reduced(_log_mean(self.log_likelihood(data, condition, z)), reduction)

    def importance_bound(self, data, condition, samples, reduction="mean", generator=None):
        q, p = normal(self.encode(data, condition)), normal(self.prior_parameters(condition))
        z = _draw(q, generator, samples)
        weights = self.log_likelihood(data, condition, z) + p.log_prob(z).sum(2) - q.log_prob(z).sum(2)
        return _reduced(_log_mean(weights), reduction)


def normal(pair):
    return Normal(pair[0], torch.exp(pair[1] / 2), validate_args=False)


def _draw(q, generator, samples=None):
    shape = q.loc.shape if samples is None else (samples, *q.loc.shape)  # its `rsample` takes no generator
    return q.loc + q.loc.new_empty(shape).normal_(generator=generator) * q.scale


def _log_mean(x):
    top = x.detach().amax(0)
    return top + (x - top).exp().mean(0).log()


def _reduced(bound, reduction):
    return bound.mean(0) if reduction == "mean" else bound
