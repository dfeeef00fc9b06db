"""Linear, convolution and embedding layers with a frozen weight and a low-rank change of it.

Hu et al. 2021, arXiv:2106.09685.

    h = W₀ x + ΔW x = W₀ x + (α/r) B A x,    A ∈ ℝ^{r×k}, B ∈ ℝ^{d×r}                          (§4.1, eq. 3)
    merged: W = W₀ + (α/r) B A is one matrix, with the base layer's cost                        (§4.1)

Convention: W₀ is kept next to the merged sum, so that unmerging is exact; `train()` and `load_state_dict` unmerge.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .checks import check_space
from .convolution import Conv2d, convolve
from .dropout import Dropout
from .embedding import Embedding
from .initialisers import kaiming_uniform_
from .linear import Linear, linear
from .windows import pad


class _LowRank(nn.Module):
    """W₀ and b of a layer, the factors A and B, and the sum W₀ + ΔW while it is merged."""

    def __init__(self, base: nn.Module, a_shape, b_shape, r: int, lora_alpha: float, lora_dropout: float):
        super().__init__()
        if not 0 < lora_alpha < math.inf:
            raise ValueError(f"expected a finite lora_alpha > 0, got {lora_alpha}")
        if not 0 <= lora_dropout <= 1:
            raise ValueError(f"expected 0 <= lora_dropout <= 1, got {lora_dropout}")
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
        """Begin with ΔW = 0: A uniform in ±1/√fan-in, B zero."""
        kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B.zero_()

    def delta_weight(self) -> Tensor:
        """ΔW = (α/r) B A, in the shape of the weight."""
        return self.scaling * self._product()

    @property
    def merged(self) -> bool:
        """True while the layer computes with W₀ + ΔW as one weight."""
        return self.merged_weight is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Compute with W₀ + ΔW as they are now, at the cost of the base layer; W₀, A and B are unchanged."""
        self.merged_weight = self.weight + self.delta_weight()

    def unmerge(self) -> None:
        """Compute with W₀ and A, B apart again; W₀ is bitwise what it was."""
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


class LoRALinear(_LowRank):
    """y = x W₀ᵀ + b + (α/r) · drop(x) Aᵀ Bᵀ over the last dimension; W₀ and b are frozen.

    Args:
        in_features, out_features: d_in and d_out.
        r: rank of the change; A is (r, d_in), B is (d_out, r).
        lora_alpha: α; the change is scaled by α/r.
        lora_dropout: probability with which an element of the adapter's input is dropped in training.
        bias: if True, b is added.

    Raises:
        ValueError: a size or rank below 1, α not above 0, a probability outside of [0, 1], or an input whose last
            dimension is not `in_features`.

    Source: Hu et al. 2021, arXiv:2106.09685, §4.1, eq. 3.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: bool = True,
    ):
        check_rank(r)
        base = Linear(in_features, out_features, bias)
        super().__init__(base, (r, in_features), (out_features, r), r, lora_alpha, lora_dropout)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected a last dimension of {self.in_features}, got {input.shape[-1]}")
        y = linear(input, self._weight(), self.bias)
        if not self.merged:
            y = y + self.scaling * (self.lora_dropout(input) @ self.lora_A.T @ self.lora_B.T)
        return y

    def _product(self):
        return self.lora_B @ self.lora_A


class LoRAConv2d(_LowRank):
    """y = W₀ * x + b + (α/r) · B (A * drop(x)): A is a convolution to r channels, B mixes them at each position.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in `Conv2d`.
        r: channels between A and B, a multiple of `groups`; A is (r, C/groups, kh, kw), B is (O, r/groups, 1, 1).
        lora_alpha, lora_dropout: as in `LoRALinear`.

    Raises:
        ValueError: as `Conv2d` and `LoRALinear`, or a rank that the groups do not share evenly.

    Convention: A has the whole kernel and B is 1×1, as in peft; loralib splits the kernel between both.
    Source: Hu et al. 2021, arXiv:2106.09685, §4.1, of the kernel as a matrix (O, C·kh·kw).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        r: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ):
        base = Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_rank(r, groups)
        a_shape, b_shape = (r, *base.weight.shape[1:]), (out_channels, r // groups, 1, 1)
        super().__init__(base, a_shape, b_shape, r, lora_alpha, lora_dropout)
        self.in_channels, self.groups, self.stride, self.dilation = in_channels, groups, base.stride, base.dilation
        self.margins, self.padding_mode = base.margins, padding_mode

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        check_space(input, 2, self.in_channels)
        y = self._convolve(input, self._weight())
        if not self.merged:
            between = self._convolve(self.lora_dropout(input), self.lora_A)
            y = y + self.scaling * convolve(between, self.lora_B, (1, 1), (1, 1), self.groups)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _convolve(self, x, weight):
        return convolve(pad(x, self.margins, self.padding_mode), weight, self.stride, self.dilation, self.groups)

    def _product(self):
        """The outputs of a group see the group's share of the r channels, and no other."""
        b, a = (t.reshape(self.groups, len(t) // self.groups, -1) for t in (self.lora_B, self.lora_A))
        return (b @ a).reshape(self.weight.shape)


class LoRAEmbedding(_LowRank):
    """y_t = E₀[x_t] + (α/r) · B A[:, x_t]: the table (tokens, d) and a low-rank change of it.

    Args:
        num_embeddings, embedding_dim, padding_idx: as in `Embedding`.
        r: rank of the change; A is (r, num_embeddings), B is (embedding_dim, r).
        lora_alpha: α; the change is scaled by α/r.

    Raises:
        ValueError: as `Embedding` and `LoRALinear`.
        IndexError: a token id outside of [0, num_embeddings) in the input.

    Convention: A is initialised to zero and B normal, as in loralib and peft. No dropout: token ids have no features.
    The padding token gives no gradient to its row of the table and its column of A.
    Source: Hu et al. 2021, arXiv:2106.09685, §4.1, with one-hot vectors as input.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        r: int = 8,
        lora_alpha: float = 16,
        padding_idx: int | None = None,
    ):
        check_rank(r)
        base = Embedding(num_embeddings, embedding_dim, padding_idx)
        super().__init__(base, (r, num_embeddings), (embedding_dim, r), r, lora_alpha, 0.0)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx

    @torch.no_grad()
    def reset_lora_parameters(self) -> None:
        """Begin with ΔW = 0: A zero, B standard normal."""
        self.lora_A.zero_()
        self.lora_B.normal_()

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        ids = input.flatten()
        y = self._weight().index_select(0, ids)
        if not self.merged:
            y = y + self.scaling * (self.lora_A.index_select(1, ids).T @ self.lora_B.T)
        y = y.view(*input.shape, self.embedding_dim)
        if self.padding_idx is None:
            return y
        return torch.where((input == self.padding_idx)[..., None], y.detach(), y)

    def _product(self):
        return (self.lora_B @ self.lora_A).T
