"""SAM at work.  Foret, Kleiner, Mobahi & Neyshabur 2020, arXiv:2010.01412."""

import pytest
import torch
from torch import nn

from impl.optim.sam import SAM
from spec.data import digits

pytestmark = pytest.mark.item("sam")


def train(images, labels, rho, steps):
    """A network of one hidden layer, SGD with momentum, batches of 64; with a radius of 0 the base optimizer alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=rho, lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images[rows]), labels[rows])
            loss.backward()
            return loss

        if rho:
            optimizer.step(closure)
        else:
            closure()
            optimizer.base_optimizer.step()
    return net


def sharpness(net, images, labels, iterations=20):
    """The largest eigenvalue of the loss's Hessian, by power iteration."""
    weights = list(net.parameters())
    loss = nn.functional.cross_entropy(net(images), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    direction = [torch.randn_like(w) for w in weights]
    for _ in range(iterations):
        length = torch.sqrt(sum(d.square().sum() for d in direction))
        direction = [d / length for d in direction]
        along = sum((g * d).sum() for g, d in zip(gradients, direction))
        bent = torch.autograd.grad(along, weights, retain_graph=True)
        largest = sum((b * d).sum() for b, d in zip(bent, direction)).item()
        direction = bent
    return largest


def test_it_finds_flatter_minima():
    """600 digits, 300 steps: the Hessian's largest eigenvalue with ρ = 0.2 is well below that of plain SGD.

    Measured, 4 seeds: 0.38 to 0.62 against 1.08 to 1.89, ratios 0.32 to 0.42; with the perturbation downhill 1.7 to
    4.8, ratios 0.9 to 4.4. The threshold is at 0.65.

    Source: Foret et al. 2020, §4.2, figure 3: the spectrum of the Hessian at the minima found.
    """
    images, labels, _, _ = digits()
    images, labels = images[:600], labels[:600]
    found = [sharpness(train(images, labels, rho, steps=300), images, labels) for rho in (0.2, 0.0)]
    ratio = found[0] / found[1]
    assert 0 < ratio < 0.65, f"expected a third or so of {found[1]:.2f}, found {found[0]:.2f}"


def test_it_resists_label_noise():
    """600 digits, 40 % of them with random labels, 600 steps: ρ = 0.5 keeps the test accuracy that SGD loses.

    Measured, 4 seeds: 0.83 to 0.87 against 0.65 to 0.70; with the perturbation downhill 0.33 to 0.49. The threshold
    is 8 points above SGD, where the smallest gain was 13.6.

    Source: Foret et al. 2020, §3.3, table 4: SAM is robust to label noise, with a larger ρ than on clean labels.
    """
    images, labels, test_images, test_labels = digits()
    images, labels = images[:600], labels[:600]
    generator = torch.Generator().manual_seed(99)
    wrong = torch.rand(600, generator=generator) < 0.4
    noisy = torch.where(wrong, torch.randint(10, (600,), generator=generator), labels)
    nets = [train(images, noisy, rho, steps=600) for rho in (0.5, 0.0)]
    with_sam, without = ((net(test_images).argmax(1) == test_labels).float().mean().item() for net in nets)
    assert with_sam > without + 0.08, f"expected 15 points above SGD's {without:.3f}, found {with_sam:.3f}"
