"""Post-training quantization: a trained network in 8-bit integers, with no training and a few batches of data.

    r = S (q − Z)                                                     Jacob et al. 2017, arXiv:1712.05877, eq. 1
    q₃ = Z₃ + (S₁S₂/S₃) Σ (q₁ − Z₁)(q₂ − Z₂)                          eq. 4: integers in, integers out
    Σ (q₁ − Z₁)(q₂ − Z₂) = Σ q₁q₂ − Z₁ Σ q₂ − Z₂ Σ q₁ + K Z₁Z₂        eq. 7: products add up in int32
    M = S₁S₂/S₃ = 2⁻ⁿ M₀,   M₀ in [½, 1) as an int32 M₀·2³¹           eq. 5 and 6: a multiplication and a shift
    W_fold = γW/√(σ² + ε),   b_fold = β + γ(b − μ)/√(σ² + ε)          eq. 14: a batch norm joins the layer before it

Convention: activations affine, uint8, one grid a tensor; weights symmetric, ±(2ᵇⁱᵗˢ⁻¹ − 1), one grid for each output
(Krishnamoorthi 2018, §3.1); biases int32 with S = S₁S₂ and Z = 0. The shift rounds to nearest, halves up; one rounding,
where gemmlowp's two instructions round twice. Outputs are dimension 0 of a weight, as in torch.nn.Linear and Conv2d.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ..layers.checks import check_last, check_sizes
from ..layers.replacement import is_linear, replace_modules
from .grid import Grid, check_bits, dequantize, grid_of_range, integer_range, quantize, weight_grid
from .observers import MinMaxObserver, MovingAverageMinMaxObserver, PercentileObserver

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


def integer_matmul(
    left: Integer[Tensor, "*batch k"],
    left_zero_point: Integer[Tensor, ""],
    right: Integer[Tensor, "k n"],
    right_zero_point: Integer[Tensor, "*n"],
) -> Integer[Tensor, "*batch n"]:
    """Σ (q₁ − Z₁)(q₂ − Z₂) over the last dimension of q₁ and the first of q₂, in int32.

    Args:
        left, right: q₁ and q₂, of any integer type.
        left_zero_point: Z₁.
        right_zero_point: Z₂, one or one per column.

    Raises:
        ValueError: sizes that do not fit.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 7.
    """
    if left.shape[-1:] != right.shape[:1]:
        raise ValueError(f"expected {left.shape[-1]} rows on the right, got shape {tuple(right.shape)}")
    left, right = left.to(torch.int32), right.to(torch.int32)
    correction = left_zero_point * (right.sum(0, dtype=torch.int32) - len(right) * right_zero_point)
    rows = left.sum(-1, keepdim=True, dtype=torch.int32)
    return left @ right - correction - right_zero_point * rows


def fixed_point(multiplier: Float[Tensor, "*n"]) -> tuple[Integer[Tensor, "*n"], Integer[Tensor, "*n"]]:
    """M₀·2³¹ and n of M = 2⁻ⁿ M₀, both int32.

    Args:
        multiplier: M > 0. Below 2⁻³² it has fewer digits: n stops at 31.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 6.
    """
    multiplier = multiplier.double()
    _, exponent = torch.frexp(multiplier)
    shift = (-exponent).clamp(max=31)
    mantissa = torch.ldexp(multiplier, 31 + shift).round().long()
    carry = mantissa == 2**31  # M₀ rounded up to 1, which an int32 cannot hold
    return torch.where(carry, 2**30, mantissa).to(torch.int32), (shift - carry.int()).to(torch.int32)


def rescale(
    accumulator: Integer[Tensor, "*shape n"], mantissa: Integer[Tensor, "*n"], shift: Integer[Tensor, "*n"]
) -> Integer[Tensor, "*shape n"]:
    """round(2⁻ⁿ M₀ · accumulator) in integers, as int32: a 64-bit product and a rounding shift to the right.

    Args:
        accumulator: int32 sums.
        mantissa, shift: M₀·2³¹ and n, as `fixed_point` returns them.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 2.2.
    """
    bits = shift.long() + 31
    half = torch.ones_like(bits) << (bits - 1)
    return ((accumulator.long() * mantissa + half) >> bits).to(torch.int32)


class QuantizedLinear(nn.Module):
    """A linear layer in integers: 8-bit weights, int32 sums, uint8 in and out. `from_float` makes one.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: if True, there is one.

    Attributes:
        weight: q₂, int8.
        weight_scale: S₂, one for each output.
        bias: int32 in steps of S₁S₂, or None.
        input_scale, input_zero_point, output_scale, output_zero_point: S₁, Z₁, S₃ and Z₃.
        multiplier, shift: M₀·2³¹ and n of M = S₁S₂/S₃, one for each output, int32.

    All of them are buffers. The scales have the dtype of the layer that was quantized, or float32 if that is wider.

    Raises:
        ValueError: a size below 1, in_features·255·128 of 2³⁰ or more, or an input whose last dimension is not
            `in_features`.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 2.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
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
        """The layer in integers, from one with `weight` and `bias` as every linear layer has.

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
        check_last(input, self.in_features)
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


def fold_batch_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of a linear or convolution layer that does in evaluation what the layer and its batch norm did.

    Args:
        layer: has `weight` (out, …) and `bias` (out) or None.
        norm: has running_mean, running_var, eps, and weight and bias, or None for those.

    Raises:
        ValueError: a norm without running statistics or of another width; a transposed convolution.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 14; Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.
    """
    if norm.running_mean is None:
        raise ValueError("expected a norm with running statistics, got one without")
    if getattr(layer, "transposed", False):
        raise ValueError("expected outputs in dimension 0 of the weight, got a transposed convolution")
    if len(norm.running_mean) != len(layer.weight):
        raise ValueError(f"expected a norm of width {len(layer.weight)}, got {len(norm.running_mean)}")
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        gain = (norm.running_var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight
        bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        bias = bias * gain if norm.bias is None else bias * gain + norm.bias
        layer.bias = nn.Parameter(bias)
        layer.weight.copy_(layer.weight * gain.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    return layer


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
        per_channel: if True, each output of a weight has its own grid; if False, there is one for all.
        observer: makes the observer of one activation.

    Raises:
        ValueError: no batches, or bits out of range.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 3.1.
    """
    check_bits(bits, 8)
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
    quantized = {
        layer: QuantizedLinear.from_float(layer, weight_grid(layer.weight, bits, per_channel), a.grid(), b.grid())
        for layer, (a, b) in observers.items()
    }
    return replace_modules(model, quantized).eval()


def _precise(like):
    """The device of a tensor, and its dtype or float32: in bfloat16 a scale moves the end of its range by a step."""
    return {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
