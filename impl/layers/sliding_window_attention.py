"""Sliding-window attention: a token attends to its neighbours and a few global tokens, at a cost linear in the length.

Beltagy, Peters & Cohan 2020 (Longformer), arXiv:2004.05150, §3.1.

    sliding window w, dilation d    token i attends to tokens j with |i − j| ≤ d·w/2 and i − j a multiple of d
    global token                    attends to every token, by projections Q_g, K_g, V_g of its own, and every token
                                    attends to it

Convention: window w is the whole width, w/2 on each side and the token itself between them, as in the paper. A token
that attends to a global one uses its ordinary query and the ordinary key, and counts it once even within the window, as
in the authors' code. Global tokens are given by their positions, so that shapes do not depend on data.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .checks import check_dropout, check_sizes, check_tokens
from .linear import Linear
from .multi_head import head_width
from .scaled_dot_product import attend, scaled_dot_product_attention


class SlidingWindowAttention(nn.Module):
    """Multi-head self-attention of a window around each token and of global tokens.

    Args:
        embed_dim: width of the tokens.
        num_heads: heads; embed_dim/num_heads is their width.
        window: w, even.
        dilation: d, the distance between the tokens of a window.
        dropout: probability with which an attention weight is dropped in training.
        bias: if True, the linear layers add a bias.
        global_attention: if True, there are Q_g, K_g and V_g, which start as copies of Q, K and V.

    Raises:
        ValueError: sizes below 1 or that do not divide, an odd window, `dropout` outside [0, 1); inputs, masks or
            positions of other shapes or dtypes; global positions without `global_attention`.

    Source: Beltagy, Peters & Cohan 2020, arXiv:2004.05150, §3.1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        dilation: int = 1,
        dropout: float = 0.0,
        bias: bool = True,
        global_attention: bool = True,
    ):
        super().__init__()
        self.head_dim = head_width(embed_dim, num_heads)
        check_sizes(window=window, dilation=dilation)
        check_dropout(dropout)
        if window % 2:
            raise ValueError(f"expected an even window, half of it on each side, got {window}")
        self.embed_dim, self.reach, self.dilation, self.dropout = embed_dim, window // 2, dilation, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(embed_dim, embed_dim, bias) for _ in range(4))
        self.has_global = global_attention
        if global_attention:
            self.q_global_proj, self.k_global_proj, self.v_global_proj = (
                Linear(embed_dim, embed_dim, bias) for _ in range(3)
            )
            for name in ("q", "k", "v"):
                local, own = getattr(self, f"{name}_proj"), getattr(self, f"{name}_global_proj")
                own.load_state_dict(local.state_dict())

    def forward(
        self,
        input: Float[Tensor, "b n d"],
        global_positions: Int[Tensor, "b g"] | None = None,
        key_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Each token's new features.

        Args:
            global_positions: the positions of each sample's global tokens; −1 pads shorter rows, and a position given
                twice counts once.
            key_mask: True at tokens, False at padding, to which no token attends.
        """
        check_tokens("input", input, self.embed_dim)
        b, n, _ = input.shape
        if key_mask is not None and (key_mask.shape != (b, n) or key_mask.dtype != torch.bool):
            raise ValueError(f"expected key_mask {(b, n)} of booleans, got {tuple(key_mask.shape)} of {key_mask.dtype}")
        present = torch.ones(b, n, dtype=torch.bool, device=input.device) if key_mask is None else key_mask
        query, key, value = (self._heads(project(input)) for project in (self.q_proj, self.k_proj, self.v_proj))
        p = self.dropout if self.training else 0.0
        if global_positions is None:
            heads = self._attend_to_windows(query, key, value, present, None, None, None, p)
            return self.out_proj(heads.transpose(1, 2).flatten(2))

        if not self.has_global:
            raise ValueError("expected no global_positions without global_attention, got some")
        if global_positions.dim() != 2 or global_positions.shape[0] != b or global_positions.dtype != torch.int64:
            found = f"{tuple(global_positions.shape)} of {global_positions.dtype}"
            raise ValueError(f"expected global_positions ({b}, g) of torch.int64, got {found}")
        again = (global_positions[:, :, None] == global_positions[:, None]).tril(-1).any(2)
        exists = (global_positions >= 0) & ~again
        row = torch.where(exists, global_positions, n)  # padding goes to a row n, which is cut off again
        is_global = present.new_zeros(b, n + 1).scatter(1, row, True)[:, :n]
        index = global_positions.clamp(min=0)

        # Every token attends to its window and, once, to the global tokens.
        column = index[:, None, :, None].expand(-1, query.shape[1], -1, self.head_dim)
        visible = exists & present.gather(1, index)
        heads = self._attend_to_windows(
            query, key, value, present & ~is_global, key.gather(2, column), value.gather(2, column), visible, p
        )
        # Global tokens attend to every token, by their own projections.
        tokens = input.gather(1, index[:, :, None].expand(-1, -1, self.embed_dim))
        own = self._heads(self.q_global_proj(tokens))
        every = (self._heads(project(input)) for project in (self.k_global_proj, self.v_global_proj))
        own = scaled_dot_product_attention(own, *every, present[:, None, None], p)
        row = row[:, None, :, None].expand_as(own)
        heads = torch.cat([heads, heads[:, :, :1]], 2).scatter(2, row, own)[:, :, :n]
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def _heads(self, tokens):
        return tokens.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (b, heads, n, head_dim)

    def _attend_to_windows(self, query, key, value, present, global_key, global_value, visible, p):
        """Attention of each token to its window and to the global keys: (b, heads, n, head_dim).

        Tokens a dilation apart form a sequence of their own, and each is cut into blocks of w/2 tokens. The window of a
        token lies within its block and the two next to it: a block attends to three blocks, and a mask cuts the band.
        """
        n, w = query.shape[2], self.reach
        query, key, value = (self._blocks(t) for t in (query, key, value))  # (b, heads, d, blocks, w, head_dim)
        present = self._blocks(present[:, None, :, None])
        key, value, present = (_with_neighbours(t) for t in (key, value, present))
        offset = torch.arange(3 * w, device=query.device) - w - torch.arange(w, device=query.device)[:, None]
        mask = (offset.abs() <= w) & present.mT  # (b, 1, d, blocks, w, 3w)
        if global_key is not None:
            shape = (*query.shape[:4], -1, -1)
            key, value = (
                torch.cat([t, g[:, :, None, None].expand(shape)], 4)
                for t, g in ((key, global_key), (value, global_value))
            )
            mask = torch.cat([mask, visible[:, None, None, None, None].expand(*mask.shape[:5], -1)], 5)
        heads, _ = attend(query, key, value, mask, p)
        return heads.flatten(3, 4).transpose(2, 3).flatten(2, 3)[:, :, :n]

    def _blocks(self, t):
        """(b, heads, n, f) → (b, heads, dilation, blocks, w/2, f), padded with zeros (False) at the end."""
        step = self.reach * self.dilation
        length = -(-t.shape[2] // step) * step
        t = torch.cat([t, t.new_zeros(*t.shape[:2], length - t.shape[2], t.shape[3])], 2)
        return t.unflatten(2, (-1, self.dilation)).transpose(2, 3).unflatten(3, (-1, self.reach))

    def extra_repr(self) -> str:
        return f"window={2 * self.reach}, dilation={self.dilation}, dropout={self.dropout}"


def _with_neighbours(t):
    """Each block between the one before it and the one after it: (…, blocks, w, f) → (…, blocks, 3w, f)."""
    edge = torch.zeros_like(t[:, :, :, :1])
    padded = torch.cat([edge, t, edge], 3)
    return torch.cat([padded[:, :, :, :-2], t, padded[:, :, :, 2:]], 4)
