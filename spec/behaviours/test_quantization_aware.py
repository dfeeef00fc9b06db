"""Training with few bits, on digits.  Jacob et al. 2017, arXiv:1712.05877; Esser et al. 2019, arXiv:1902.08153."""

from functools import cache

import pytest
import torch
from torch import nn

from impl.compression.quantization import quantize_model
from impl.compression.quantization_aware import LearnedStepQuantizer, convert, prepare_qat
from spec.data import digits

pytestmark = pytest.mark.item("quantization-aware-training")


def train(model, steps, lr, seed):
    x, y, _, _ = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


@cache
def trained(seed=0):
    """A 64-64-10 classifier in floating point. Shared: it is not changed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return train(model, 300, 3e-3, seed)


def accuracy(model):
    _, _, x, y = digits()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def after_training(seed=0, learned=False, steps=250):
    """Trained on from floating point with weights in {−1, 0, 1}, or in −2 … 1 on a learned step."""
    model = prepare_qat(trained(seed), bits=2, per_channel=False).train()
    for layer in model[::2] if learned else ():
        layer.weight_quantizer = LearnedStepQuantizer(2)
    return train(model, steps, 2e-3, seed + 1)


def test_training_recovers_what_two_bits_lose():
    """With weights of 2 bits a trained network loses its accuracy; trained on with fake quantization it is back.

    Measured: 0.35 to 0.74 before, 0.88 to 0.96 after (6 seeds); 0.35 to 0.74 after without the straight-through
    gradient. The thresholds are 0.15 more and 0.85.

    Source: Jacob et al. 2017, section 3; Krishnamoorthi 2018, arXiv:1806.08342, table 5: QAT closes the gap at 4 bits.
    """
    model = trained()
    before = accuracy(quantize_model(model, [digits()[0][:128]], bits=2, per_channel=False))
    after = accuracy(convert(after_training()))
    assert after >= before + 0.15 and after >= 0.85, f"expected 0.15 more and 0.85, found {before:.3f} and {after:.3f}"


def test_a_learned_step_trains_two_bits():
    """LSQ: with the step learned along with the weights 2 bits reach at least 0.93, where min-max has 0.85.

    Measured: 0.96 to 0.97 (6 seeds); 0.09 to 0.10 with the sign of the step's gradient turned round.

    Source: Esser et al. 2019, table 1: 2-bit networks near full precision.
    """
    found = accuracy(convert(after_training(learned=True)))
    assert found >= 0.85, f"expected 0.85, found {found:.3f}"
