"""Post-training quantization: a trained network in 8-bit integers, with no training and a few batches of data.

    r = S (q − Z)                                        Jacob et al. 2017, arXiv:1712.05877, eq. 1
    q₃ = Z₃ + (S₁S₂/S₃) Σ (q₁ − Z₁)(q₂ − Z₂)             eq. 4: integers in, integers out

Convention: activations affine, uint8, one grid a tensor; weights symmetric, ±(2ᵇⁱᵗˢ⁻¹ − 1), one grid for each output
(Krishnamoorthi 2018, §3.1); biases int32 with S = S₁S₂ and Z = 0.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ..layers.replacement import is_linear, replace_modules
from ._fold import fold_batch_norm
from ._grid import Grid, dequantize, grid_of_range, integer_range, quantize, weight_grid
from ._integer import fixed_point, integer_matmul, rescale
from ._observer import MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver

__all__ = [
    "Grid",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "PercentileObserver",
    "QuantizedLinear",
    "dequantize",
    "fixed_point",
    "fold_batch_norm",
    "grid_of_range",
    "integer_matmul",
    "integer_range",
    "quantize",
    "quantize_model",
    "rescale",
    "weight_grid",
]

ACCUMULATOR = 2**30  # products and bias get half of int32 each


class QuantizedLinear(nn.Module):
    """A linear layer in integers: 8-bit weights, int32 sums, uint8 in and out. `from_float` makes one.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: is there one?

    Raises:
        ValueError: a size below 1, sums that int32 may not hold, or an input whose last dimension is not `in_features`.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 2.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ValueError(f"expected {name} >= 1, got {size}")
        if in_features * 255 * 128 >= ACCUMULATOR:
            raise ValueError(f"expected in_features·255·128 below 2**30, got in_features {in_features}")
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features, dtype=torch.int32) if bias else None)
        for side in ("input", "output"):
            self.register_buffer(f"{side}_scale", torch.ones(()))
            self.register_buffer(f"{side}_zero_point", torch.zeros((), dtype=torch.int32))
        for name in ("multiplier", "shift"):  # M₀·2³¹ and n
            self.register_buffer(name, torch.zeros(out_features, dtype=torch.int32))

    @classmethod
    def from_float(cls, linear: nn.Module, weight: Grid, input: Grid, output: Grid) -> "QuantizedLinear":
        """The integer twin of a layer with `weight` and `bias` as every linear layer has.

        Args:
            linear: the trained layer.
            weight: symmetric grid of the weights, at most 8 bits.
            input, output: 8-bit affine grids of input and output.

        Raises:
            ValueError: a grid of another kind.
        """
        if weight.zero_point.any() or weight.quant_min < -128 or weight.quant_max > 127:
            raise ValueError(f"expected a symmetric grid of at most 8 bits for the weight, got {weight}")
        for name, grid in (("input", input), ("output", output)):
            if (grid.quant_min, grid.quant_max) != (0, 255) or grid.scale.dim():
                raise ValueError(f"expected one grid of integers 0 to 255 for the {name}, got {grid}")
        float_weight = linear.weight.detach()
        new = cls(*float_weight.T.shape, bias=linear.bias is not None).to(**_precise(float_weight))
        scale = weight.scale.expand(new.out_features)
        if linear.bias is not None:
            # Where a bias dwarfs its weights, they take a coarser step, so that it fits in the sum.
            scale = torch.maximum(scale, linear.bias.detach().abs() / (input.scale * ACCUMULATOR))
            new.bias.copy_((linear.bias.detach().double() / (input.scale.double() * scale)).round())
        new.weight_scale.copy_(scale)
        new.weight.copy_(quantize(float_weight, scale, weight.zero_point.expand_as(scale), *weight[2:4]))
        for side, grid in (("input", input), ("output", output)):
            getattr(new, f"{side}_scale").copy_(grid.scale)
            getattr(new, f"{side}_zero_point").copy_(grid.zero_point)
        new.multiplier, new.shift = fixed_point(input.scale.double() * scale / output.scale)  # eq. 5
        return new

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected a last dimension of {self.in_features}, got {input.shape[-1]}")
        q = self.integer_forward(quantize(input, self.input_scale, self.input_zero_point))
        return dequantize(q, self.output_scale, self.output_zero_point).to(input.dtype)

    def integer_forward(self, q: Integer[Tensor, "*batch d_in"]) -> Integer[Tensor, "*batch d_out"]:
        """uint8 to uint8, without a floating-point operation: what runs on integer hardware."""
        weight_zero_point = torch.zeros_like(self.input_zero_point)
        total = integer_matmul(q, self.input_zero_point, self.weight.T, weight_zero_point)
        if self.bias is not None:
            total = total + self.bias
        q = rescale(total, self.multiplier, self.shift) + self.output_zero_point
        return q.clamp(0, 255).to(torch.uint8)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize_model(
    model: nn.Module,
    batches: Iterable[Tensor],
    bits: int = 8,
    per_channel: bool = True,
    observer: Callable[[], nn.Module] = MinMaxObserver,
) -> nn.Module:
    """A copy of the model, in eval mode, whose linear layers compute in integers.

    Args:
        model: a trained model; linear layers are the modules with in_features and a matrix `weight`.
        batches: inputs of the model, from which the ranges of activations are taken.
        bits: of the weights, 2 to 8. Activations have 8.
        per_channel: a grid for each output of a weight, or one for all?
        observer: makes the observer of one activation.

    Raises:
        ValueError: no batches, or bits out of range.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"expected bits from 2 to 8, got {bits}")
    model = copy.deepcopy(model).eval()
    observers = {
        layer: [observer().to(**_precise(layer.weight)) for _ in ("input", "output")]
        for layer in model.modules()
        if is_linear(layer)
    }

    def watch(layer, arguments, output):
        for watcher, activation in zip(observers[layer], (*arguments, output)):
            watcher(activation)

    hooks = [layer.register_forward_hook(watch) for layer in observers]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    twins = {
        layer: QuantizedLinear.from_float(layer, weight_grid(layer.weight, bits, per_channel), a.grid(), b.grid())
        for layer, (a, b) in observers.items()
    }
    return replace_modules(model, twins).eval()


def _precise(like):
    """The device of a tensor, and its dtype or float32: in bfloat16 a scale moves the end of its range by a step."""
    return {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
