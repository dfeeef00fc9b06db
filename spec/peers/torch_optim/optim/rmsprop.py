"""RMSprop of torch.optim."""

from torch.optim import RMSprop

__all__ = ["RMSprop"]
