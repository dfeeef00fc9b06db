"""Upsampling of torch.nn."""

from torch.nn import Upsample

__all__ = ["Upsample"]
