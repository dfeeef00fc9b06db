"""Golden values of PPO's advantages.  Schulman et al. 2015, arXiv:1506.02438."""

import pytest

from impl.models.ppo import generalized_advantage_estimate
from spec.golden import load

pytestmark = pytest.mark.item("ppo")


def test_advantages_are_those_of_torchrl():
    """Seven steps of three environments with ends of both kinds, γ = 0.9 and λ = 0.8.

    Source: Schulman et al. 2015, eq. 16; values of torchrl.
    """
    golden = load("ppo")
    parts = [golden[name] for name in ("rewards", "values", "next_values", "terminated", "truncated")]
    golden.check("advantages", generalized_advantage_estimate(*parts, gamma=0.9, lam=0.8))


def test_advantages_are_those_of_stable_baselines():
    """The same where episodes terminate only and next values are those of the path, float32 in the library.

    Source: Schulman et al. 2015, eq. 16; values of stable-baselines3's rollout buffer.
    """
    golden = load("ppo")
    path, ends = golden["path"], golden["terminated"]
    found = generalized_advantage_estimate(golden["rewards"], path[:-1], path[1:], ends, ends & False, 0.9, 0.8)
    golden.check("untruncated", found.float())
