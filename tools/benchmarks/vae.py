"""The divergence next to torch.distributions; a bound next to the same step by torch.nn.functional's losses."""

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from impl.models.vae import VAE, gaussian_kl
from tools.bench import Pair


def _codes():
    return torch.randn(8192, 64), torch.randn(8192, 64)


def _library_kl(mu, logvar):
    return kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu)))


def _networks(outputs: int):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
    return encoder, nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, outputs))


class Ours(nn.Module):
    """−L, as in training."""

    def __init__(self, likelihood: str):
        super().__init__()
        self.vae = VAE(*_networks(784 if likelihood == "bernoulli" else 1568), 20, likelihood)

    def forward(self, x):
        return -self.vae.elbo(x)


class Theirs(nn.Module):
    """The same by torch's losses, as its own example writes it."""

    def __init__(self, likelihood: str):
        super().__init__()
        self.likelihood = likelihood
        self.encoder, self.decoder = _networks(784 if likelihood == "bernoulli" else 1568)

    def forward(self, x):
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        output = self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
        if self.likelihood == "bernoulli":
            loss = nn.functional.binary_cross_entropy_with_logits(output, x, reduction="sum")
        else:
            mean, logvar_x = output.chunk(2, dim=1)
            loss = nn.functional.gaussian_nll_loss(mean, x, logvar_x.exp(), full=True, reduction="sum")
        return (loss - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)


def _images():
    return (torch.rand(256, 784),)


PAIRS = [
    Pair(item="vae", name="gaussian_kl", ours=lambda: gaussian_kl, theirs=lambda: _library_kl, inputs=_codes),
    Pair(
        item="vae",
        name="a step, Bernoulli pixels",
        ours=lambda: Ours("bernoulli"),
        theirs=lambda: Theirs("bernoulli"),
        inputs=_images,
    ),
    Pair(
        item="vae",
        name="a step, Gaussian pixels",
        ours=lambda: Ours("gaussian"),
        theirs=lambda: Theirs("gaussian"),
        inputs=_images,
    ),
]
