"""RMSprop at work: mini-batches, moving targets, deep networks.  Tieleman & Hinton 2012, lecture 6.5."""

import pytest
import torch
from torch import nn

from impl.optim.rmsprop import RMSprop
from spec import data, laws
from spec.optimizer_laws import drive

pytestmark = pytest.mark.item("rmsprop")


def test_gradients_that_cancel_over_mini_batches_leave_a_weight_where_it_is():
    """Nine mini-batches with gradient +0.1 and a tenth with −0.9, again and again: the weight stays about where it is.

    Measured: with α = 0.99 a round of ten moves it by 0.07 to 0.18 of one step η in the 90 rounds after the first ten;
    the sign alone (α = 0, rprop's rule) by 8 steps a round. The threshold is at half a step.

    Source: Tieleman & Hinton 2012, lecture 6.5, why rprop does not work with mini-batches: the lecture's own example.
    """
    theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RMSprop([theta], lr=0.01, alpha=0.99)
    points = []
    for _ in range(100):
        points.append(theta.item())
        drive(optimizer, [theta], [[torch.tensor([g], dtype=torch.float64)] for g in [0.1] * 9 + [-0.9]])
    worst = max(abs(b - a) for a, b in zip(points[10:], points[11:])) / 0.01
    assert worst < 0.5, f"expected at most half a step a round, found {worst:.3f}"


def test_a_moving_target_is_followed():
    """A noisy target jumps from 1 to −1 after 2000 steps; 1000 later RMSprop is there, and AdaGrad on its way.

    Measured: mean distance 0.02 to 0.05 for RMSprop, 1.31 to 1.32 for AdaGrad at the same rate (6 seeds). The
    threshold is at 0.2.

    Source: Tieleman & Hinton 2012, lecture 6.5: a moving average forgets; AdaGrad's sum (Duchi et al. 2011) does not.
    """
    laws.reseed(0)
    theta = nn.Parameter(torch.zeros(10))
    optimizer = RMSprop([theta], lr=0.01)
    for t in range(3000):
        theta.grad = theta.detach() - (1 if t < 2000 else -1) + 0.5 * torch.randn(10)
        optimizer.step()
    distance = (theta + 1).abs().mean().item()
    assert distance < 0.2, f"expected a distance below 0.2 from the new target, found {distance:.3f}"


def test_layers_with_vanishing_gradients_learn():
    """Four sigmoid layers on the digits: their gradients differ by orders of magnitude, and RMSprop trains them all.

    Measured: accuracy 0.60 to 0.86 after 250 steps (6 seeds); gradient descent is at chance, 0.12 at most, after 400 at
    every rate of 0.03, 0.1, 0.3, 1, 3 and 10, with momentum too (3 seeds). The threshold is at 0.35.

    Source: Tieleman & Hinton 2012, lecture 6.5: the magnitude of the gradient can be very different for different
    weights, which makes it hard to choose a single global learning rate.
    """
    images, labels, test_images, test_labels = data.digits()
    laws.reseed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.Sigmoid())]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = RMSprop(net.parameters(), lr=0.02, alpha=0.9)
    for _ in range(250):
        rows = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
    assert accuracy > 0.35, f"expected an accuracy above 0.35, found {accuracy:.3f}"
