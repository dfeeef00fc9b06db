"""Cases of the variational auto-encoder, and the linear model whose every quantity has a closed form."""

import torch
from torch import nn

from impl.models.vae import VAE, gaussian_kl
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import reseed


def linear_vae(weight, bias, variance, shift=0.0, widen=0.0):
    """p(x|z) = N(W z + b, s² I) with orthogonal columns of W; float64.

    q(z|x) is the exact posterior N(M⁻¹Wᵀ(x − b), s² M⁻¹), M = WᵀW + s² I (Tipping & Bishop 1999, §3.1), its mean moved
    by `shift` and its log-variance by `widen`.
    """
    data_dim, latent_dim = weight.shape
    m = (weight.T @ weight).diagonal() + variance
    encoder, decoder = nn.Linear(data_dim, 2 * latent_dim).double(), nn.Linear(latent_dim, 2 * data_dim).double()
    to_mean = weight.T / m[:, None]
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        encoder.bias.copy_(torch.cat([shift - to_mean @ bias, (variance / m).log() + widen]))
        decoder.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        decoder.bias.copy_(torch.cat([bias, torch.full_like(bias, variance).log()]))
    return VAE(encoder, decoder, latent_dim, likelihood="gaussian")


class Bound(nn.Module):
    """A bound of a VAE as a function of x, one value a sample, so that the laws of modules can be asked of it."""

    def __init__(self, vae, name: str):
        super().__init__()
        self.vae = vae
        self.name = name

    def forward(self, x):
        return getattr(self.vae, self.name)(x, samples=4, reduction="none")


def bernoulli_vae():
    reseed(0)
    encoder = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 6))
    return VAE(encoder, nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 7)), 3)


def gaussian_image_vae():
    """Images (2, 2, 3): the decoder gives (4, 2, 3), means and then log-variances."""
    reseed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh())
    return VAE(encoder, nn.Sequential(nn.Linear(3, 24), nn.Unflatten(1, (4, 2, 3))), 3, likelihood="gaussian")


def kl_to_prior(mu, logvar, prior_mu, prior_logvar):
    return gaussian_kl(mu, logvar, prior=(prior_mu, prior_logvar))


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _shades():
    return (torch.rand(2, 7, generator=torch.Generator().manual_seed(0)),)


_BAD = {
    "a narrower encoder": Bad(
        call=lambda: VAE(nn.Linear(4, 5), nn.Linear(3, 4), 3).encode(torch.rand(2, 4)), mentions=("(2, 6)", "(2, 5)")
    ),
    "a wider encoder": Bad(
        call=lambda: VAE(nn.Linear(4, 7), nn.Linear(3, 4), 3).encode(torch.rand(2, 4)), mentions=("(2, 6)", "(2, 7)")
    ),
    "a decoder of another width": Bad(call=lambda: VAE(nn.Linear(4, 6), nn.Linear(3, 1), 3).elbo(torch.rand(2, 4))),
    "a Gaussian decoder without variances": Bad(
        call=lambda: VAE(nn.Linear(4, 6), nn.Linear(3, 4), 3, "gaussian").elbo(torch.rand(2, 4))
    ),
}

_BAD_KL = {"shapes that differ": Bad(call=lambda: gaussian_kl(_random(2, 3), _random(2, 1)))}

_BOUND = {
    "deterministic_in_eval": "the bound is an estimate by samples, in evaluation as well",
    "draws_nothing_in_eval": "the bound is an estimate by samples, in evaluation as well",
    "keeps_dtype": "the samples of two dtypes differ; spec/properties/test_vae.py asks for the dtype alone",
    "works_under_autocast": "the samples of two dtypes differ",
    "from_scratch": "the class that is called is defined here; spec/properties/test_vae.py asks it of the bounds",
}

CASES = [
    Case(item="vae", name="VAE, Bernoulli", build=bernoulli_vae, inputs=_shades, bad=_BAD),
    Case(item="vae", name="VAE, Gaussian images", build=gaussian_image_vae, inputs=lambda: (_random(3, 2, 2, 3),)),
    Case(
        item="vae",
        name="VAE.elbo, Bernoulli",
        build=lambda: Bound(bernoulli_vae(), "elbo"),
        inputs=_shades,
        exempt=_BOUND,
    ),
    Case(
        item="vae",
        name="VAE.importance_bound, Gaussian images",
        build=lambda: Bound(gaussian_image_vae(), "importance_bound"),
        inputs=lambda: (_random(3, 2, 2, 3),),
        exempt=_BOUND,
    ),
    Case(
        item="vae",
        name="gaussian_kl",
        build=lambda: gaussian_kl,
        inputs=lambda: (_random(2, 3), _random(2, 3, seed=1)),
        bad=_BAD_KL,
        is_function=True,
    ),
    Case(
        item="vae",
        name="gaussian_kl, with a prior",
        build=lambda: kl_to_prior,
        inputs=lambda: tuple(_random(2, 3, seed=seed) for seed in range(4)),
        exempt={"from_scratch": "the function that is called is defined here; the record without a prior is checked"},
        is_function=True,
    ),
]


def _elbo(**arguments):
    return bernoulli_vae().elbo(*_shades(), **arguments)


def _importance_bound(**arguments):
    return bernoulli_vae().importance_bound(*_shades(), **arguments)


def _sample(**arguments):
    return bernoulli_vae().sample(**arguments)


CONTRACTS = [
    Contract(
        item="vae",
        name="VAE",
        of=VAE,
        calls=(
            {
                "encoder": Fresh(lambda: nn.Linear(7, 6)),
                "decoder": Fresh(lambda: nn.Linear(3, 7)),
                "latent_dim": 3,
            },
        ),
        ranges={"latent_dim": "int >= 1", "likelihood": "'bernoulli', 'gaussian'"},
        attributes={
            "encoder": "the network of q(z|x), as it was given; its state has that prefix",
            "decoder": "the network of p(x|z), likewise",
            "latent_dim": "the size of z",
            "likelihood": "the distribution of the data, as it was given",
        },
    ),
    Contract(
        item="vae",
        name="VAE.elbo",
        of=_elbo,
        ranges={"beta": "[0, inf]", "samples": "int >= 1", "reduction": "'mean', 'none'"},
    ),
    Contract(
        item="vae",
        name="VAE.importance_bound",
        of=_importance_bound,
        calls=({"samples": 2},),
        ranges={"samples": "int >= 1", "reduction": "'mean', 'none'"},
    ),
    Contract(item="vae", name="VAE.sample", of=_sample, calls=({"n": 2},), ranges={"n": "int >= 1"}),
    Contract(
        item="vae",
        name="gaussian_kl",
        of=gaussian_kl,
        calls=({"mu": _random(2, 3), "logvar": _random(2, 3, seed=1)},),
        ranges={"reduction": "'none', 'sum', 'batchmean'"},
    ),
]
