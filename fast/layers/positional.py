"""Positions of tokens: attention treats them as a set, so where each stands has to be put into its features.

Vaswani et al. 2017, arXiv:1706.03762, §3.5; rotary: Su et al. 2021 (RoFormer), arXiv:2104.09864, §3.4.

    sinusoidal   x + PE(p),   PE(p)_2i = sin(p ω_i),   PE(p)_2i+1 = cos(p ω_i),   ω_i = 10000^(−2i/d)
    learned      x + E_p
    rotary       R(p) x, which turns the pair (x_2i, x_2i+1) by the angle p θ_i,  θ_i = 10000^(−2i/d),
                 so that ⟨R(m) q, R(n) k⟩ = ⟨q, R(n − m) k⟩ depends on the distance alone

Convention: positions count from 0. Sines and cosines alternate as in the paper; tensor2tensor's code has all sines
first. Rotary pairs are neighbours as in the paper (`interleaved`), or feature i with feature i + d/2 as in the released
code of GPT-NeoX and Hugging Face's LLaMA. Angles are float64, whatever the dtype of x.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ._opaque import turns
from ._rotary import interpolated_frequencies, llama3_frequencies, ntk_frequencies, rotary_frequencies, rotate
from .dropout import Dropout

__all__ = [
    "LearnedPositionalEmbedding",
    "RotaryEmbedding",
    "SinusoidalPositionalEncoding",
    "interpolated_frequencies",
    "llama3_frequencies",
    "ntk_frequencies",
    "rotary_frequencies",
    "sinusoids",
    "token_positions",
]


_STRIDE = 32


def sinusoids(
    positions: Int[Tensor, "*shape"] | Float[Tensor, "*shape"], d_model: int, base: float = 10000.0
) -> Float[Tensor, "*shape d"]:
    """PE of every position, float64: the d_model/2 pairs of a sine and a cosine, from the fastest to the slowest.

    Raises:
        ValueError: d_model odd or below 2, base <= 0.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §3.5.
    """
    angles = positions[..., None] * rotary_frequencies(d_model, base).to(positions.device)
    opaque = torch.compiler.is_compiling() and not angles.requires_grad
    pairs = turns(angles) if opaque else torch.stack([angles.sin(), angles.cos()], dim=-1)
    return pairs.flatten(-2)


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
        rotary_frequencies(d_model, base)  # is there such an encoding?
        self.d_model, self.base = d_model, base
        self.dropout = Dropout(dropout)

    def forward(
        self, input: Float[Tensor, "b t d"], positions: int | Int[Tensor, " t"] | Int[Tensor, "b t"] = 0
    ) -> Float[Tensor, "b t d"]:
        """The sum of tokens and positions.

        Args:
            positions: of the first token, which the others follow, or of each token.
        """
        places = _positions(input, self.d_model, positions)
        if isinstance(positions, int) and places.shape[0] > _STRIDE and not torch.compiler.is_compiling():
            encoding = _consecutive_sinusoids(places, self.d_model, self.base, input.dtype)
        else:
            encoding = sinusoids(places, self.d_model, self.base).to(input.dtype)
        return self.dropout(input + encoding)

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
        for name, size in (("max_len", max_len), ("d_model", d_model)):
            if size < 1:
                raise ValueError(f"expected {name} >= 1, got {size}")
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
        with torch.device("cpu"):  # numbers are wanted, also where a model is built without memory
            own = rotary_frequencies(rotary_dim, base)
        frequencies = own if frequencies is None else frequencies
        if rotary_dim > dim or frequencies.shape != (rotary_dim // 2,):
            found = f"rotary_dim {rotary_dim} and {tuple(frequencies.shape)} frequencies"
            raise ValueError(f"expected rotary_dim <= {dim} and half as many frequencies, got {found}")
        self.dim, self.rotary_dim, self.interleaved = dim, rotary_dim, interleaved
        # Numbers, and no buffer: a module that is cast to bfloat16 would take a buffer along.
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
        if self.rotary_dim == self.dim:
            return rotate(input, angles, self.interleaved)
        turned, kept = input.split([self.rotary_dim, self.dim - self.rotary_dim], dim=-1)
        return torch.cat([rotate(turned, angles, self.interleaved), kept], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, rotary_dim={self.rotary_dim}, interleaved={self.interleaved}"


def _consecutive_sinusoids(positions, d_model, base, dtype):
    """`sinusoids` of positions p, p + 1, …, from those of every 32nd and of the steps between.

    sin(a + b) = sin a cos b + cos a sin b,   cos(a + b) = cos a cos b − sin a sin b
    """
    frequencies = rotary_frequencies(d_model, base).to(positions.device)
    a = positions[::_STRIDE, None, None] * frequencies  # (⌈T/32⌉, 1, half)
    b = torch.arange(_STRIDE, device=positions.device)[:, None] * frequencies  # (32, half)
    sin_a, cos_a, sin_b, cos_b = a.sin(), a.cos(), b.sin(), b.cos()
    sin = (sin_a * cos_b).addcmul_(cos_a, sin_b).to(dtype)
    cos = (cos_a * cos_b).addcmul_(sin_a, sin_b, value=-1).to(dtype)
    return torch.stack([sin, cos], -1).flatten(2).flatten(0, 1)[: positions.shape[0]]


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
