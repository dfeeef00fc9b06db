"""Post-training quantization of a trained digit classifier.  Krishnamoorthi 2018, arXiv:1806.08342."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

from impl.compression.quantization import dequantize, fold_batch_norm, quantize, quantize_model, weight_grid
from spec.data import digits

pytestmark = pytest.mark.item("post-training-quantization")


@cache
def trained(seed=0, norm=False):
    """A 64-64-10 classifier after 300 steps of Adam, in eval mode. Shared: it is not changed."""
    x, y, _, _ = digits()
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(64)] if norm else []
    model = nn.Sequential(nn.Linear(64, 64), *middle, nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(300):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def accuracy(model):
    _, _, x, y = digits()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def quantized(model, **options):
    """With 128 training images for calibration."""
    return quantize_model(model, digits()[0][:128].split(32), **options)


def test_eight_bits_cost_no_accuracy_and_two_bits_much():
    """Digits: weights and activations in 8 bits lose at most one point of accuracy, weights of 2 bits at least 15.

    Measured: −0.6 to 0.2 points lost at 8 bits, 20 to 62 at 2 bits (6 seeds). The thresholds are 1 and 15.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, table 2: 8-bit weights and activations are close to float.
    """
    model = trained()
    lost = {bits: accuracy(model) - accuracy(quantized(model, bits=bits, per_channel=False)) for bits in (8, 2)}
    assert lost[8] <= 0.01, f"expected at most one point lost at 8 bits, found {100 * lost[8]:.1f}"
    assert lost[2] >= 0.15, f"expected at least 15 points lost at 2 bits, found {100 * lost[2]:.1f}"


def with_uneven_units(model, seed, per_channel):
    """Hidden units multiplied by 10⁻³ … 10³ and divided again on their way out, with the first weight in 8 bits."""
    factors = torch.logspace(-3, 3, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(seed))]
    new = copy.deepcopy(model)
    with torch.no_grad():
        weight = model[0].weight * factors[:, None]
        grid = weight_grid(weight, 8, per_channel)
        new[0].weight.copy_(dequantize(quantize(weight, *grid), grid.scale, grid.zero_point))
        new[0].bias.mul_(factors)
        new[2].weight.div_(factors)
    return new


def test_uneven_channels_need_grids_of_their_own():
    """With hidden units in units from 10⁻³ to 10³, which is the same function, a weight in int8 loses at least four
    points per tensor and at most one per channel.

    Measured: 7 to 45 points lost per tensor, −0.4 to 0 per channel (6 seeds). The thresholds are 4 and 1.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.1 and table 2: per-tensor weights fail for MobileNet.
    """
    model = trained()
    lost = {each: accuracy(model) - accuracy(with_uneven_units(model, 0, each)) for each in (False, True)}
    assert lost[True] <= 0.01 and lost[False] >= 0.04, f"expected 0 and above 0.04 lost, found {lost}"


def test_batch_norm_folds_into_the_weights_before_they_are_quantized():
    """A network with batch norm, folded and then in 8 bits, loses at most one point.

    Measured: 0 to 0.2 points lost, 8 to 28 with the norm left out (6 seeds).

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.2 and eq. 14.
    """
    model = trained(norm=True)
    folded = nn.Sequential(fold_batch_norm(model[0], model[1]), *model[2:])
    found = accuracy(quantized(folded))
    assert found >= accuracy(model) - 0.01, found
