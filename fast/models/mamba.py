"""Mamba: the language model of `impl.models.mamba`, on a selective scan whose backward pass is written out.

Gu & Dao 2023, arXiv:2312.00752, §3.4-3.6, figure 3 and algorithm 2.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ..layers.checks import check_not_negative, check_sizes
from ..layers.embedding import Embedding
from ..layers.gated import swish
from ..layers.linear import Linear
from ..layers.numerics import at_least_float32, softplus
from ..layers.rms_norm import RMSNorm
from ..layers.selective_scan import associative_scan, combine, discretize, selective_scan

__all__ = ["Mamba", "MambaBlock", "MambaState", "associative_scan", "combine", "discretize", "selective_scan"]


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


class Mamba(nn.Module):
    """Predicts the next token at each position.

    Args:
        vocab_size: number of tokens.
        d_model: D.
        n_layer: number of blocks.
        d_state, d_conv, expand, dt_rank: of each block, as in `MambaBlock`.
        eps: added to the mean square in RMSNorm.

    Raises:
        ValueError: a size below 1, a negative eps; tokens of another shape or dtype, states of another
            batch or number; a state dict whose `lm_head.weight` is not the embedding.

    Source: Gu & Dao 2023, arXiv:2312.00752, §3.4 and appendix E.2.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layer: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        check_sizes(vocab_size=vocab_size, d_model=d_model, n_layer=n_layer)
        blocks = [MambaBlock(d_model, d_state, d_conv, expand, dt_rank) for _ in range(n_layer)]
        layers = [nn.ModuleDict({"norm": RMSNorm(d_model, eps), "mixer": block}) for block in blocks]
        parts = {"embeddings": Embedding(vocab_size, d_model), "layers": nn.ModuleList(layers)}
        self.backbone = nn.ModuleDict(parts | {"norm_f": RMSNorm(d_model, eps)})
        self.register_load_state_dict_pre_hook(_without_head)
        with torch.no_grad():
            self.backbone["embeddings"].weight.normal_(std=0.02)
            for block in blocks:  # n_layer outputs add up on the residual path, as in GPT-2
                block.out_proj.weight /= math.sqrt(n_layer)

    def empty_states(self) -> list[MambaState]:
        """A state for each block, before any token."""
        return [MambaState() for _ in self.backbone["layers"]]

    def forward(self, tokens: Int[Tensor, "b t"], states: list[MambaState] | None = None) -> Float[Tensor, "b t v"]:
        """Logits of the token after each.

        Args:
            states: from `empty_states`; they are brought up to date, and the next call continues from there.
        """
        if tokens.dim() != 2 or not tokens.shape[1] or tokens.is_floating_point():
            found = f"{tuple(tokens.shape)} of {tokens.dtype}"
            raise ValueError(f"expected tokens (batch, length >= 1) of whole numbers, got {found}")
        layers = self.backbone["layers"]
        states = self.empty_states() if states is None else states
        if len(states) != len(layers):
            raise ValueError(f"expected {len(layers)} states, one for each layer, got {len(states)}")
        x = self.backbone["embeddings"](tokens)
        for layer, state in zip(layers, states):
            x = x + layer["mixer"](layer["norm"](x), state)
        return self.backbone["norm_f"](x) @ self.backbone["embeddings"].weight.T

    @torch.no_grad()
    def generate(
        self, tokens: Int[Tensor, "b t"], count: int, temperature: float = 0.0, generator: Generator | None = None
    ) -> Int[Tensor, "b n"]:
        """The tokens and `count` more, each computed from the states and the last token alone.

        Args:
            temperature: 0 for the most probable token, else sampled from softmax(logits/temperature).
            generator: source of randomness; default torch's own.

        Raises:
            ValueError: a negative count or temperature.
        """
        check_not_negative(count=count, temperature=temperature)
        states, new = self.empty_states(), tokens
        for _ in range(count):
            logits = self(new, states)[:, -1]
            if temperature:
                new = (logits / temperature).softmax(-1).multinomial(1, generator=generator)
            else:
                new = logits.argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens


def _without_head(module, state, prefix, *_):
    """Takes the second name of the embedding out of a state dict."""
    head, table = state.pop(f"{prefix}lm_head.weight", None), state.get(f"{prefix}backbone.embeddings.weight")
    if head is not None and table is not None and head is not table and not torch.equal(head, table):
        raise ValueError("expected lm_head.weight to be the embedding, as in released weights, got another matrix")
