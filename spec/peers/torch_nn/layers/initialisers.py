"""Initialisers of torch.nn."""

from torch.nn.init import kaiming_normal_, kaiming_uniform_, trunc_normal_, xavier_normal_, xavier_uniform_

__all__ = ["kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_"]
