"""What dilated and separable convolutions do on handwritten digits: see more, and cost less."""

import pytest
import torch
from torch import nn

from impl.layers.convolution import Conv2d, DepthwiseSeparableConv2d
from spec.data import digits


def trained(model, draw, rate, steps, seed):
    """A model after Adam on the cross entropy of batches that `draw(generator)` gives."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images, labels = draw(generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


# ---------------------------------------------------------------------------------------------- dilated


def with_every_ink_pixel_named(images, labels):
    """Digits (B, 1, 8, 8), and for each pixel of ink the digit it belongs to; −100, ignored, elsewhere."""
    images = images.reshape(-1, 1, 8, 8)
    return images, torch.where(images[:, 0] > 0.5, labels[:, None, None], -100)


def named_pixels(dilations, seed):
    """Share of the test digits' ink that a stack of 3×3 convolutions of given dilations gives to the right digit."""
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    layers, width = [], 1
    for step in dilations:
        layers += [Conv2d(width, 16, 3, padding=step, dilation=step), nn.ReLU()]
        width = 16
    model = nn.Sequential(*layers, Conv2d(16, 10, 1))

    def draw(generator):
        chosen = torch.randint(len(images), (32,), generator=generator)
        return with_every_ink_pixel_named(images[chosen], labels[chosen])

    trained(model, draw, 0.01, 150, seed)
    with torch.no_grad():
        x, wanted = with_every_ink_pixel_named(test_images, test_labels)
        found = model(x).argmax(1)
    return (found == wanted)[wanted >= 0].float().mean().item()


@pytest.mark.item("dilated-conv")
def test_dilation_lets_every_pixel_know_its_context():
    """Three layers of dilation 1, 2, 4 name the digit of an ink pixel; as many weights at dilation 1 see too little.

    Source: Yu & Koltun 2015, §2 and §5: aggregated context raises the accuracy of dense prediction at full resolution.
    Measured: 0.67 to 0.74 with, 0.31 to 0.49 without, over 5 seeds.
    """
    found = {dilations: named_pixels(dilations, seed=0) for dilations in ((1, 2, 4), (1, 1, 1))}
    wide, narrow = found.values()
    assert wide >= 0.58, f"expected 0.58 of the ink named right with dilation, found {wide:.3f}"
    assert narrow <= 0.53, f"expected at most 0.53 without dilation, found {narrow:.3f}"


# ---------------------------------------------------------------------------------------------- separable


def full(inputs, outputs, stride):
    convolution = Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def separable(inputs, outputs, stride):
    """MobileNet's block: normalization and ReLU after each half."""
    layer = DepthwiseSeparableConv2d(inputs, outputs, 3, stride=stride, padding=1)
    halves = (layer.depthwise, inputs), (layer.pointwise, outputs)
    return [module for half, width in halves for module in (half, nn.BatchNorm2d(width), nn.ReLU())]


def accuracy(block, seed):
    """Share of test digits that a network of three blocks names, and how many weights its last two blocks have."""
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(seed)
    body = [full(1, 16, 1), block(16, 32, 2), block(32, 32, 1)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    model = nn.Sequential(*(layer for part in body for layer in part), *pool)

    def draw(generator):
        chosen = torch.randint(len(images), (32,), generator=generator)
        return images[chosen].reshape(-1, 1, 8, 8), labels[chosen]

    trained(model, draw, 0.01, 120, seed)
    with torch.no_grad():
        right = (model(test_images.reshape(-1, 1, 8, 8)).argmax(1) == test_labels).float().mean().item()
    return right, sum(p.numel() for part in body[1:] for layer in part for p in layer.parameters())


@pytest.mark.item("depthwise-separable-conv")
def test_separable_convolutions_are_nearly_as_good_for_a_sixth_of_the_weights():
    """Digits are named nearly as well as with full convolutions, for less than a sixth of the blocks' weights.

    Source: Howard et al. 2017, §4.1, table 4: 70.6 % for 4.2 million parameters, 71.7 % for 29.3 million.
    Measured: 0.89 to 0.95 for 2,192 weights, 0.93 to 0.99 for 13,952, over 5 seeds.
    """
    right, weights = {}, {}
    for block in (full, separable):
        right[block], weights[block] = accuracy(block, seed=0)
    assert right[separable] >= 0.85, f"expected an accuracy of 0.85, found {right[separable]:.3f}"
    assert right[full] - right[separable] <= 0.1, f"expected to lose 0.1 at most, found {right}"
    assert weights[full] > 6 * weights[separable], f"expected a sixth of the weights, found {weights}"


@pytest.mark.item("depthwise-separable-conv")
@pytest.mark.states("limiting case")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_full_kernel_is_out_of_reach_of_a_separable_layer(seed):
    """Fitted to random 3×3 kernels, a separable layer stops at the error of the best rank-1 fit of each channel.

    Source: Howard et al. 2017, §3.1, the factorization; Eckart & Young 1936 for the bound Σ_m Σ_{i>1} σ_{m,i}².
    Measured: 5e-12 and 1e-11 from the bound of 72 and 76, and 6e-10 and 2e-10 with five kernels a channel; both seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    kernels = torch.randn(5, 3, 9, generator=generator, dtype=torch.float64)  # N, M, taps
    bound = torch.linalg.svdvals(kernels.transpose(0, 1))[:, 1:].square().sum().item()
    torch.manual_seed(seed)
    impulses = torch.eye(27, dtype=torch.float64).reshape(27, 3, 3, 3)  # what a 3×3 layer answers to them is its kernel
    wanted = kernels.reshape(5, 27).T

    def error(multiplier):
        layer = DepthwiseSeparableConv2d(3, 5, 3, depth_multiplier=multiplier).double()
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=150, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = (layer(impulses).flatten(1) - wanted).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return closure().item()

    one, five = error(1), error(5)
    assert abs(one / bound - 1) < 1e-4, f"expected the error {bound:.6f} of rank 1, found {one:.6f}"
    assert five < 1e-4 * bound, f"expected five kernels a channel to reach any layer, found an error of {five:.2g}"
