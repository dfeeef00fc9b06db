"""Cases of the conditional variational auto-encoder, and the linear model whose every quantity has a closed form."""

import torch
from torch import nn

from impl.models.cvae import Concatenated, ConditionalVAE
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import reseed


def linear_cvae(weight, by_condition, bias, variance, prior_weight, prior_bias, prior_variance, shift=0.0, widen=0.0):
    """p(z|x) = N(A x + a, P), p(y|x, z) = N(W z + V x + b, s² I), P diagonal, columns of W orthogonal; float64.

    q(z|x, y) is the exact posterior, of precision P⁻¹ + WᵀW/s², its mean moved by `shift` and its log-variance by
    `widen`.

    Args:
        weight, by_condition, bias, variance: W, V, b, s².
        prior_weight, prior_bias, prior_variance: A, a, diagonal of P.
    """
    data_dim, latent_dim = weight.shape
    width = by_condition.shape[1]
    spread = 1 / (1 / prior_variance + weight.square().sum(0) / variance)
    gain = spread[:, None] * weight.T / variance
    recall = (spread / prior_variance)[:, None] * prior_weight - gain @ by_condition
    constant = spread / prior_variance * prior_bias - gain @ bias + shift
    zeros = torch.zeros_like

    def affine(matrix, offset):
        layer = nn.Linear(*reversed(matrix.shape)).double()
        layer.load_state_dict({"weight": matrix, "bias": offset})
        return layer

    means = torch.cat([gain, recall], dim=1)
    encoder = affine(torch.cat([means, zeros(means)]), torch.cat([constant, spread.log() + widen]))
    outputs = torch.cat([weight, by_condition], dim=1)
    decoder = affine(torch.cat([outputs, zeros(outputs)]), torch.cat([bias, torch.full_like(bias, variance).log()]))
    prior = affine(torch.cat([prior_weight, zeros(prior_weight)]), torch.cat([prior_bias, prior_variance.log()]))
    assert encoder.in_features == data_dim + width and decoder.in_features == latent_dim + width
    return ConditionalVAE(Concatenated(encoder), Concatenated(decoder), latent_dim, "gaussian", prior)


class Bound(nn.Module):
    """A bound as a function of data and condition, one value a sample, for the laws of modules."""

    def __init__(self, cvae, name: str, **arguments):
        super().__init__()
        self.cvae = cvae
        self.name = name
        self.arguments = arguments

    def forward(self, data, condition):
        return getattr(self.cvae, self.name)(data, condition, samples=4, reduction="none", **self.arguments)


class Prediction(nn.Module):
    """The output at the prior's mean, which samples nothing."""

    def __init__(self, cvae):
        super().__init__()
        self.cvae = cvae

    def forward(self, condition):
        return self.cvae.predict(condition)


def perceptrons(prior: bool = True, seed: int = 0):
    """7 Bernoulli pixels, conditions of 4 elements, 3 latent dimensions."""
    reseed(seed)
    encoder = nn.Sequential(nn.Linear(11, 6), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 7))
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh()) if prior else None
    return ConditionalVAE(Concatenated(encoder), Concatenated(decoder), 3, prior=network)


def labelled_images():
    """Gaussian images (1, 2, 3) that know their class, of 5: one-hot codes are repeated at every pixel."""
    reseed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(9, 12), nn.Unflatten(1, (2, 2, 3)))
    return ConditionalVAE(Concatenated(encoder), Concatenated(decoder), 4, "gaussian", nn.Linear(5, 8))


def small():
    """4 Bernoulli pixels, conditions of 3 elements, 1 latent dimension; few weights, for what is differentiated."""
    reseed(0)
    encoder, decoder = nn.Linear(7, 2), nn.Sequential(nn.Tanh(), nn.Linear(4, 4))
    return ConditionalVAE(Concatenated(encoder), Concatenated(decoder), 1, prior=nn.Linear(3, 2))


class Table(nn.Module):
    """A network that takes integer labels by itself, from a table."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.table = nn.Parameter(torch.randn(4, outputs))

    def forward(self, first, label):
        return (self.linear(first) + self.table[label]).tanh()


def labels_by_number():
    """7 Bernoulli pixels, conditions that are integers, N(0, I) as prior."""
    reseed(0)
    return ConditionalVAE(Table(7, 6), Table(3, 7), 3)


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shades_and_conditions():
    return torch.rand(2, 7, generator=torch.Generator().manual_seed(0)), _random(2, 4, seed=1)


def images_and_classes():
    return _random(3, 1, 2, 3), torch.eye(5)[[2, 0, 4]]


def _model(encoder: int = 6, decoder: int = 7, prior: int = 6, likelihood: str = "bernoulli"):
    return ConditionalVAE(
        Concatenated(nn.Linear(11, encoder)), Concatenated(nn.Linear(7, decoder)), 3, likelihood, nn.Linear(4, prior)
    )


_BAD = {
    "a narrower encoder": Bad(
        call=lambda: _model(encoder=5)(*shades_and_conditions()), mentions=("encoder", "(2, 6)", "(2, 5)")
    ),
    "a wider encoder": Bad(
        call=lambda: _model(encoder=7)(*shades_and_conditions()), mentions=("encoder", "(2, 6)", "(2, 7)")
    ),
    "a narrower prior": Bad(call=lambda: _model(prior=5).sample(_random(2, 4)), mentions=("prior", "(2, 6)", "(2, 5)")),
    "a wider prior": Bad(call=lambda: _model(prior=7).sample(_random(2, 4)), mentions=("prior", "(2, 6)", "(2, 7)")),
    "a prior of one Gaussian for all": Bad(
        call=lambda: ConditionalVAE(Table(7, 6), Table(3, 7), 3, prior=nn.Flatten(0)).predict(_random(1, 6)),
        mentions=("(1, 6)", "(6,)"),
    ),
    "a decoder of another width": Bad(call=lambda: _model(decoder=1).elbo(*shades_and_conditions())),
    "a Gaussian decoder without variances": Bad(
        call=lambda: _model(likelihood="gaussian").elbo(*shades_and_conditions())
    ),
    "fewer conditions than data": Bad(
        call=lambda: labels_by_number().encode(torch.rand(2, 7), torch.tensor([1])), mentions=("2", "(1,)")
    ),
    "fewer conditions than latents": Bad(
        call=lambda: labels_by_number().decode(_random(2, 3), torch.tensor([1])), mentions=("2", "(1,)")
    ),
    "more conditions than data": Bad(
        call=lambda: labels_by_number().log_likelihood(torch.rand(1, 7), torch.tensor([1, 2]), _random(2, 3)),
        mentions=("1", "(2,)"),
    ),
}

_BAD_CONCATENATED = {
    "labels that are not one-hot": Bad(
        call=lambda: Concatenated(nn.Identity())(_random(2, 7), torch.tensor([1, 3])), mentions=("(2, K)", "(2,)")
    ),
    "a condition for a part of the batch": Bad(
        call=lambda: Concatenated(nn.Identity())(_random(3, 7), _random(2, 4)), mentions=("(3, K)", "(2, 4)")
    ),
    "a condition of another space": Bad(
        call=lambda: Concatenated(nn.Identity())(_random(3, 2, 2, 5), _random(3, 4, 5, 2)),
        mentions=("(3, K)", "(3, K, 2, 5)", "(3, 4, 5, 2)"),
    ),
    "an image for a vector": Bad(
        call=lambda: Concatenated(nn.Identity())(_random(3, 7), _random(3, 4, 5, 2)), mentions=("(3, 4, 5, 2)",)
    ),
}

_DRAWS = {
    "deterministic_in_eval": "the bound is an estimate by samples, in evaluation as well",
    "draws_nothing_in_eval": "the bound is an estimate by samples, in evaluation as well",
    "keeps_dtype": "the samples of two dtypes differ; spec/properties/test_cvae.py asks for the dtype alone",
    "from_scratch": "the class that is called is defined here; spec/properties/test_cvae.py asks it of the bounds",
}
_WITHOUT_ENCODER = {
    "every_parameter_receives_gradient": "the objective has no recognition network: the encoder gets none, by design"
}


def _bound(name, exempt=_DRAWS, **arguments):
    return Case(
        item="cvae",
        name=f"ConditionalVAE.{name}",
        build=lambda: Bound(small(), name, **arguments),
        inputs=lambda: (torch.rand(2, 4, generator=torch.Generator().manual_seed(0)), _random(2, 3, seed=1)),
        exempt=exempt,
    )


CASES = [
    Case(item="cvae", name="ConditionalVAE", build=perceptrons, inputs=shades_and_conditions, bad=_BAD),
    Case(item="cvae", name="ConditionalVAE, Gaussian images", build=labelled_images, inputs=images_and_classes),
    Case(
        item="cvae",
        name="ConditionalVAE, integer labels, no prior network",
        build=labels_by_number,
        inputs=lambda: (torch.rand(3, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 0])),
        exempt={
            "every_parameter_receives_gradient": "a table's row of a class that the batch lacks gets gradient zero"
        },
    ),
    _bound("hybrid", alpha=0.3),
    _bound("importance_bound"),
    _bound("monte_carlo_bound", _DRAWS | _WITHOUT_ENCODER),
    Case(
        item="cvae",
        name="ConditionalVAE.predict",
        build=lambda: Prediction(labelled_images()),
        inputs=lambda: images_and_classes()[1:],
        exempt=_WITHOUT_ENCODER | {"from_scratch": _DRAWS["from_scratch"]},
    ),
    Case(
        item="cvae",
        name="Concatenated",
        build=lambda: Concatenated(nn.Sequential(nn.Flatten(), nn.Linear(36, 2))),
        inputs=images_and_classes,
        bad=_BAD_CONCATENATED,
    ),
]


def _bound_contract(name, call=None, **ranges):
    """The arguments of a bound other than data and condition."""
    return Contract(
        item="cvae",
        name=f"ConditionalVAE.{name}",
        of=lambda **arguments: getattr(perceptrons(), name)(*shades_and_conditions(), **arguments),
        calls=(call or {},),
        ranges=ranges,
    )


def _prior_contract(name):
    """The number of samples of what needs a condition alone."""
    return Contract(
        item="cvae",
        name=f"ConditionalVAE.{name}",
        of=lambda **arguments: getattr(perceptrons(), name)(_random(2, 4), **arguments),
        ranges={"samples": "int >= 1 or None"},
    )


_SAMPLES, _REDUCTION = "int >= 1", "'mean', 'none'"

CONTRACTS = [
    Contract(
        item="cvae",
        name="ConditionalVAE",
        of=ConditionalVAE,
        calls=(
            {
                "encoder": Fresh(lambda: Concatenated(nn.Linear(11, 6))),
                "decoder": Fresh(lambda: Concatenated(nn.Linear(7, 7))),
                "latent_dim": 3,
                "prior": Fresh(lambda: nn.Linear(4, 6)),
            },
        ),
        ranges={"latent_dim": "int >= 1", "likelihood": "'bernoulli', 'gaussian'"},
        attributes={
            "encoder": "the network of q(z|x, y), as it was given; its state has that prefix",
            "decoder": "the network of p(y|x, z), likewise",
            "prior": "the network of p(z|x), likewise, or None",
            "latent_dim": "the size of z",
            "likelihood": "the distribution of the data, as it was given",
        },
    ),
    _bound_contract("elbo", beta="[0, inf]", samples=_SAMPLES, reduction=_REDUCTION),
    _bound_contract("importance_bound", {"samples": 2}, samples=_SAMPLES, reduction=_REDUCTION),
    _bound_contract("monte_carlo_bound", {"samples": 2}, samples=_SAMPLES, reduction=_REDUCTION),
    _bound_contract("hybrid", {"alpha": 0.5}, alpha="[0, 1]", samples=_SAMPLES, reduction=_REDUCTION),
    _prior_contract("sample"),
    _prior_contract("predict"),
    Contract(
        item="cvae",
        name="Concatenated",
        of=Concatenated,
        calls=({"network": Fresh(lambda: nn.Linear(11, 6))},),
        attributes={"network": "as it was given; its state has that prefix"},
    ),
]
