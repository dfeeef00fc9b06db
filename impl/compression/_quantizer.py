"""Modules that quantize what passes and give it back as floating-point numbers: on a grid that follows activations, on
that of a weight, on one that is learned.  Jacob et al. 2017, arXiv:1712.05877; Esser et al. 2019, arXiv:1902.08153.

    S, Z from a, b:  a, b ← moving average of min x, max x (activations)  or  ±max |w| (weights)   Jacob et al., §3.1
    S learned:  start 2⟨|x|⟩/√Q_P,  gradient times g = 1/√(N Q_P)                             Esser et al., §2.1, 2.2

Convention: ranges of activations move in training and stand still in evaluation; weights take the range they have now.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._grid import Grid, integer_range, weight_grid
from ._observer import MovingAverageMinMaxObserver
from ._straight_through import fake_quantize, learned_step


class FakeQuantize(nn.Module):
    """Fake quantization of an activation, whose range is followed in training and stands still in evaluation.

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
    """Fake quantization of a weight on the symmetric grid over the range that it has at this moment.

    Args:
        bits: 2 to 16.
        per_channel: a grid for each output, or one for all?

    Raises:
        ValueError: bits out of range.

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.1: a := min w, b := max w.
    """

    def __init__(self, bits: int = 8, per_channel: bool = True):
        super().__init__()
        integer_range(bits, symmetric=True)
        self.bits, self.per_channel = bits, per_channel

    def forward(self, weight: Float[Tensor, "d_out ..."]) -> Float[Tensor, "d_out ..."]:
        return fake_quantize(weight, *self.grid(weight))

    def grid(self, weight: Float[Tensor, "d_out ..."]) -> Grid:
        """The grid of this weight."""
        return weight_grid(weight, self.bits, self.per_channel)


class LearnedStepQuantizer(nn.Module):
    """Fake quantization with a step S that is learned beside the weights. The first training batch sets its start.

    Args:
        bits: 2 to 16.
        signed: integers −2ᵇⁱᵗˢ⁻¹ … 2ᵇⁱᵗˢ⁻¹ − 1 for weights, or 0 … 2ᵇⁱᵗˢ − 1 for what follows a ReLU?
        per_sample: is N of the gradient's scale 1/√(N Q_P) the size of one sample (activations) or of all (weights)?

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
        """The grid of the learned step; the weight is not looked at."""
        zero_point = torch.zeros((), dtype=torch.int32, device=self.scale.device)
        return Grid(self.scale.detach(), zero_point, self.quant_min, self.quant_max)
