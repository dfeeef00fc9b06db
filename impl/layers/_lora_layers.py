"""Linear, convolution and embedding layers with a low-rank change of their frozen weight."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._low_rank import _LowRank, check_rank
from .checks import check_space
from .convolution import Conv2d, convolve
from .embedding import Embedding
from .linear import Linear
from .windows import pad


class LoRALinear(_LowRank):
    """y = x W₀ᵀ + b + (α/r) · drop(x) Aᵀ Bᵀ over the last dimension; W₀ and b are frozen.

    Args:
        in_features, out_features: d_in and d_out.
        r: rank of the change; A is (r, d_in), B is (d_out, r).
        lora_alpha: α; the change is scaled by α/r.
        lora_dropout: probability with which a feature of the adapter's input is dropped in training.
        bias: is there a b?

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
        x = input.reshape(-1, self.in_features)
        weight = self._weight()
        y = x @ weight.T if self.bias is None else torch.addmm(self.bias, x, weight.T)
        if not self.merged:
            y = torch.addmm(y, self.lora_dropout(x) @ self.lora_A.T, self.lora_B.T, alpha=self.scaling)
        return y.view(*input.shape[:-1], self.out_features)

    def _product(self):
        return self.lora_B @ self.lora_A


class LoRAConv2d(_LowRank):
    """y = W₀ * x + b + (α/r) · B (A * drop(x)): A is a convolution to r channels, B mixes them at each place.

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
        y = self._correlate(input, self._weight())
        if not self.merged:
            between = self._correlate(self.lora_dropout(input), self.lora_A)
            y = y + self.scaling * convolve(between, self.lora_B, (1, 1), (1, 1), self.groups)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _correlate(self, x, weight):
        return convolve(pad(x, self.margins, self.padding_mode), weight, self.stride, self.dilation, self.groups)

    def _product(self):
        """A group's outputs see the group's part of the r channels, and no other."""
        b, a = (t.reshape(self.groups, len(t) // self.groups, -1) for t in (self.lora_B, self.lora_A))
        return (b @ a).reshape(self.weight.shape)


class LoRAEmbedding(_LowRank):
    """y_t = E₀[x_t] + (α/r) · B A[:, x_t]: the table (symbols, d) and a low-rank change of it.

    Args:
        num_embeddings, embedding_dim, padding_idx: as in `Embedding`.
        r: rank of the change; A is (r, num_embeddings), B is (embedding_dim, r).
        lora_alpha: α; the change is scaled by α/r.

    Raises:
        ValueError: as `Embedding` and `LoRALinear`.
        IndexError: a number outside of [0, num_embeddings) in the input.

    Convention: A starts at zero and B normal, as in loralib and peft. No dropout: symbols have no features.
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
        """Start at ΔW = 0: A zero, B standard normal."""
        self.lora_A.zero_()
        self.lora_B.normal_()

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        symbols = input.flatten()
        y = self._weight().index_select(0, symbols)
        if not self.merged:
            y = torch.addmm(y, self.lora_A.index_select(1, symbols).T, self.lora_B.T, alpha=self.scaling)
        y = y.view(*input.shape, self.embedding_dim)
        if self.padding_idx is None:
            return y
        return torch.where((input == self.padding_idx)[..., None], y.detach(), y)

    def _product(self):
        return (self.lora_B @ self.lora_A).T
