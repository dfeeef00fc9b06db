"""Lion at work: uniform steps and a decay that bounds the weights.  Chen et al. 2023, arXiv:2302.06675."""

import pytest
import torch
from torch import nn

from impl.optim.lion import Lion
from spec import data, laws

pytestmark = pytest.mark.item("lion")


def network():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(net, optimizer, steps):
    """`steps` mini-batches of 64 digits, drawn from the global generator."""
    images, labels, _, _ = data.digits()
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()


def accuracy(net):
    _, _, test_images, test_labels = data.digits()
    return (net(test_images).argmax(1) == test_labels).float().mean().item()


def vector(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def test_it_learns_under_a_strong_decay():
    """Digits at η = 1e-3 and λ = 1: the network learns.

    Measured: accuracy 0.86 to 0.89 after 150 steps (5 seeds); with λθ inside of the sign 0.09 to 0.15, as most
    gradients are smaller than λθ. The threshold is at 0.6.

    Source: Chen et al. 2023, section 5: λ 3 to 10 times that of AdamW keeps the strength η·λ of the decay.
    """
    laws.reseed(0)
    net = network()
    train(net, Lion(net.parameters(), lr=1e-3, weight_decay=1.0), 150)
    found = accuracy(net)
    assert found > 0.6, f"expected an accuracy above 0.6, found {found:.3f}"


def test_the_weights_end_in_the_box_of_the_decay():
    """Digits at λ = 10: every weight ends within 1/λ = 0.1, most near its faces, and the network classifies.

    Measured: the largest weight 0.1000, the mean size 0.081 to 0.084, accuracy 0.82 to 0.87 (5 seeds); AdamW's largest
    is 0.138 to 0.158 and its mean 0.043; with λθ inside of the sign they are 0.007 and 0.002, accuracy 0.11.

    Source: Chen, Liu, Liang & Liu 2023, arXiv:2310.05898: Lion solves the problem under ‖θ‖_∞ ≤ 1/λ.
    """
    laws.reseed(0)
    net = network()
    train(net, Lion(net.parameters(), lr=3e-3, weight_decay=10.0), 300)
    sizes = vector(net).abs()
    # What began outside is within (1 − ηλ)^300 = 1e-4 of its distance.
    assert sizes.max() < 0.1001, f"expected weights within 0.1, found {sizes.max():.4f}"
    assert sizes.mean() > 0.06, f"expected a mean size above 0.06, found {sizes.mean():.4f}"
    found = accuracy(net)
    assert found > 0.7, f"expected an accuracy above 0.7, found {found:.3f}"


def test_every_weight_goes_on_moving_by_the_learning_rate():
    """On the digits the root mean square of a step stays near η, while Adam's falls to about half.

    Measured in units of η after 150 steps: 0.93 to 0.94, the rest being weights that no gradient has reached; AdamW
    0.48 to 0.51 (3 seeds). The threshold is at 0.8.

    Source: Chen et al. 2023, section 3.2: the sign makes the update's norm larger than that of other optimizers, so
    that a smaller learning rate is due.
    """
    laws.reseed(0)
    net = network()
    optimizer = Lion(net.parameters(), lr=1e-3)
    train(net, optimizer, 149)
    before = vector(net)
    train(net, optimizer, 1)
    step = (vector(net) - before).square().mean().sqrt().item() / 1e-3
    assert 0.8 < step < 1.001, f"expected a step near one learning rate, found {step:.3f}"
