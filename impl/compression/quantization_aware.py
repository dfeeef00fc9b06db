"""Quantization-aware training: the forward pass computes on the integers' grids, the backward pass looks through them,
and what was trained so runs in integers with no loss.

    y = Q(Q(x) Q(W)ᵀ + b),   ∂Q(x)/∂x = 1 inside the range of Q, 0 outside      Jacob et al. 2017, arXiv:1712.05877, §3

Convention: W is quantized at each step anew and trained in floating point; biases are not quantized in training, they
have 32 bits. Input and output have 8 bits and an affine grid each.
"""

import copy

from jaxtyping import Float
from torch import Tensor, nn

from ..layers.linear import Linear
from ..layers.replacement import is_linear, replace_modules
from ._quantizer import FakeQuantize, LearnedStepQuantizer, WeightFakeQuantize
from ._straight_through import fake_quantize, learned_step
from .quantization import Grid, QuantizedLinear

__all__ = [
    "FakeQuantize",
    "LearnedStepQuantizer",
    "QATLinear",
    "WeightFakeQuantize",
    "convert",
    "fake_quantize",
    "learned_step",
    "prepare_qat",
]


class QATLinear(nn.Module):
    """A linear layer that trains as if input, weight and output were integers; weight and bias stay floating-point.

    Args:
        in_features, out_features, bias: as in `Linear`.
        bits: of the weight, 2 to 8. Input and output have 8.
        per_channel: a grid for each output of the weight, or one for all?

    Attributes:
        weight_quantizer: may be replaced by a `LearnedStepQuantizer`.

    Raises:
        ValueError: an argument out of range, or an input whose last dimension is not `in_features`.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, bits: int = 8, per_channel: bool = True):
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"expected bits from 2 to 8, got {bits}")
        linear = Linear(in_features, out_features, bias)
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.input_quantizer, self.output_quantizer = FakeQuantize(), FakeQuantize()
        self.weight_quantizer = WeightFakeQuantize(bits, per_channel)

    @classmethod
    def from_float(cls, linear: nn.Module, bits: int = 8, per_channel: bool = True) -> "QATLinear":
        """A layer that trains the weight and the bias of this one on."""
        new = cls(*linear.weight.T.shape, linear.bias is not None, bits, per_channel)
        new.to(linear.weight).train(linear.training)
        new.weight, new.bias = linear.weight, linear.bias
        return new

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected a last dimension of {self.in_features}, got {input.shape[-1]}")
        output = self.input_quantizer(input) @ self.weight_quantizer(self.weight).T
        return self.output_quantizer(output if self.bias is None else output + self.bias)

    def to_quantized(self) -> QuantizedLinear:
        """The layer in integers, on the grids that it was trained on."""
        weight: Grid = self.weight_quantizer.grid(self.weight)
        return QuantizedLinear.from_float(self, weight, self.input_quantizer.grid(), self.output_quantizer.grid())


def prepare_qat(model: nn.Module, bits: int = 8, per_channel: bool = True) -> nn.Module:
    """A copy of the model whose linear layers train as if they were integers.

    Raises:
        ValueError: bits out of range.

    Source: Jacob et al. 2017, arXiv:1712.05877, algorithm 1, step 2.
    """
    model = copy.deepcopy(model)
    layers = [m for m in model.modules() if is_linear(m)]
    return replace_modules(model, {m: QATLinear.from_float(m, bits, per_channel) for m in layers})


def convert(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose `QATLinear` layers compute in integers.

    Raises:
        ValueError: a layer that saw no training batch.

    Source: Jacob et al. 2017, arXiv:1712.05877, algorithm 1, step 5.
    """
    model = copy.deepcopy(model).eval()
    return replace_modules(model, {m: m.to_quantized() for m in model.modules() if isinstance(m, QATLinear)}).eval()
