"""Mamba: a language model of selective state spaces, in time linear in the length and with a state of constant size.

Gu & Dao 2023, arXiv:2312.00752, §3.4 and figure 3.

    x ← x + block(RMSNorm(x)) for each layer,   logits = E · RMSNorm(x),   with the embedding E as output matrix

The block is that of `block.py`, the recurrence in it that of `impl/layers/selective_scan.py`.

Convention: parameters are named and laid out as in the official code, so that released weights load; Euler's B̄ = ΔB.
E is one parameter under one name, `backbone.embeddings.weight`: a state dict's `lm_head.weight`, which is E again in
released weights, is accepted and not written.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ...layers.checks import check_not_negative, check_sizes
from ...layers.embedding import Embedding
from ...layers.rms_norm import RMSNorm
from ...layers.selective_scan import associative_scan, combine, discretize, selective_scan
from .block import MambaBlock, MambaState

__all__ = ["Mamba", "MambaBlock", "MambaState", "associative_scan", "combine", "discretize", "selective_scan"]


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
    Convention: the embedding is initialised as N(0, 0.02²), and each out_proj as a linear layer's over √n_layer.
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
