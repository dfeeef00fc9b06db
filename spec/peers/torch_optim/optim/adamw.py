"""AdamW of torch.optim."""

from torch.optim import AdamW

__all__ = ["AdamW"]
