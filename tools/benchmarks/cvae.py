"""Steps of the bounds next to the same steps by torch's own losses and distributions."""

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from impl.models.cvae import Concatenated, ConditionalVAE
from tools.bench import Pair


def _networks():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(794, 400), nn.ReLU(), nn.Linear(400, 40))
    decoder = nn.Sequential(nn.Linear(30, 400), nn.ReLU(), nn.Linear(400, 784))
    return encoder, decoder, nn.Linear(10, 40)


class Ours(nn.Module):
    """The objective to be minimised, as in training."""

    def __init__(self, alpha: float | None):
        super().__init__()
        encoder, decoder, prior = _networks()
        self.cvae = ConditionalVAE(Concatenated(encoder), Concatenated(decoder), 20, prior=prior)
        self.alpha = alpha

    def forward(self, data, condition):
        if self.alpha is None:
            return -self.cvae.elbo(data, condition)
        return -self.cvae.hybrid(data, condition, self.alpha)


class Theirs(nn.Module):
    """The same, as tutorials write it."""

    def __init__(self, alpha: float | None):
        super().__init__()
        self.encoder, self.decoder, self.prior = _networks()
        self.alpha = alpha

    def forward(self, data, condition):
        mu, logvar = self.encoder(torch.cat([data, condition], dim=1)).chunk(2, dim=1)
        prior_mu, prior_logvar = self.prior(condition).chunk(2, dim=1)
        q, p = Normal(mu, torch.exp(0.5 * logvar)), Normal(prior_mu, torch.exp(0.5 * prior_logvar))

        def reconstruction(z):
            logits = self.decoder(torch.cat([z, condition], dim=1))
            return nn.functional.binary_cross_entropy_with_logits(logits, data, reduction="sum") / len(data)

        loss = reconstruction(q.rsample()) + kl_divergence(q, p).sum() / len(data)
        return loss if self.alpha is None else self.alpha * loss + (1 - self.alpha) * reconstruction(p.rsample())


def _images():
    return torch.rand(256, 784), torch.eye(10)[torch.arange(256) % 10]


PAIRS = [
    Pair(
        item="cvae",
        name="a step of the bound",
        ours=lambda: Ours(None),
        theirs=lambda: Theirs(None),
        inputs=_images,
    ),
    Pair(
        item="cvae",
        name="a step of the hybrid objective",
        ours=lambda: Ours(0.5),
        theirs=lambda: Theirs(0.5),
        inputs=_images,
    ),
]
