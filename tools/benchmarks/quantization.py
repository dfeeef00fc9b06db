"""Fake quantization, the learned step and observers next to torch's own."""

import torch
from torch import nn
from torch.ao import quantization as library

from impl.compression.quantization import MinMaxObserver
from impl.compression.quantization_aware import FakeQuantize, fake_quantize, learned_step
from tools.bench import Pair

SCALES, POINTS = torch.linspace(0.01, 0.03, 64), torch.arange(64, dtype=torch.int32) + 90
S, Z = torch.tensor(0.02), torch.tensor(120, dtype=torch.int32)


def _tokens():
    return (torch.randn(512, 1024),)


def _images():
    return (torch.randn(16, 64, 32, 16),)


class _Learned(nn.Module):
    """The step is a parameter, so that both sides take its gradient."""

    def __init__(self, call):
        super().__init__()
        self.scale, self.call = nn.Parameter(torch.tensor([0.02])), call

    def forward(self, x):
        return self.call(x, self.scale)


def _library_fake_quantize():
    options = {"observer": library.MovingAverageMinMaxObserver, "quant_min": 0, "quant_max": 255}
    return library.FakeQuantize(**options)


PAIRS = [
    Pair(
        item="post-training-quantization",
        name="MinMaxObserver",
        ours=MinMaxObserver,
        theirs=library.MinMaxObserver,
        inputs=_tokens,
    ),
    Pair(
        item="quantization-aware-training",
        name="fake_quantize",
        ours=lambda: lambda x: fake_quantize(x, S, Z),
        theirs=lambda: lambda x: torch.fake_quantize_per_tensor_affine(x, S, Z, 0, 255),
        inputs=_tokens,
    ),
    Pair(
        item="quantization-aware-training",
        name="fake_quantize, channels",
        ours=lambda: lambda x: fake_quantize(x, SCALES, POINTS, axis=1),
        theirs=lambda: lambda x: torch.fake_quantize_per_channel_affine(x, SCALES, POINTS, 1, 0, 255),
        inputs=_images,
    ),
    Pair(
        item="quantization-aware-training",
        name="FakeQuantize",
        ours=FakeQuantize,
        theirs=_library_fake_quantize,
        inputs=_tokens,
    ),
    Pair(
        item="quantization-aware-training",
        name="learned step",
        ours=lambda: _Learned(lambda x, s: learned_step(x, s.squeeze(), -128, 127, 0.01)),
        theirs=lambda: _Learned(
            lambda x, s: torch._fake_quantize_learnable_per_tensor_affine(x, s, torch.zeros(1), -128, 127, 0.01)
        ),
        inputs=_tokens,
    ),
]
