"""Gated linear units: one projection of the input, passed through a nonlinearity, scales another feature by feature.

GLU: Dauphin, Fan, Auli & Grangier 2016, arXiv:1612.08083, eq. 1.
The feed-forward layers SwiGLU and GEGLU: Shazeer 2020, arXiv:2002.05202, eq. 6.

    GLU([a, b]) = a ⊗ σ(b)
    SwiGLU(x)   = (Swish(x W) ⊗ x V) W₂       Swish(z) = z σ(z)
    GEGLU(x)    = (GELU(x W) ⊗ x V) W₂        GELU(z) = z Φ(z)

Convention: GLU gates with the second half, as torch.nn.GLU does. W, V and W₂ are `gate_proj`, `up_proj` and `down_proj`
as in LLaMA, initialised as `Linear`, without biases (Shazeer, eq. 6). The hidden width is 2/3 of the usual
4·in_features, rounded up, so that three matrices cost what two did.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

from .activation import GELU
from .checks import check_sizes
from .linear import Linear


class GLU(nn.Module):
    """a ⊗ σ(b), where a and b are the first and the second half of the input along `dim`.

    Args:
        dim: the dimension that is halved.

    Raises:
        ValueError: the input has no such dimension, or its size there is odd.
    """

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not -input.dim() <= self.dim < input.dim():
            raise ValueError(f"expected an input with a dimension {self.dim}, got shape {tuple(input.shape)}")
        if input.shape[self.dim] % 2:
            raise ValueError(f"expected an even size in dimension {self.dim}, got {input.shape[self.dim]}")
        value, gate = input.chunk(2, self.dim)
        return value * gate.sigmoid()

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def swish(z: Tensor) -> Tensor:
    """z σ(z)."""
    return z * z.sigmoid()


class _GatedFeedForward(nn.Module):
    """W and V from the input to the hidden width, and W₂ from there to the output; a subclass is the equation."""

    def __init__(self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1):
        super().__init__()
        given = {"in_features": in_features, "hidden_features": hidden_features, "out_features": out_features}
        check_sizes(multiple_of=multiple_of, **{name: size for name, size in given.items() if size is not None})
        if hidden_features is None:
            hidden_features = math.ceil(8 * in_features / (3 * multiple_of)) * multiple_of
        self.gate_proj = Linear(in_features, hidden_features, bias)  # W
        self.up_proj = Linear(in_features, hidden_features, bias)  # V
        self.down_proj = Linear(hidden_features, in_features if out_features is None else out_features, bias)  # W₂


class SwiGLU(_GatedFeedForward):
    """(Swish(x W) ⊗ x V) W₂ over the last dimension: LLaMA's feed-forward layer.

    Args:
        in_features: size of the last dimension of the input.
        hidden_features: width of the gate; default the smallest multiple of `multiple_of` from 8/3·in_features on.
        out_features: size of the last dimension of the output; default in_features.
        bias: if True, each of the three projections adds a bias.
        multiple_of: the default width is a multiple of it.

    Raises:
        ValueError: a size below 1, or an input whose last dimension is not `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        bias: bool = False,
        multiple_of: int = 1,
    ):
        super().__init__(in_features, hidden_features, out_features, bias, multiple_of)

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.down_proj(swish(self.gate_proj(input)) * self.up_proj(input))


class GEGLU(_GatedFeedForward):
    """(GELU(x W) ⊗ x V) W₂ over the last dimension: the feed-forward layer of T5 v1.1 and Gemma.

    Args:
        in_features: size of the last dimension of the input.
        hidden_features: width of the gate; default the smallest multiple of `multiple_of` from 8/3·in_features on.
        out_features: size of the last dimension of the output; default in_features.
        bias: if True, each of the three projections adds a bias.
        multiple_of: the default width is a multiple of it.
        approximate: "none" for the exact GELU, "tanh" for the approximation that T5's and Gemma's code uses.

    Raises:
        ValueError: a size below 1, another `approximate`, or an input whose last dimension is not `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        bias: bool = False,
        multiple_of: int = 1,
        approximate: str = "none",
    ):
        super().__init__(in_features, hidden_features, out_features, bias, multiple_of)
        self.gelu = GELU(approximate)

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return self.down_proj(self.gelu(self.gate_proj(input)) * self.up_proj(input))
