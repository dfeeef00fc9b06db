"""Dropout of torch.nn."""

from torch.nn import Dropout

__all__ = ["Dropout"]
