"""FlashAttention's kernels under our public name; they are not type-checked at run time, Triton reads their source."""

import triton  # noqa: F401  this peer is left out where it is missing

from spec.peers.triton.kernels import flash_attention

__all__ = ["flash_attention"]
