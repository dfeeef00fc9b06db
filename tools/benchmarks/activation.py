"""The activation functions next to torch.nn's, on a million elements."""

import torch
from torch import nn

from impl.layers.activation import ELU, GELU, Hardsigmoid, Hardswish, LeakyReLU, Mish, PReLU, SiLU
from tools.bench import Pair


def _images():
    return (torch.randn(16, 64, 32, 32) * 2,)


def _pair(item, name, ours, theirs):
    return Pair(item=item, name=name, ours=ours, theirs=theirs, inputs=_images)


PAIRS = [
    _pair("leaky-relu", "LeakyReLU", LeakyReLU, nn.LeakyReLU),
    _pair("prelu", "PReLU, one a channel", lambda: PReLU(64), lambda: nn.PReLU(64)),
    _pair("prelu", "PReLU, one for all", PReLU, nn.PReLU),
    _pair("elu", "ELU", ELU, nn.ELU),
    _pair("gelu", "GELU", GELU, nn.GELU),
    _pair("gelu", "GELU, tanh", lambda: GELU("tanh"), lambda: nn.GELU("tanh")),
    _pair("silu", "SiLU", SiLU, nn.SiLU),
    _pair("mish", "Mish", Mish, nn.Mish),
    _pair("hard-sigmoid", "Hardsigmoid", Hardsigmoid, nn.Hardsigmoid),
    _pair("hard-swish", "Hardswish", Hardswish, nn.Hardswish),
]
