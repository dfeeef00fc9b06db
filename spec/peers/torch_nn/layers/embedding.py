"""torch.nn.Embedding."""

from torch.nn import Embedding

__all__ = ["Embedding"]
