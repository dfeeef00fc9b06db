"""GLU of torch.nn. It has no SwiGLU or GEGLU."""

from torch.nn import GLU

__all__ = ["GLU"]
