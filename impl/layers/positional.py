"""Positions of tokens: attention treats tokens as a set, so the position of each has to be put into its features.

Vaswani et al. 2017, arXiv:1706.03762, §3.5; rotary: Su et al. 2021 (RoFormer), arXiv:2104.09864, §3.4.

    sinusoidal   x + PE(p),   PE(p)_2i = sin(p ω_i),   PE(p)_2i+1 = cos(p ω_i),   ω_i = 10000^(−2i/d)
    learned      x + E_p
    rotary       R(p) x, which rotates the pair (x_2i, x_2i+1) by the angle p θ_i,  θ_i = 10000^(−2i/d),
                 so that ⟨R(m) q, R(n) k⟩ = ⟨q, R(n − m) k⟩ depends on the distance alone

Longer texts than in training, by slower rotations:
    position interpolation   θ_i / s                                    Chen et al. 2023, arXiv:2306.15595, eq. 4
    NTK-aware                base · s^(d/(d − 2)): θ_0 is unchanged, the last is θ/s
                                                                        Peng et al. 2023, arXiv:2309.00071, eq. 16
    Llama 3.1                θ/s for slow pairs, θ for fast ones, a mixture between
                                                                        Dubey et al. 2024, arXiv:2407.21783, §3.4.2

Convention: positions and pairs count from 0: the first pair turns by one radian a position. Sines and cosines alternate
as in the paper; tensor2tensor's code has all sines first. Rotary pairs are neighbours as in the paper (`interleaved`),
or feature i with feature i + d/2 as in the released code of GPT-NeoX and Hugging Face's LLaMA. Angles are float64,
whatever the dtype of x: at position 10⁵ float32 would leave two digits of an angle's fraction.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .checks import check_sizes
from .dropout import Dropout
from .numerics import at_least_float32


def rotary_frequencies(dim: int, base: float = 10000.0) -> Float[Tensor, " half"]:
    """θ_i = base^(−2i/dim), radians a position.  Raises ValueError for an odd or too small dim, and base <= 0."""
    if dim < 2 or dim % 2:
        raise ValueError(f"expected an even number of features, 2 or more, got {dim}")
    if not base > 0:
        raise ValueError(f"expected base > 0, got {base}")
    return base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def interpolated_frequencies(frequencies: Float[Tensor, " half"], scale: float) -> Float[Tensor, " half"]:
    """θ/s: a text s times as long as those of training has no larger angles.  Raises ValueError for scale < 1.

    Source: Chen et al. 2023, arXiv:2306.15595, eq. 4.
    """
    _check_scale(scale)
    return frequencies / scale


def ntk_frequencies(dim: int, scale: float, base: float = 10000.0) -> Float[Tensor, " half"]:
    """θ of the base · s^(d/(d − 2)): the fastest is unchanged, the slowest is θ/s, the others lie between.

    Raises:
        ValueError: scale < 1, dim odd or below 4.

    Source: Peng et al. 2023, arXiv:2309.00071, eq. 16.
    """
    if dim < 4:
        raise ValueError(f"expected 4 features or more, a fastest pair and a slowest, got {dim}")
    _check_scale(scale)
    return rotary_frequencies(dim, base * scale ** (dim / (dim - 2)))


def llama3_frequencies(
    frequencies: Float[Tensor, " half"],
    scale: float = 8.0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    original_max_position: int = 8192,
) -> Float[Tensor, " half"]:
    """θ for pairs that turn more than `high_freq_factor` times in the length of training, θ/s for those that turn less
    than `low_freq_factor` times, and (1 − γ) θ/s + γ θ between, where γ grows from 0 to 1 with the number of turns.

    Raises:
        ValueError: scale < 1, or factors other than 0 < low_freq_factor < high_freq_factor.

    Source: Dubey et al. 2024 (Llama 3), arXiv:2407.21783, §3.4.2; the released code of Llama 3.1.
    """
    if not 0 < low_freq_factor < high_freq_factor:
        found = f"{low_freq_factor} and {high_freq_factor}"
        raise ValueError(f"expected 0 < low_freq_factor < high_freq_factor, got {found}")
    _check_scale(scale)
    turns = original_max_position * frequencies / (2 * math.pi)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)  # γ
    return torch.lerp(frequencies / scale, frequencies, kept)


def rotate(x: Float[Tensor, "*b t d"], angles: Tensor, interleaved: bool = True) -> Float[Tensor, "*b t d"]:
    """(a cos − b sin, a sin + b cos) for every pair (a, b) of x and its angle; layouts as in `RotaryEmbedding`."""
    wide = at_least_float32(x)
    cos, sin = angles.cos().to(wide.dtype), angles.sin().to(wide.dtype)
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else wide.chunk(2, -1)
    pairs = a * cos - b * sin, a * sin + b * cos
    return (torch.stack(pairs, -1).flatten(-2) if interleaved else torch.cat(pairs, -1)).to(x.dtype)


def sinusoids(
    positions: Int[Tensor, "*shape"] | Float[Tensor, "*shape"], d_model: int, base: float = 10000.0
) -> Float[Tensor, "*shape d"]:
    """PE of every position, float64: the d_model/2 pairs of a sine and a cosine, from the fastest to the slowest.

    Raises:
        ValueError: d_model odd or below 2, base <= 0.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.5.
    """
    angles = positions[..., None] * rotary_frequencies(d_model, base).to(positions.device)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def token_positions(key_mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """Positions of the tokens of padded texts: each text's first token has position 0, wherever its padding is.

    Args:
        key_mask: (b, t), True at tokens, False at padding, whose position is that of the token before it, or 0.
    """
    return (key_mask.cumsum(-1) - 1).clamp(min=0)


class SinusoidalPositionalEncoding(nn.Module):
    """x + PE, then dropout; it has no parameters and no longest text.

    Args:
        d_model: width of the tokens, even.
        dropout: probability with which a feature of the sum is dropped in training.
        base: the slowest pair turns once in almost 2π · base positions.

    Raises:
        ValueError: d_model odd or below 2, base <= 0, `dropout` outside [0, 1]; an input of another width, positions
            of another shape.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.5 and §5.4 (dropout of the sums).
    """

    def __init__(self, d_model: int, dropout: float = 0.0, base: float = 10000.0):
        super().__init__()
        rotary_frequencies(d_model, base)  # checks both
        self.d_model, self.base = d_model, base
        self.dropout = Dropout(dropout)

    def forward(
        self, input: Float[Tensor, "b t d"], positions: int | Int[Tensor, " t"] | Int[Tensor, "b t"] = 0
    ) -> Float[Tensor, "b t d"]:
        """The sum of tokens and positions.

        Args:
            positions: of the first token, which the others follow, or of each token.
        """
        encoding = sinusoids(_positions(input, self.d_model, positions), self.d_model, self.base)
        return self.dropout(input + encoding.to(input.dtype))

    def extra_repr(self) -> str:
        return f"{self.d_model}, base={self.base}"


class LearnedPositionalEmbedding(nn.Module):
    """x + E_p, one learned vector a position.

    Args:
        max_len: number of positions.
        d_model: width of the tokens.

    Raises:
        ValueError: a size below 1; an input of another width, positions of another shape, or a text beyond max_len.
        IndexError: one of the positions that were given as a tensor is outside [0, max_len).

    Source: Gehring et al. 2017, arXiv:1705.03122, §3.1; Radford et al. 2018 (GPT).
    Convention: E is `weight` (max_len, d_model), as an embedding's, and starts as N(0, 0.02²), GPT's.
    """

    def __init__(self, max_len: int, d_model: int):
        super().__init__()
        check_sizes(max_len=max_len, d_model=d_model)
        self.weight = nn.Parameter(torch.empty(max_len, d_model).normal_(0, 0.02))

    def forward(
        self, input: Float[Tensor, "b t d"], positions: int | Int[Tensor, " t"] | Int[Tensor, "b t"] = 0
    ) -> Float[Tensor, "b t d"]:
        """The sum of tokens and positions; `positions` as in `SinusoidalPositionalEncoding`."""
        longest, width = self.weight.shape
        places = _positions(input, width, positions)
        if isinstance(positions, int) and not 0 <= positions <= longest - input.shape[-2]:
            found = f"{input.shape[-2]} from {positions} on"
            raise ValueError(f"expected positions below max_len = {longest}, got {found}")
        return input + self.weight.index_select(0, places.flatten()).view(*places.shape, width)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class RotaryEmbedding(nn.Module):
    """Rotates the features of queries or keys by angles that grow with the position; values are not rotated.

    Args:
        dim: width of a head.
        base: of the frequencies.
        interleaved: if True, pairs are neighbours, features 2i and 2i + 1; else feature i goes with i + rotary_dim/2.
        rotary_dim: number of features that are rotated, the first ones; default dim. The others are unchanged.
        frequencies: rotary_dim/2 radians a position, in place of base's, e.g. of `llama3_frequencies`.

    Raises:
        ValueError: a width that is odd or below 2, rotary_dim > dim, base <= 0, frequencies of another number; an input
            of another width, positions of another shape.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 15 and 34; partial: Wang & Komatsuzaki 2021 (GPT-J).
    Convention: it has no parameters and no state; casts change no angle, and angles are known to a module that was
    built under the meta device.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = True,
        rotary_dim: int | None = None,
        frequencies: Float[Tensor, " half"] | None = None,
    ):
        super().__init__()
        rotary_dim = dim if rotary_dim is None else rotary_dim
        with torch.device("cpu"):  # values are needed, also where a model is built without memory
            own = rotary_frequencies(rotary_dim, base)
        frequencies = own if frequencies is None else frequencies
        if rotary_dim > dim or frequencies.shape != (rotary_dim // 2,):
            found = f"rotary_dim {rotary_dim} and {tuple(frequencies.shape)} frequencies"
            raise ValueError(f"expected rotary_dim <= {dim} and half as many frequencies, got {found}")
        self.dim, self.rotary_dim, self.interleaved = dim, rotary_dim, interleaved
        # Plain numbers: a buffer would be rounded in a module that is cast to bfloat16.
        self.frequencies = tuple(frequencies.tolist())

    def forward(
        self, input: Float[Tensor, "*batch t d"], positions: int | Int[Tensor, " t"] | Int[Tensor, "b t"] = 0
    ) -> Float[Tensor, "*batch t d"]:
        """R(p) x of queries or keys, heads in front of tokens.

        Args:
            positions: of the first token, which the others follow, as with a cache; or of each token.
        """
        places = _positions(input, self.dim, positions)
        places = places.view(*places.shape[:-1], *[1] * (input.dim() - 3), -1) if places.dim() == 2 else places
        angles = places[..., None] * torch.tensor(self.frequencies, dtype=torch.float64, device=input.device)
        rotated, kept = input.split([self.rotary_dim, self.dim - self.rotary_dim], dim=-1)
        return torch.cat([rotate(rotated, angles, self.interleaved), kept], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, rotary_dim={self.rotary_dim}, interleaved={self.interleaved}"


def _positions(input, width, positions):
    """Every token's position, (t,) or (b, t)."""
    if input.dim() < 2 or input.shape[-1] != width:
        raise ValueError(f"expected an input of shape (…, tokens, {width}), got {tuple(input.shape)}")
    tokens = input.shape[-2]
    if isinstance(positions, int):
        return torch.arange(positions, positions + tokens, device=input.device)
    if positions.shape != (tokens,) and (input.dim() < 3 or positions.shape != (input.shape[0], tokens)):
        raise ValueError(f"expected positions of ({tokens},) or (batch, {tokens}), got {tuple(positions.shape)}")
    return positions


def _check_scale(scale):
    if not scale >= 1:
        raise ValueError(f"expected scale >= 1, got {scale}")
