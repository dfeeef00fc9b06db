"""Monte Carlo dropout: a trained network's dropout, left on, samples an approximate posterior over its weights.

Gal & Ghahramani 2015, arXiv:1506.02142; the information of the last section: Houlsby et al. 2011, arXiv:1112.5745, and
Gal, Islam & Ghahramani 2017, arXiv:1703.02910.

    E[y] ≈ 1/T Σ ŷ_t(x)                                                                        (eq. 6)
    Var[y] ≈ τ⁻¹ I + 1/T Σ ŷ_t ŷ_tᵀ − E[y] E[y]ᵀ           here its diagonal                   (§4)
    τ = (1 − p) l² / (2 N λ)                                                                   (eq. 7)
    log p(y|x) ≈ logsumexp_t(−½ τ ‖y − ŷ_t‖²) − log T − D/2 log 2π + D/2 log τ                  (eq. 8)
    I[y, ω] = H[1/T Σ p_t] − 1/T Σ H[p_t]                                                      (BALD)

Convention: p is the probability to drop (the paper's p_i is that to keep), λ multiplies ‖W‖² next to the mean of
½‖y − ŷ‖² (torch's weight_decay is 2λ), logarithms are natural. Dropout alone is random: batch norms and all else
evaluate.
The T passes are one pass of T·B rows, every row with masks of its own. Gradients flow if the caller has them on.
"""

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers.checks import check_sizes
from ..layers.dropout import Dropout


class MCOutput(NamedTuple):
    """Predictive mean and variance (B, …), and the T passes that they are made of (T, B, …)."""

    mean: Float[Tensor, "batch ..."]
    variance: Float[Tensor, "batch ..."]
    samples: Float[Tensor, "samples batch ..."]


class MCDropout(nn.Module):
    """A network with dropout, and its predictive distribution. `forward` is the network's own.

    Args:
        model: takes a batch, gives a tensor of as many rows: values, or probabilities (not logits, which it would
            average) of classes.
        num_samples: T.
        tau: model precision τ, see `model_precision`; infinite if the output has no noise of its own.

    Raises:
        ValueError: T below 1, τ not above 0, a model without dropout or with another number of rows.

    Source: Gal & Ghahramani 2015, §4.
    """

    def __init__(self, model: nn.Module, num_samples: int = 50, tau: float = math.inf):
        super().__init__()
        _check(num_samples, tau)
        self.model = model
        self.num_samples = num_samples
        self.tau = tau

    def forward(self, x: Float[Tensor, "batch ..."]) -> Tensor:
        return self.model(x)

    def predict(self, x: Float[Tensor, "batch ..."]) -> MCOutput:
        return mc_predict(self.model, x, self.num_samples, self.tau)


def mc_predict(
    model: nn.Module, x: Float[Tensor, "batch ..."], num_samples: int = 50, tau: float = math.inf
) -> MCOutput:
    """Predictive moments of `model` at x. Arguments and errors: see `MCDropout`.

    Source: Gal & Ghahramani 2015, eq. 6 and §4.
    """
    _check(num_samples, tau)
    rows = x.expand(num_samples, *x.shape).flatten(0, 1)
    with enable_dropout(model):
        output = model(rows)
    if output.shape[0] != rows.shape[0]:
        raise ValueError(f"expected an output of {len(rows)} rows for as many inputs, got {len(output)}")
    samples = output.unflatten(0, (num_samples, x.shape[0]))
    mean = samples.mean(0)
    return MCOutput(mean, (samples - mean).square().mean(0) + 1 / tau, samples)


def _check(num_samples, tau):
    check_sizes(num_samples=num_samples)
    if not tau > 0:
        raise ValueError(f"expected tau > 0, got {tau}")


@contextmanager
def enable_dropout(model: nn.Module):
    """In the block dropout is random and everything else evaluates; after it every module has its own mode again.

    Dropout modules are ours and torch's, in all dimensions. torch's fused transformer layers would leave theirs out in
    evaluation, so they are off meanwhile. Dropout that is no module (a call of a function, an argument of attention or
    of an LSTM) stays off.

    Raises:
        ValueError: a model without dropout, whose variance would silently be zero.
    """
    dropouts = [module for module in model.modules() if _drops(module)]
    if not dropouts:
        raise ValueError(f"expected a model with dropout modules, got none in {type(model).__name__}")
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        for module in dropouts:
            module.train()
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


def _drops(module):
    # torch's have a common base, which is told by its name: its own module is not imported here.
    return isinstance(module, Dropout) or any(base.__name__ == "_DropoutNd" for base in type(module).__mro__)


def model_precision(p: float, length_scale: float, num_data: int, weight_decay: float) -> float:
    """τ = (1 − p) l² / (2 N λ), the precision of the observations that a dropout objective stands for.

    Args:
        p: probability to drop.
        length_scale: prior length-scale l: large for functions that vary slowly.
        num_data: N.
        weight_decay: λ.

    Raises:
        ValueError: p outside of [0, 1), another argument not above 0.

    Source: Gal & Ghahramani 2015, eq. 7.
    """
    if not 0 <= p < 1:
        raise ValueError(f"expected 0 <= p < 1, got {p}")
    for name, value in (("length_scale", length_scale), ("num_data", num_data), ("weight_decay", weight_decay)):
        if not value > 0:
            raise ValueError(f"expected {name} > 0, got {value}")
    return (1 - p) * length_scale**2 / (2 * num_data * weight_decay)


def log_likelihood(
    samples: Float[Tensor, "samples batch ..."], target: Float[Tensor, "batch ..."], tau: float
) -> Float[Tensor, " batch"]:
    """log p(y|x) of each target under the mixture of T Gaussians N(ŷ_t, τ⁻¹ I).

    Raises:
        ValueError: τ that is not positive and finite.

    Source: Gal & Ghahramani 2015, eq. 8.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"expected a finite tau > 0, got {tau}")
    errors = (target - samples).square().unsqueeze(-1).flatten(2).sum(-1)
    size = math.prod(target.shape[1:])  # D
    mixture = torch.logsumexp(-0.5 * tau * errors, dim=0) - math.log(samples.shape[0])
    return mixture - 0.5 * size * math.log(2 * math.pi / tau)


def predictive_entropy(
    probabilities: Float[Tensor, "samples *batch classes"],
) -> Float[Tensor, "*batch"]:
    """H[1/T Σ p_t]: all of the uncertainty about the class.

    Source: Gal, Islam & Ghahramani 2017, §3.
    """
    return torch.special.entr(probabilities.mean(0)).sum(-1)


def expected_entropy(probabilities: Float[Tensor, "samples *batch classes"]) -> Float[Tensor, "*batch"]:
    """1/T Σ H[p_t]: what would be left if the weights were known.

    Source: Gal, Islam & Ghahramani 2017, §3.
    """
    return torch.special.entr(probabilities).sum(-1).mean(0)


def mutual_information(probabilities: Float[Tensor, "samples *batch classes"]) -> Float[Tensor, "*batch"]:
    """H[1/T Σ p_t] − 1/T Σ H[p_t] >= 0: how far the samples disagree: what a label would tell about the weights (BALD).

    Source: Houlsby et al. 2011, eq. 2; Gal, Islam & Ghahramani 2017, §3.
    """
    return (predictive_entropy(probabilities) - expected_entropy(probabilities)).clamp(min=0)  # rounding may go below
