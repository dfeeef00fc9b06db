"""What layers with a frozen weight and a low-rank change of it share: scale, start, and merging."""

import math

import torch
from torch import Tensor, nn

from .dropout import Dropout
from .initialisers import kaiming_uniform_


class _LowRank(nn.Module):
    """W₀ and b of a layer, the factors A and B, and the sum W₀ + ΔW while it is merged."""

    def __init__(self, base: nn.Module, a_shape, b_shape, r: int, lora_alpha: float, lora_dropout: float):
        super().__init__()
        if not 0 < lora_alpha < math.inf:
            raise ValueError(f"expected a finite lora_alpha > 0, got {lora_alpha}")
        self.r, self.lora_alpha, self.scaling = r, lora_alpha, lora_alpha / r
        self.weight = base.weight.requires_grad_(False)
        bias = getattr(base, "bias", None)
        self.bias = None if bias is None else bias.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.empty(a_shape)), nn.Parameter(torch.empty(b_shape))
        self.lora_dropout = Dropout(lora_dropout)
        self.register_buffer("merged_weight", None, persistent=False)
        self.register_load_state_dict_post_hook(_unmerge)  # what was merged is no longer what is stored
        self.reset_lora_parameters()

    @torch.no_grad()
    def reset_lora_parameters(self) -> None:
        """Start at ΔW = 0: A uniform in ±1/√fan-in, B zero."""
        kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B.zero_()

    def delta_weight(self) -> Tensor:
        """ΔW = (α/r) B A, in the shape of the weight."""
        return self.scaling * self._product()

    @property
    def merged(self) -> bool:
        """Does the layer compute with W₀ + ΔW as one weight?"""
        return self.merged_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Compute with W₀ + ΔW as they are now, at the cost of the base layer; W₀, A and B are left alone."""
        self.merged_weight = self.weight + self.delta_weight()

    def unmerge(self) -> None:
        """Compute with W₀ and A, B apart again; W₀ has the bits that it had."""
        self.merged_weight = None

    def train(self, mode: bool = True):
        """Training unmerges: gradients reach A and B only while they are apart."""
        if mode:
            self.unmerge()
        return super().train(mode)

    def _weight(self) -> Tensor:
        return self.merged_weight if self.merged else self.weight

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, r={self.r}, lora_alpha={self.lora_alpha}, bias={self.bias is not None}"


def _unmerge(module, incompatible_keys):
    module.unmerge()


def check_rank(r: int, groups: int = 1) -> None:
    if r < 1 or r % groups:
        raise ValueError(f"expected r >= 1, a multiple of groups = {groups}, got {r}")
