"""Golden values of SAC's squashed density.  Haarnoja et al. 2018, arXiv:1801.01290."""

import pytest

from impl.models.sac import squashed_log_prob
from spec.golden import load

pytestmark = pytest.mark.item("sac")


def test_density_is_that_of_a_transformed_distribution():
    """ln π(tanh u) of six actions in two dimensions, |u| up to 3.

    Source: Haarnoja et al. 2018, eq. 21; values of torch.distributions and of mpmath.
    """
    golden = load("sac")
    golden.check("log_prob", squashed_log_prob(golden["u"], golden["mean"], golden["log_std"]))


def test_density_is_that_of_stable_baselines():
    """ln π(tanh u) of four actions with |u| up to 0.75, without the 10⁻⁶ that the library adds.

    Source: Haarnoja et al. 2018, eq. 21; values of stable-baselines3.
    """
    golden = load("sac")
    golden.check("small_log_prob", squashed_log_prob(golden["small"], golden["mean"][:4], golden["log_std"][:4]))
