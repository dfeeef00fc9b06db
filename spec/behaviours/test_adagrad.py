"""AdaGrad at work: rare features and gradients of any size.  Duchi, Hazan & Singer 2011, JMLR 12."""

import pytest
import torch
from torch import nn

from impl.optim.adagrad import Adagrad
from spec import data, laws

pytestmark = pytest.mark.item("adagrad")

RATES = (0.1, 0.3, 1.0)


def online_loss(make, lr, rows, labels):
    """Mean log loss of logistic regressions in one pass, each row judged before it is learned: one number a task.

    Args:
        rows: (steps, tasks, features); the tasks share an optimizer that treats each coordinate by itself.
        labels: (steps, tasks), ±1.
    """
    weights = nn.Parameter(torch.zeros(rows.shape[1:]))
    optimizer, paid = make([weights], lr=lr), torch.zeros(rows.shape[1])
    for row, label in zip(rows, labels):
        margin = label * (row * weights.detach()).sum(-1)
        paid += torch.log1p(torch.exp(-margin))
        weights.grad = row * (-label * torch.sigmoid(-margin))[:, None]
        optimizer.step()
    return paid / len(rows)


def test_rare_features_are_learned_from_few_examples():
    """Online logistic regression, feature k present in one row of k: AdaGrad's loss is below that of SGD at any rate.

    The mean over 24 tasks of 1500 rows and 300 features, each method at its best of three rates.

    Measured: 0.010 to 0.014 below SGD (4 seeds); with one rate for all features, from the length of the whole
    gradients, 0.007 to 0.009 above it. The threshold is at 0.003 below.

    Source: Duchi, Hazan & Singer 2011, section 1.3: for features with heavy tails the regret is smaller than that of
    methods that know no geometry; section 6.1: sparse text.
    """
    generator = torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1.0, 301)
    rows = (torch.rand(1500, 24, 300, generator=generator) < frequency).float()
    truth = 4.0 * torch.randint(2, (24, 300), generator=generator) - 2
    labels = 2.0 * (torch.rand(1500, 24, generator=generator) < torch.sigmoid((rows * truth).sum(-1))) - 1
    ours, plain = (
        min(online_loss(make, lr, rows, labels).mean().item() for lr in RATES) for make in (Adagrad, torch.optim.SGD)
    )
    assert ours < plain - 0.003, f"expected a loss at least 0.003 below SGD's {plain:.4f}, found {ours:.4f}"


def test_the_unit_of_the_loss_does_not_matter():
    """Digits with the loss multiplied by 1/1000, 1 and 1000: the same accuracy, at one learning rate.

    Measured: 0.95 to 0.97 at all three (3 seeds); SGD at its best rate 0.11 to 0.15, 0.92 to 0.96 and 0.09 to 0.12.
    The threshold is at 0.9.

    Source: Duchi, Hazan & Singer 2011, section 1: the learning rate is found from the data, where gradient descent
    needs it set to the size of the gradients.
    """
    images, labels, test_images, test_labels = data.digits()
    for unit in (1e-3, 1e3):
        laws.reseed(0)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = Adagrad(net.parameters(), lr=0.03)
        for _ in range(200):
            rows = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            (unit * nn.functional.cross_entropy(net(images[rows]), labels[rows])).backward()
            optimizer.step()
        accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
        assert accuracy > 0.9, f"expected an accuracy above 0.9 with the loss times {unit:g}, found {accuracy:.3f}"
