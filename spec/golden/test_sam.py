"""Frozen perturbations and states of SAM."""

import pytest
import torch
from torch import nn

from impl.optim.sam import SAM
from spec.golden import load

pytestmark = pytest.mark.item("sam")


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("adaptive", [False, True])
def test_perturbations_and_state_under_scripted_losses(steps, adaptive):
    """After 1 and 6 steps: weights, the last perturbed weights, and the momentum that the second gradients leave.

    The parameter is cut in two, so that a norm of its own for each tensor shows.

    Source: Foret et al. 2020, algorithm 1; adaptive: Kwon et al. 2021, arXiv:2102.11600, eq. 8.
    """
    golden = load("sam")
    coupling, parts = golden["coupling"], [nn.Parameter(t) for t in golden["start"].split([2, 3])]
    optimizer = SAM(
        [{"params": parts[:1]}, {"params": parts[1:]}], torch.optim.SGD, 0.4, adaptive, lr=0.03, momentum=0.8
    )
    for slopes in golden["slopes"][:steps]:
        points = []

        def closure(slopes=slopes, points=points):
            optimizer.zero_grad()
            w = torch.cat(parts)
            points.append(w.detach())
            loss = (w**4 / 4 + slopes * w).sum() + (coupling @ w) ** 2 / 2
            loss.backward()
            return loss

        optimizer.step(closure)
    kind = "adaptive" if adaptive else "plain"
    momentum = [optimizer.base_optimizer.state[p]["momentum_buffer"] for p in parts]
    golden.check(f"{kind}.theta_{steps}", torch.cat(parts))
    golden.check(f"{kind}.perturbed_{steps}", points[-1])
    golden.check(f"{kind}.momentum_buffer_{steps}", torch.cat(momentum))
