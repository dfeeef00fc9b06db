"""Frozen entropies, likelihoods, precisions and exact moments of Monte Carlo dropout."""

import pytest
import torch
from torch import nn

from impl.layers.dropout import Dropout
from impl.models.mc_dropout import (
    expected_entropy,
    log_likelihood,
    mc_predict,
    model_precision,
    mutual_information,
    predictive_entropy,
)
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("mc-dropout")


def test_entropies():
    """H of the mean, mean of H and their difference, for samples that agree, disagree, and are certain.

    Source: Gal, Islam & Ghahramani 2017, arXiv:1703.02910, §3; Houlsby et al. 2011, eq. 2.
    """
    golden = load("mc-dropout")
    p = golden["entropy.p"]
    golden.check("entropy.predictive", predictive_entropy(p))
    golden.check("entropy.expected", expected_entropy(p))
    golden.check("entropy.information", mutual_information(p))


@pytest.mark.parametrize("tau", [0.7, 12.0])
def test_likelihoods(tau):
    """log of the mixture's density at a near target, and at one where every density of the mixture underflows.

    Source: Gal & Ghahramani 2015, eq. 8.
    """
    golden = load("mc-dropout")
    found = log_likelihood(golden["likelihood.samples"], golden["likelihood.target"], tau)
    golden.check(f"likelihood.tau_{tau:g}", found)


def test_precisions():
    """τ = (1 − p) l² / (2Nλ) for three settings; p = 0.1, l = 0.01, N = 1000, λ = 1e-5 gives 0.0045.

    Source: Gal & Ghahramani 2015, eq. 7.
    """
    golden = load("mc-dropout")
    found = [model_precision(p, l, int(n), decay) for p, l, n, decay in golden["precision.settings"].tolist()]
    golden.check("precision.tau", torch.tensor(found, dtype=torch.float64))


def test_moments_over_all_masks():
    """Mean and variance of a network of 3 inputs and 4 hidden units, over all 128 masks, at p = 0.2 and 0.6.

    40 000 passes. Measured on 5 seeds: means within 2.9 standard errors of the exact ones, variances within 1.2 %; with
    p for 1 − p in the scale the means are 303 standard errors off, the variances sevenfold. Limits: 4.5, and 5 %.

    Source: Gal & Ghahramani 2015, eq. 6 and §4.
    """
    golden = load("mc-dropout")
    net = nn.Sequential(Dropout(0.2), nn.Linear(3, 4, bias=False), nn.ReLU(), Dropout(0.6), nn.Linear(4, 2, bias=False))
    net.double().load_state_dict({"1.weight": golden["masks.0.weight"], "4.weight": golden["masks.1.weight"]})
    torch.manual_seed(0)
    with torch.no_grad():
        found = mc_predict(net, golden["masks.x"], 40_000)
    variance = golden["masks.variance"]
    gap = ((found.mean - golden["masks.mean"]).abs() / (variance / 40_000).sqrt()).max().item()
    assert gap < 4.5, f"expected the mean within 4.5 standard errors, found {gap:.1f}"
    laws.assert_close(found.variance, variance, rtol=0.05, because="4 standard errors of a variance with heavy tails")
