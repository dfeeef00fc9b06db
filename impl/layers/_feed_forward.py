"""Position-wise feed-forward network: the part of a transformer block that treats each token by itself.

Vaswani et al. 2017, arXiv:1706.03762, §3.3.

    FFN(x) = act(x W₁ + b₁) W₂ + b₂                                    eq. 2, with act = ReLU

Convention: names of torch.nn.TransformerEncoderLayer; what is dropped in training is the hidden features.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activation import GELU, SiLU
from .checks import check_sizes
from .dropout import Dropout
from .linear import Linear


class FeedForward(nn.Module):
    """act(x W₁ + b₁) W₂ + b₂ for each token: two linear maps with a nonlinearity between.

    Args:
        d_model: width of the tokens.
        dim_feedforward: width between the two maps, d_ff.
        activation: "relu", "gelu", "gelu_tanh" (GPT-2's), "silu", or any function of a tensor.
        dropout: probability with which a hidden feature is dropped in training.
        bias: do the two linear maps add a bias?

    Raises:
        ValueError: a size below 1, an unknown name, `dropout` outside [0, 1]; an input of another width.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.3.
    """

    def __init__(
        self,
        d_model: int,
        dim_feedforward: int,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(d_model=d_model, dim_feedforward=dim_feedforward)
        self.activation = _named(activation)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.dropout = Dropout(dropout)

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return transform(self, input)


def transform(module: nn.Module, x: Tensor) -> Tensor:
    """FFN(x) by a module's linear1, activation, dropout and linear2: a block's own, or those of `FeedForward`."""
    return module.linear2(module.dropout(module.activation(module.linear1(x))))


def _named(activation):
    """The function of a name, or the function itself."""
    known = {"relu": torch.relu, "gelu": GELU(), "gelu_tanh": GELU("tanh"), "silu": SiLU()}
    if isinstance(activation, str) and activation not in known:
        raise ValueError(f"expected an activation of {', '.join(known)}, or a function, got {activation!r}")
    return known[activation] if isinstance(activation, str) else activation
