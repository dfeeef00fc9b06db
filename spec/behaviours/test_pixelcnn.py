"""PixelCNN.  van den Oord et al. 2016, arXiv:1601.06759; gated and conditional: arXiv:1606.05328."""

import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from impl.models.pixelcnn import MaskedConv2d, PixelCNN
from spec.data import digits

pytestmark = pytest.mark.item("pixelcnn")


def binary_digits():
    """Digits in black and white, (N, 1, 8, 8): train, labels, test, labels."""
    train, labels, test, test_labels = digits()
    black_and_white = [(x > 0.5).long().view(-1, 1, 8, 8) for x in (train, test)]
    return black_and_white[0], labels, black_and_white[1], test_labels


def classes(labels):
    return one_hot(labels, 10).float()


def train(net, x, condition=None, epochs=8, lr=3e-3, seed=0):
    """Maximum likelihood by Adam on batches of 64."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            loss = -net.log_prob(x[batch], None if condition is None else condition[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


@cache
def on_digits(conditional: bool, seed: int = 0):
    x, labels, _, _ = binary_digits()
    torch.manual_seed(seed)
    net = PixelCNN(1, 2, 16, 3, first_kernel_size=5, condition_features=10 if conditional else None)
    return train(net, x, classes(labels) if conditional else None, seed=seed)


@torch.no_grad()
def nats(net, x, condition=None):
    """−log p(x), the mean of the images."""
    return -net.log_prob(x, condition).mean().item()


def test_digits_are_likelier_than_as_independent_pixels():
    """8 epochs bring −log p of unseen black and white digits well below that of pixels by their own means.

    Measured on 3 seeds: 20.12 to 20.35 nats a digit against 24.33 of independent pixels; a horizontal stack that gets
    nothing from the vertical one 27.7.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §5.4 and table 4: binary digits.
    """
    x, _, test, _ = binary_digits()
    mean = x.float().mean(0).clamp(1e-3, 1 - 1e-3)
    independent = -(test * mean.log() + (1 - test) * (1 - mean).log()).sum((1, 2, 3)).mean().item()
    found = nats(on_digits(conditional=False), test)
    assert found < 21.2, f"expected −log p below 21.2 nats, found {found:.2f}"
    assert found < independent - 2.5, f"expected −log p well below {independent:.2f}, found {found:.2f}"


def test_the_class_of_a_digit_tells_some_of_its_pixels():
    """Given their classes digits cost 2 nats less, of the ln 10 = 2.3 that a class has; Bayes' rule then classifies.

    Measured on 3 seeds: 17.76 to 18.25 nats with the class against 20.12 to 20.35 without; argmax_k p(x|k) is right for
    0.76 to 0.80 of unseen digits, by chance 0.1.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2.3 and §3.2: class-conditional images.
    """
    _, _, test, labels = binary_digits()
    net = on_digits(conditional=True)
    with torch.no_grad():
        each = torch.stack([net.log_prob(test, classes(torch.full_like(labels, k))) for k in range(10)], dim=1)
    given_class = -each.gather(1, labels[:, None]).mean().item()
    marginal = -(each.logsumexp(1) - math.log(10)).mean().item()
    right = (each.argmax(1) == labels).float().mean().item()
    assert given_class < 19.0, f"expected −log p(x|k) below 19 nats, found {given_class:.2f}"
    assert given_class < marginal - 1.0, f"expected the class to save a nat of {marginal:.2f}, found {given_class:.2f}"
    assert right > 0.65, f"expected 0.65 of the digits classified, found {right:.2f}"


def test_samples_are_as_likely_as_digits():
    """−log p of a trained model's own samples is near that of unseen digits: it neither copies nor wanders off.

    200 samples. Measured on 3 seeds: samples 17.84 to 19.14 nats, digits 17.76 to 18.25, noise 90 to 98.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §3.2: samples of each class.
    """
    _, _, test, labels = binary_digits()
    net = on_digits(conditional=True)
    condition = classes(torch.arange(10).repeat(20))
    generator = torch.Generator().manual_seed(0)
    samples = net.sample(200, 8, condition, generator)
    own, real = nats(net, samples, condition), nats(net, test, classes(labels))
    noise = nats(net, torch.randint(2, samples.shape, generator=generator), condition)
    assert abs(own - real) < 2, f"expected samples of {real:.1f} nats within 2, found {own:.1f}"
    assert noise > 60, f"expected noise above 60 nats, found {noise:.1f}"


class Plain(nn.Module):
    """The stack of masks of the first PixelCNN."""

    def __init__(self):
        super().__init__()
        masks = [MaskedConv2d(16 if n else 1, 16, 3, "B" if n else "A") for n in range(3)]
        self.net = nn.Sequential(*(part for m in masks for part in (m, nn.ReLU())), MaskedConv2d(16, 2, 1))

    def forward(self, x):
        return self.net(2.0 * x - 1)[:, :, None]


@pytest.mark.parametrize("gated", [False, True])
def test_what_stands_in_the_blind_spot_is_learned_by_two_stacks_alone(gated):
    """A pixel that copies the one a row up and two columns on costs nothing with two stacks, ln 2 with one of masks.

    150 steps. Measured on 3 seeds: two stacks 1e-6 to 6e-6 nats a copied pixel, one stack of masks 0.693 to 0.694.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2.2, figure 1.
    """

    def copies(n):
        """Rows 0, 2 and 4 are random; the row below each shows it two columns to the left."""
        x = torch.randint(2, (n, 1, 6, 6), generator=generator)
        x[:, :, 1::2, :4] = x[:, :, 0::2, 2:]
        return x

    def cost(x):
        return cross_entropy(net(x), x, reduction="none")[:, 0, 1::2, :4].mean()

    torch.manual_seed(0)
    net = PixelCNN(1, 2, 16, 2, first_kernel_size=3) if gated else Plain()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        cost(copies(32)).backward()
        optimizer.step()
    with torch.no_grad():
        found = cost(copies(200)).item()
    if gated:
        assert found < 0.05, f"expected no cost of a copied pixel, found {found:.3f} nats"
    else:
        assert abs(found - math.log(2)) < 0.02, f"expected ln 2 for what cannot be seen, found {found:.3f} nats"


def test_it_is_a_prior_over_indices():
    """Maps of 4 × 4 indices of patches have fewer bits under the model than as independent positions or uniform.

    Patches of 2 × 2 pixels of digits by k-means with 16 centres. Measured on 3 seeds: 36.8 to 37.6 bits a map after 8
    epochs, 38.7 as independent positions, 64 as a uniform distribution.

    Source: van den Oord et al. 2017, arXiv:1711.00937, §3.3: an autoregressive prior of the indices, a PixelCNN.
    """

    def patches(images):
        return images.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 4)

    images, _, unseen, _ = digits()
    points = patches(images)
    centres = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:16]]
    for _ in range(10):
        nearest = torch.cdist(points, centres).argmin(1)
        empty = torch.bincount(nearest, minlength=16) == 0
        means = torch.stack([points[nearest == k].mean(0) for k in range(16)])
        centres = torch.where(empty[:, None], centres, means)
    x, test = (torch.cdist(patches(t), centres).argmin(1).view(-1, 1, 4, 4) for t in (images, unseen))
    share = (one_hot(x, 16).sum(0) + 1.0) / (len(x) + 16)
    independent = -share.log2().expand(len(test), 1, 4, 4, 16).gather(-1, test[..., None]).sum((1, 2, 3)).mean().item()
    torch.manual_seed(0)
    bits = nats(train(PixelCNN(1, 16, 32, 3, first_kernel_size=3), x), test) / math.log(2)
    assert bits < independent - 0.4, f"expected fewer bits than {independent:.1f}, found {bits:.1f}"
