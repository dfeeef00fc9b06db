"""Observers: modules that return their input and remember its range, from which a grid follows.

    min-max          a ← min(a, min x),  b ← max(b, max x)           Krishnamoorthi 2018, arXiv:1806.08342, §2
    moving average   a ← a + c (min x − a),  b ← b + c (max x − b)   Jacob et al. 2017, arXiv:1712.05877, §3.1
    percentile       a, b: the quantiles 1 − p and p of all elements Wu et al. 2020, arXiv:2004.09602, §3.1

Convention: the first batch initialises the moving average; ranges are kept in the dtype of the module (float32).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .grid import EPSILON, Grid, grid_of_range, integer_range, readable


class _RangeObserver(nn.Module):
    def __init__(self, bits: int = 8, symmetric: bool = False, channels: int | None = None, axis: int = 0):
        super().__init__()
        self.quant_min, self.quant_max = integer_range(bits, symmetric)
        if channels is not None and channels < 1:
            raise ValueError(f"expected channels >= 1, got {channels}")
        self.bits, self.symmetric, self.channels, self.axis = bits, symmetric, channels, axis
        shape = () if channels is None else (channels,)
        # An empty range, low above high, says that nothing was seen.
        self.register_buffer("min_val", torch.full(shape, torch.inf))
        self.register_buffer("max_val", torch.full(shape, -torch.inf))

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if input.numel():
            with torch.no_grad():
                low, high = self._range(input)
                self.min_val.copy_(self._update(self.min_val, low, torch.minimum))
                self.max_val.copy_(self._update(self.max_val, high, torch.maximum))
        return input

    def grid(self) -> Grid:
        """S and Z of the range seen so far.

        Raises:
            ValueError: nothing was seen.
        """
        if readable(self.min_val) and not (self.min_val <= self.max_val).all():
            raise ValueError("expected at least one batch to be observed, got none")
        return grid_of_range(self.min_val, self.max_val, self.bits, self.symmetric, self.axis)

    def _range(self, input):
        """Smallest and largest element, of all or of each channel."""
        if self.channels is None:
            low, high = torch.aminmax(input)
        else:
            if not -input.dim() <= self.axis < input.dim() or input.shape[self.axis] != self.channels:
                shape = tuple(input.shape)
                raise ValueError(f"expected {self.channels} channels in dimension {self.axis}, got shape {shape}")
            low, high = torch.aminmax(input.movedim(self.axis, 0).flatten(1), dim=1)
        return low.to(self.min_val.dtype), high.to(self.min_val.dtype)


class MinMaxObserver(_RangeObserver):
    """Remembers the smallest and the largest element of everything that it was given.

    Args:
        bits: of the integers, 2 to 16.
        symmetric: if True, Z = 0 and integers ±(2ᵇⁱᵗˢ⁻¹ − 1); if False, integers 0 … 2ᵇⁱᵗˢ − 1.
        channels: how many channels get a range of their own; None for one range of all elements.
        axis: the dimension of the channels.

    Attributes:
        min_val, max_val: the range seen so far, buffers of shape () or (channels,).

    An empty batch changes nothing. Ranges carry no gradient.

    Raises:
        ValueError: an argument out of range, or an input with another number of channels.

    Source: Krishnamoorthi 2018, arXiv:1806.08342, section 2.
    """

    def _update(self, seen, new, choose):
        return choose(seen, new)


class MovingAverageMinMaxObserver(_RangeObserver):
    """Follows the batches' smallest and largest elements: one outlier does not widen the range for ever.

    Args:
        bits, symmetric, channels, axis: as in `MinMaxObserver`.
        averaging_constant: c, the weight of the new batch, above 0 and at most 1.

    Attributes:
        min_val, max_val: as those of `MinMaxObserver`; the first batch initialises them.

    Raises:
        ValueError: as `MinMaxObserver`.

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
        super().__init__(bits, symmetric, channels, axis)
        if not 0 < averaging_constant <= 1:
            raise ValueError(f"expected averaging_constant above 0 and at most 1, got {averaging_constant}")
        self.averaging_constant = averaging_constant

    def _update(self, seen, new, choose):
        return torch.where(seen.isinf(), new, seen + self.averaging_constant * (new - seen))


class PercentileObserver(nn.Module):
    """Leaves out the most extreme elements: a few outliers do not cost all others their precision.

    Counts in 2·bins bins around 0, of which each includes its lower end. The largest magnitude of the first batch is
    where they end. Where a batch exceeds them their width doubles until it fits, and neighbours are counted together,
    so that old counts stay exact. At each end the outermost bins are left out that together hold at most 1 − p.

    Args:
        bits, symmetric: as in `MinMaxObserver`.
        percentile: p in percent; the share 1 − p is left out at each end.
        bins: on each side of 0; the range is exact to the width of one.

    Raises:
        ValueError: an argument out of range.

    Source: Wu et al. 2020, arXiv:2004.09602, section 3.1.
    """

    def __init__(self, bits: int = 8, symmetric: bool = False, percentile: float = 99.9, bins: int = 2048):
        super().__init__()
        self.quant_min, self.quant_max = integer_range(bits, symmetric)
        if not 50 < percentile <= 100:
            raise ValueError(f"expected percentile above 50 and at most 100, got {percentile}")
        if bins < 1:
            raise ValueError(f"expected bins >= 1, got {bins}")
        self.bits, self.symmetric, self.percentile, self.bins = bits, symmetric, percentile, bins
        self.register_buffer("counts", torch.zeros(2 * bins, dtype=torch.int64))
        self.register_buffer("width", torch.zeros(()))

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if input.numel():
            with torch.no_grad():
                self._count(input.detach().flatten().to(self.width.dtype))
        return input

    def _count(self, x):
        fitting = (x.abs().amax() / self.bins).clamp(min=EPSILON)
        width = torch.where(self.width > 0, self.width, fitting)
        doublings = (fitting / width).log2().ceil().clamp(min=0)
        width = width * doublings.exp2()
        old = torch.arange(-self.bins, self.bins, device=x.device) >> doublings.long()  # rounds down, left of 0 too
        new = (x / width).floor().clamp(-self.bins, self.bins - 1).long()
        counts = torch.zeros_like(self.counts).index_add(0, old + self.bins, self.counts)
        self.counts.copy_(counts.index_add(0, new + self.bins, torch.ones_like(new)))
        self.width.copy_(width)

    def grid(self) -> Grid:
        """S and Z of the range between the two percentiles of what was seen so far.

        Raises:
            ValueError: nothing was seen.
        """
        total = self.counts.sum()
        if readable(total) and not total:
            raise ValueError("expected at least one batch to be observed, got none")
        left_out = (1 - self.percentile / 100) * total
        below = (self.counts.cumsum(0) <= left_out).sum()  # whole bins at the lower end, and at the upper
        above = (self.counts.flip(0).cumsum(0) <= left_out).sum()
        low, high = (below - self.bins) * self.width, (self.bins - above) * self.width
        return grid_of_range(low, high, self.bits, self.symmetric)
