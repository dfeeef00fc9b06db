"""A Mamba block: projections, a causal filter and a gate around the selective scan.

Gu & Dao 2023, arXiv:2312.00752, §3.4-3.6, figure 3 and algorithm 2. For tokens x_t of width D:

    u, z = W_in x          two branches of width E·D
    u ← SiLU(conv(u))      one causal filter of a few taps for each channel
    δ, B, C = W_x u,   Δ = softplus(W_Δ δ + b_Δ),   A = −exp(A_log)        all of them depend on the input
    y = SSM(A, B, C, Δ)(u) + D ⊙ u,   output = W_out (y ⊙ SiLU(z))

Convention: the official code's names and initialisation: A = −1 … −N for every channel (S4D-Real), D = 1, Δ log-uniform
in [0.001, 0.1], W_Δ uniform in ±1/√dt_rank, the filter as torch.nn.Conv1d.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_sizes
from ...layers.gated import swish
from ...layers.linear import Linear
from ...layers.numerics import at_least_float32, softplus
from ...layers.selective_scan import selective_scan


class MambaState:
    """What a block keeps of the tokens seen, of one size however many there were; None before the first.

    `recent` (b, d_conv − 1, d_inner): the filter's last inputs; `hidden` (b, d_inner, d_state): h.
    """

    recent: Tensor | None = None
    hidden: Tensor | None = None


class MambaBlock(nn.Module):
    """The selective state-space layer between two projections, with a causal filter and a gate.

    Args:
        d_model: D, width of the tokens.
        d_state: N, states of each channel.
        d_conv: taps of the filter.
        expand: E.
        dt_rank: width of δ; None for ⌈D/16⌉.
        discretization: "euler" or "zoh".

    Raises:
        ValueError: a size below 1, another discretization; inputs of another shape, a state of another batch.

    Source: Gu & Dao 2023, arXiv:2312.00752, §3.4-3.6.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        discretization: str = "euler",
    ):
        super().__init__()
        check_sizes(d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand)
        if discretization not in ("euler", "zoh"):
            raise ValueError(f"expected discretization 'euler' or 'zoh', got {discretization!r}")
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.discretization = discretization
        self.widths = dt_rank, d_state, d_state
        self.in_proj = Linear(d_model, 2 * d_inner, bias=False)  # u and z
        self.conv1d = _CausalFilter(d_inner, d_conv)
        self.x_proj = Linear(d_inner, sum(self.widths), bias=False)  # δ, B and C
        self.dt_proj = Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))  # S4D-Real: A = −1 … −N
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = Linear(d_inner, d_model, bias=False)
        with torch.no_grad():
            # Δ is log-uniform in [0.001, 0.1] at first; x + log(1 − e^(−x)) is the inverse of softplus.
            steps = torch.empty(d_inner).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.dt_proj.bias.copy_(steps + (-(-steps).expm1()).log())

    def forward(self, input: Float[Tensor, "b t d"], state: MambaState | None = None) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            state: of the tokens before these; it is brought up to date with these.
        """
        width = self.in_proj.in_features
        if input.dim() != 3 or input.shape[-1] != width or not input.shape[1]:
            raise ValueError(f"expected input of shape (batch, tokens >= 1, {width}), got {tuple(input.shape)}")
        state = MambaState() if state is None else state
        if state.recent is not None and state.recent.shape[0] != input.shape[0]:
            raise ValueError(f"expected {state.recent.shape[0]} texts, as the state has seen, got {input.shape[0]}")
        u, z = self.in_proj(input).chunk(2, dim=-1)
        u, state.recent = self.conv1d(u, state.recent)
        u = swish(u)
        step, B, C = self.x_proj(u).split(self.widths, dim=-1)
        delta = softplus(self.dt_proj(step))
        A = -at_least_float32(self.A_log).exp()
        y, state.hidden = selective_scan(u, delta, A, B, C, self.D, state.hidden, self.discretization)
        return self.out_proj(y * swish(z))


class _CausalFilter(nn.Module):
    """y_t = b + Σ_j w_j u_{t−k+1+j}, channel by channel; parameters as in a depthwise torch.nn.Conv1d."""

    def __init__(self, channels: int, taps: int):
        super().__init__()
        bound = taps**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, input, recent):
        """The filtered input, and its last k − 1 positions for the next call; `recent` None means zeros."""
        (b, t, d), taps = input.shape, self.weight.shape[-1]
        recent = input.new_zeros(b, taps - 1, d) if recent is None else recent
        u = torch.cat([recent, input], dim=1)
        filtered = sum(w * u[:, j : j + t] for j, w in enumerate(self.weight[:, 0].unbind(-1)))
        return filtered + self.bias, u[:, t:].clone()  # a view would keep all of u
