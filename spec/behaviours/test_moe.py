"""Mixtures of experts at work: a router that would collapse is kept in balance, and experts specialise."""

import pytest
import torch
from torch import nn

from impl.layers.moe import MixtureOfExperts, load_balancing_loss
from spec.data import digits

pytestmark = pytest.mark.item("moe")


def trained_on_digits(coefficient, seed=0, steps=400):
    """Experts without a token in a hundred, the balance loss and the accuracy on unseen digits; 8 experts, k = 1."""
    train, labels, test, answers = digits(seed=seed)
    torch.manual_seed(seed)
    layer = MixtureOfExperts(64, 8, 16, top_k=1, normalize=False, gated=False)
    layer.gate.weight.data *= 5  # a router that is sure of itself from the start
    head = nn.Linear(64, 10)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(train), (64,), generator=generator)
        output, routing = layer(train[batch])
        loss = nn.functional.cross_entropy(head(train[batch] + output), labels[batch])
        optimizer.zero_grad()
        (loss + coefficient * load_balancing_loss(routing.logits, routing.indices)).backward()
        optimizer.step()
    with torch.no_grad():
        output, routing = layer(test)
        dead = (torch.bincount(routing.indices.flatten(), minlength=8) < 0.01 * len(test)).sum().item()
        balance = load_balancing_loss(routing.logits, routing.indices).item()
        return dead, balance, (head(test + output).argmax(-1) == answers).float().mean().item()


def test_the_balance_loss_prevents_collapse():
    """Without the loss a confident router keeps 1 or 2 of 8 experts; with a coefficient of 0.1 all 8 work.

    Source: Fedus et al. 2021, §2.2; Shazeer et al. 2017, §4: the imbalance reinforces itself.
    Measured: dead experts 6 to 7 without, 0 with the loss, its value 4.10 to 7.98 and 1.06 to 1.12, accuracy 0.94 to
    0.97 and 0.93 to 0.96; 4 seeds.
    """
    dead, balance, _ = trained_on_digits(0.0)
    assert dead >= 4 and balance > 3, f"expected a collapse without the loss, found {dead} dead experts, {balance:.2f}"
    dead, balance, accuracy = trained_on_digits(0.1)
    assert dead == 0 and balance < 1.5, f"expected all experts at work, found {dead} dead, a loss of {balance:.2f}"
    assert accuracy > 0.9, f"expected an accuracy above 0.9, found {accuracy:.3f}"


def error_on_eight_maps(experts, seed=0, steps=300):
    """Error over variance where each of 8 clusters of points has a linear function of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres, maps = torch.randn(8, 8, generator=generator), torch.randn(8, 8, 8, generator=generator) / 8**0.5

    def draw(count, generator):
        cluster = torch.randint(8, (count,), generator=generator)
        x = 2 * centres[cluster] + 0.5 * torch.randn(count, 8, generator=generator)
        return x, torch.einsum("nij,nj->ni", maps[cluster], x)

    torch.manual_seed(seed)
    layer = MixtureOfExperts(8, experts, 16, top_k=1, normalize=False, gated=False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = draw(128, generator)
        output, routing = layer(x)
        optimizer.zero_grad()
        loss = (output - y).square().mean() + 0.1 * load_balancing_loss(routing.logits, routing.indices)
        loss.backward()
        optimizer.step()
    x, y = draw(2000, torch.Generator().manual_seed(77))
    with torch.no_grad():
        return ((layer(x)[0] - y).square().mean() / y.var()).item()


def test_more_experts_fit_better_at_the_same_cost():
    """8 experts of which each token uses one fit 8 clusters far better than a single expert, which computes as much.

    Source: Shazeer et al. 2017, §1 and §5.1: capacity without a proportional increase in computation.
    Measured: relative errors of 0.013 to 0.035 with 8, 0.050 to 0.072 with one; ratios of 0.25 to 0.48; 4 seeds.
    """
    one, eight = error_on_eight_maps(1), error_on_eight_maps(8)
    assert eight < 0.65 * one, f"expected less than 0.65 of the error, found {eight:.4f} against {one:.4f}"
