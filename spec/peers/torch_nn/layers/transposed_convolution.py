"""The transposed convolution of torch.nn."""

from torch.nn import ConvTranspose2d

__all__ = ["ConvTranspose2d"]
