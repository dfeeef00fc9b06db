"""AdaGrad of torch.optim."""

from torch.optim import Adagrad

__all__ = ["Adagrad"]
