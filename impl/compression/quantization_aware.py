"""Quantization-aware training: the forward pass computes on the integers' grids, the backward pass looks through them,
and what was trained so runs in integers with no loss.

    x̂ = S (clamp(round(x/S) + Z, q_min, q_max) − Z)      Jacob et al. 2017, arXiv:1712.05877, eq. 12
    ∂x̂/∂x = 1 inside the range, 0 outside                Bengio et al. 2013, arXiv:1308.3432, straight-through
    S, Z from a, b:  a, b ← moving average of min x, max x (activations)  or  ±max |w| (weights)   Jacob et al., §3.1
    S learned: ∂x̂/∂S = round(x/S) − x/S inside, −Q_N or Q_P outside; initially 2⟨|x|⟩/√Q_P, gradient times 1/√(N Q_P)
                                                         Esser et al. 2019, arXiv:1902.08153, eq. 3, §2.1, 2.2
    y = Q(Q(x) Q(W)ᵀ + b), Q(x) = x̂                      Jacob et al., §3

Convention: inside is what rounds to an integer of the range, as in torch, and the open interval (−Q_N, Q_P) for the
learned step (its eq. 5). Ranges of activations move in training and are constant in evaluation; W is quantized at each
step anew and trained in floating point; biases are not quantized in training, they have 32 bits. Input and output have
8 bits and an affine grid each.
"""

import copy

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from ..layers.checks import check_last
from ..layers.linear import Linear
from ..layers.replacement import is_linear, replace_modules
from .grid import Grid, along, check_bits, check_grid, integer_range, weight_grid
from .observers import MovingAverageMinMaxObserver
from .quantization import QuantizedLinear


def _straight_through(value: Tensor, passed: Tensor) -> Tensor:
    """`value` forwards, the derivatives of `passed` backwards."""
    return value.detach() + (passed - passed.detach())


def fake_quantize(
    input: Float[Tensor, "*shape"],
    scale: Float[Tensor, "*channels"],
    zero_point: Integer[Tensor, "*channels"],
    quant_min: int = 0,
    quant_max: int = 255,
    axis: int = 0,
) -> Float[Tensor, "*shape"]:
    """x̂, the value that `dequantize(quantize(x))` gives, with a straight-through gradient.

    Args:
        input: x.
        scale, zero_point: S and Z, of shape (), or (channels,) with channels the size of `axis`.

    Raises:
        ValueError: S <= 0, Z no integer, q_min >= q_max, or another number of channels than the size of `axis`.

    Source: Jacob et al. 2017, arXiv:1712.05877, eq. 12; Bengio et al. 2013, arXiv:1308.3432.
    """
    check_grid(input, scale, zero_point, quant_min, quant_max, axis)
    scale, zero_point = along(scale.detach(), input, axis), along(zero_point, input, axis)
    q = (input / scale).round()
    clipped = q.clamp(quant_min - zero_point, quant_max - zero_point)
    return _straight_through((clipped * scale).to(input.dtype), torch.where(q == clipped, input, 0))


def learned_step(
    input: Float[Tensor, "*shape"], scale: Float[Tensor, ""], quant_min: int, quant_max: int, gain: float
) -> Float[Tensor, "*shape"]:
    """x̂ with gradients for x and, times g, for the step S.

    Args:
        input: x.
        scale: S.
        quant_min, quant_max: −Q_N and Q_P.
        gain: g.

    Source: Esser et al. 2019, arXiv:1902.08153, eq. 1, 2, 3 and 5; appendix A, whose listing this is.
    """
    scale = _straight_through(scale, gain * scale)
    ratio = input / scale
    inside = (ratio > quant_min) & (ratio < quant_max)  # eq. 5
    q = ratio.clamp(quant_min, quant_max).round()
    return _straight_through(q, torch.where(inside, ratio, 0)) * scale


class FakeQuantize(nn.Module):
    """Fake quantization of an activation, whose range is followed in training and constant in evaluation.

    Args:
        bits, symmetric, channels, axis: as in `MinMaxObserver`.
        averaging_constant: c of the moving average; the weight of the new batch.

    Raises:
        ValueError: an argument out of range, or evaluation before any training.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.1.
    """

    def __init__(
        self,
        bits: int = 8,
        symmetric: bool = False,
        channels: int | None = None,
        axis: int = 0,
        averaging_constant: float = 0.01,
    ):
        super().__init__()
        self.observer = MovingAverageMinMaxObserver(bits, symmetric, channels, axis, averaging_constant)

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.training:
            self.observer(input)
        return fake_quantize(input, *self.grid())

    def grid(self) -> Grid:
        """The grid of the range so far."""
        return self.observer.grid()


class WeightFakeQuantize(nn.Module):
    """Fake quantization of a weight on the symmetric grid over the range that it has at this moment, without a state.

    Args:
        bits: 2 to 16.
        per_channel: if True, each output has its own grid; if False, there is one for all.

    Raises:
        ValueError: bits out of range.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.1: a := min w, b := max w.
    """

    def __init__(self, bits: int = 8, per_channel: bool = True):
        super().__init__()
        check_bits(bits)
        self.bits, self.per_channel = bits, per_channel

    def forward(self, weight: Float[Tensor, "d_out ..."]) -> Float[Tensor, "d_out ..."]:
        return fake_quantize(weight, *self.grid(weight))

    def grid(self, weight: Float[Tensor, "d_out ..."]) -> Grid:
        """The grid of this weight."""
        return weight_grid(weight, self.bits, self.per_channel)


class LearnedStepQuantizer(nn.Module):
    """Fake quantization with a step S that is learned with the weights. The first training batch initialises it.

    Args:
        bits: 2 to 16.
        signed: if True, integers −2ᵇⁱᵗˢ⁻¹ … 2ᵇⁱᵗˢ⁻¹ − 1, for weights; if False, 0 … 2ᵇⁱᵗˢ − 1, for what follows a ReLU.
        per_sample: if True, N of the gradient's scale 1/√(N Q_P) is the size of one sample, for activations; if False,
            of the whole input, for weights.

    Attributes:
        scale: S, a parameter of shape (), 1 until the first training batch that is not empty.

    Raises:
        ValueError: bits out of range.

    Source: Esser et al. 2019, arXiv:1902.08153, eq. 1 to 5 and section 2.2.
    """

    def __init__(self, bits: int = 8, signed: bool = True, per_sample: bool = False):
        super().__init__()
        low, high = integer_range(bits, symmetric=signed)
        self.quant_min, self.quant_max = (low - 1 if signed else 0), high  # −Q_N and Q_P
        self.bits, self.per_sample = bits, per_sample
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.training and input.numel():
            with torch.no_grad():
                start = 2 * input.abs().mean() / self.quant_max**0.5
                self.scale.copy_(torch.where(self.started, self.scale, start))
                self.started.fill_(True)
        count = input[0].numel() if self.per_sample and len(input) else max(input.numel(), 1)
        gain = (count * self.quant_max) ** -0.5  # g
        return learned_step(input, self.scale, self.quant_min, self.quant_max, gain)

    def grid(self, weight: Tensor | None = None) -> Grid:
        """The grid of the learned step; it does not depend on the weight."""
        zero_point = torch.zeros((), dtype=torch.int32, device=self.scale.device)
        return Grid(self.scale.detach(), zero_point, self.quant_min, self.quant_max)


class QATLinear(nn.Module):
    """A linear layer that trains as if input, weight and output were integers; weight and bias stay floating-point.

    Args:
        in_features, out_features, bias: as in `Linear`, which weight and bias are initialised as.
        bits: of the weight, 2 to 8. Input and output have 8.
        per_channel: if True, each output of the weight has its own grid; if False, there is one for all.

    Attributes:
        weight, bias: the only parameters, with the shapes of `Linear`; bias may be None.
        input_quantizer, output_quantizer: `FakeQuantize` of 8 bits.
        weight_quantizer: a `WeightFakeQuantize`; may be replaced by a `LearnedStepQuantizer`.

    Raises:
        ValueError: an argument out of range, or an input whose last dimension is not `in_features`.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, bits: int = 8, per_channel: bool = True):
        super().__init__()
        check_bits(bits, 8)
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
        check_last(input, self.in_features)
        output = self.input_quantizer(input) @ self.weight_quantizer(self.weight).T
        return self.output_quantizer(output if self.bias is None else output + self.bias)

    def to_quantized(self) -> QuantizedLinear:
        """The layer in integers, on the grids that it was trained on."""
        weight: Grid = self.weight_quantizer.grid(self.weight)
        return QuantizedLinear.from_float(self, weight, self.input_quantizer.grid(), self.output_quantizer.grid())


def prepare_qat(model: nn.Module, bits: int = 8, per_channel: bool = True) -> nn.Module:
    """A copy of the model whose linear layers train as if they were integers.

    Args:
        model: linear layers are the modules with in_features and a matrix `weight`. Their mode and dtype are kept.
        bits, per_channel: as in `QATLinear`.

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
