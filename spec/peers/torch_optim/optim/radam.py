"""RAdam of torch.optim."""

from torch.optim import RAdam

__all__ = ["RAdam"]
