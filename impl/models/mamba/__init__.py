"""Mamba: a language model of selective state spaces, in time linear in the length and with a state of one size.

Gu & Dao 2023, arXiv:2312.00752, §3.4, figure 3 and algorithm 2. A block, for tokens x_t of width D:

    u, z = W_in x          two branches of width E·D
    u ← SiLU(conv(u))      one causal filter of a few taps for each channel
    δ, B, C = W_x u,   Δ = softplus(W_Δ δ + b_Δ),   A = −exp(A_log)        what is read and kept depends on the input
    y = SSM(A, B, C, Δ)(u) + D ⊙ u,   output = W_out (y ⊙ SiLU(z))

    model: x ← x + block(RMSNorm(x)) for each layer, logits = E · RMSNorm(x) with the embedding E

Convention: parameters are named and laid out as in the official code, so that released weights load; Euler's B̄ = ΔB.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.rms_norm import RMSNorm
from ._mamba_block import MambaBlock, MambaState, check_sizes
from ._selective_scan import associative_scan, combine, discretize, selective_scan

__all__ = ["Mamba", "MambaBlock", "MambaState", "associative_scan", "combine", "discretize", "selective_scan"]


class Mamba(nn.Module):
    """Predicts the next token at each place.

    Args:
        vocab_size: how many tokens there are.
        d_model: D.
        n_layer: blocks.
        d_state, d_conv, expand, dt_rank: of each block, as in `MambaBlock`.
        eps: added to the mean square in RMSNorm.

    Raises:
        ValueError: a size below 1, a negative eps; tokens of another shape or dtype, states of another
            batch or number.

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
        self.lm_head = Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.backbone["embeddings"].weight
        with torch.no_grad():
            self.lm_head.weight.normal_(std=0.02)
            for block in blocks:  # n_layer outputs add up on the residual path, as in GPT-2
                block.out_proj.weight /= math.sqrt(n_layer)

    def empty_states(self) -> list[MambaState]:
        """A state for each block, before any token."""
        return [MambaState() for _ in self.backbone["layers"]]

    def forward(self, tokens: Int[Tensor, "b t"], states: list[MambaState] | None = None) -> Float[Tensor, "b t v"]:
        """Logits of the token after each.

        Args:
            states: as `empty_states` gives them; they take these tokens in, and the next call goes on from there.
        """
        if tokens.dim() != 2 or not tokens.shape[1] or tokens.is_floating_point():
            found = f"{tuple(tokens.shape)} of {tokens.dtype}"
            raise ValueError(f"expected tokens (batch, length >= 1) of whole numbers, got {found}")
        layers = self.backbone["layers"]
        states = [None] * len(layers) if states is None else states
        if len(states) != len(layers):
            raise ValueError(f"expected {len(layers)} states, one for each layer, got {len(states)}")
        x = self.backbone["embeddings"](tokens)
        for layer, state in zip(layers, states):
            x = x + layer["mixer"](layer["norm"](x), state)
        return self.lm_head(self.backbone["norm_f"](x))

    @torch.no_grad()
    def generate(
        self, tokens: Int[Tensor, "b t"], count: int, temperature: float = 0.0, generator: Generator | None = None
    ) -> Int[Tensor, "b n"]:
        """The tokens and `count` more, each made from the states and the last one alone.

        Args:
            temperature: 0 for the likeliest token, else drawn from softmax(logits/temperature).
            generator: draws; torch's own if not given.

        Raises:
            ValueError: a negative count or temperature.
        """
        if count < 0 or temperature < 0:
            raise ValueError(f"expected count >= 0 and temperature >= 0, got {count} and {temperature}")
        states, new = self.empty_states(), tokens
        for _ in range(count):
            logits = self(new, states)[:, -1]
            if temperature:
                new = (logits / temperature).softmax(-1).multinomial(1, generator=generator)
            else:
                new = logits.argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens
