"""Contracts of the initialisers, which fill a tensor in place."""

import torch

from impl.layers.initialisers import kaiming_normal_, kaiming_uniform_, trunc_normal_, xavier_normal_, xavier_uniform_
from spec.contract import Contract

CASES = []

_KAIMING = {"mode": "'fan_in', 'fan_out'", "nonlinearity": "'leaky_relu', 'relu', 'tanh', 'linear'"}


def _promise(of, name, **ranges):
    return Contract(item="dilated-conv", name=name, of=of, calls=({"tensor": torch.empty(5, 4)},), ranges=ranges)


CONTRACTS = [
    _promise(xavier_uniform_, "xavier_uniform_"),
    _promise(xavier_normal_, "xavier_normal_"),
    _promise(kaiming_uniform_, "kaiming_uniform_", **_KAIMING),
    _promise(kaiming_normal_, "kaiming_normal_", **_KAIMING),
    _promise(trunc_normal_, "trunc_normal_"),
]
