"""Block-sparse attention: a block of tokens attends to a few global blocks, its neighbours, and a few random blocks.

Zaheer et al. 2020 (BigBird), arXiv:2007.14062, §2 and appendix D.

    Attn(x)_i = Σ_h softmax(Q_h(x_i) K_h(X_N(i))ᵀ/√d_k) V_h(X_N(i)),    N(i) = global ∪ window ∪ random blocks    eq. 1

Convention: global blocks are the first and the last ones of the sequence, as in the authors' code (BigBird-ITC); they
attend to every token and every token attends to them. A window counts its own block. A block counts once, however many
reasons there are to attend to it. Random blocks are sampled once, at construction, for each head and block of queries;
they are part of the state and the same in training and evaluation.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .checks import check_dropout, check_sizes, check_tokens
from .linear import Linear
from .multi_head import head_width
from .scaled_dot_product import attend


class BlockSparseAttention(nn.Module):
    """Multi-head self-attention of blocks of tokens to global, neighbouring and random blocks.

    Args:
        embed_dim: width of the tokens.
        num_heads: heads; embed_dim/num_heads is their width.
        block_size: b, tokens of a block.
        num_random_blocks: r, random blocks that a block attends to, others in each head; fewer if no more are left.
        num_window_blocks: w, odd: a block itself and as many blocks on its left as on its right.
        num_global_blocks: g, of which the first ⌈g/2⌉ are at the start of the sequence, the others at its end.
        max_blocks: the longest sequence, in blocks.
        dropout: probability with which an attention weight is dropped in training.
        bias: if True, the four projections have a bias.

    Attributes:
        draws: integers (num_heads, max_blocks, num_random_blocks), a buffer. Each chooses one of the blocks that
            are neither global, nor in the window, nor chosen: of c such blocks the one with index draw modulo c.
        q_proj, k_proj, v_proj, out_proj: the projections.

    Raises:
        ValueError: sizes below 1 (g and r: below 0) or that do not divide, an even window, `dropout` outside [0, 1);
            inputs or masks of other shapes or dtypes, sequences of more than `max_blocks` blocks.

    Source: Zaheer et al. 2020, arXiv:2007.14062, §2; blocks: appendix D.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        block_size: int = 64,
        num_random_blocks: int = 3,
        num_window_blocks: int = 3,
        num_global_blocks: int = 2,
        max_blocks: int = 64,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(embed_dim, num_heads)
        check_sizes(block_size=block_size, num_window_blocks=num_window_blocks, max_blocks=max_blocks)
        for name, size in (("num_random_blocks", num_random_blocks), ("num_global_blocks", num_global_blocks)):
            if size < 0:
                raise ValueError(f"expected {name} >= 0, got {size}")
        if num_window_blocks % 2 == 0:
            raise ValueError(f"expected an odd num_window_blocks, a block and its neighbours, got {num_window_blocks}")
        check_dropout(dropout)
        self.embed_dim, self.block_size, self.max_blocks, self.dropout = embed_dim, block_size, max_blocks, dropout
        self.num_global_blocks, self.reach = num_global_blocks, num_window_blocks // 2
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(embed_dim, embed_dim, bias) for _ in range(4))
        self.register_buffer("draws", torch.randint(2**62, (num_heads, max_blocks, num_random_blocks)))

    def forward(
        self, input: Float[Tensor, "b n d"], key_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Each token's new features.

        Args:
            key_mask: True at tokens, False at padding, to which no token attends.
        """
        check_tokens("input", input, self.embed_dim)
        b, n, _ = input.shape
        if key_mask is not None and (key_mask.shape != (b, n) or key_mask.dtype != torch.bool):
            raise ValueError(f"expected key_mask {(b, n)} of booleans, got {tuple(key_mask.shape)} of {key_mask.dtype}")
        blocks = -(-n // self.block_size)
        if blocks > self.max_blocks:
            raise ValueError(f"expected at most {self.max_blocks} blocks of {self.block_size}, got {n} tokens")
        missing = blocks * self.block_size - n
        present = torch.ones(b, n, dtype=torch.bool, device=input.device) if key_mask is None else key_mask
        present = torch.cat([present, present.new_zeros(b, missing)], 1).unflatten(1, (blocks, self.block_size))
        tokens = torch.cat([input, input.new_zeros(b, missing, self.embed_dim)], 1)
        tokens = tokens.unflatten(1, (blocks, self.block_size))
        query, key, value = (  # (b, heads, blocks, block_size, head_dim)
            project(tokens).unflatten(3, (self.num_heads, self.head_dim)).movedim(3, 1)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        front = min((self.num_global_blocks + 1) // 2, blocks)
        end = blocks - min(self.num_global_blocks // 2, blocks - front)  # from here on blocks are global again
        p = self.dropout if self.training else 0.0

        # Global blocks attend to every token.
        whole = torch.cat([query[:, :, :front], query[:, :, end:]], 2).flatten(2, 3)
        everywhere = present.flatten(1)[:, None, None]
        output, _ = attend(whole, key.flatten(2, 3), value.flatten(2, 3), everywhere, p)
        output = output.unflatten(2, (front + blocks - end, self.block_size))
        # The others attend to few blocks, which are gathered side by side.
        index, valid = self._attended(blocks, front, end)
        mask = (present[:, index] & valid[..., None]).flatten(3)[:, :, :, None]  # (b, heads, middle, 1, keys)
        few, _ = attend(query[:, :, front:end], _gather(key, index), _gather(value, index), mask, p)
        output = torch.cat([output[:, :, :front], few, output[:, :, front:]], 2)
        return self.out_proj(output.flatten(2, 3)[:, :, :n].transpose(1, 2).flatten(2))

    def _attended(self, blocks, front, end):
        """The blocks that each middle block attends to, (heads, middle, g + w + r), and which of those exist."""
        device = self.draws.device
        position = torch.arange(front, end, device=device)[:, None]
        own = torch.cat([torch.arange(front, device=device), torch.arange(end, blocks, device=device)])
        window = position + torch.arange(-self.reach, self.reach + 1, device=device)
        chosen, exists = self._random_blocks(position[:, 0], front, end)
        shape = (*chosen.shape[:2], -1)
        index = torch.cat([own.expand(shape), window.clamp(0, blocks - 1).expand(shape), chosen], 2)
        within = (window >= front) & (window < end)  # what lies outside is a global block, or no block
        valid = torch.cat([torch.ones_like(own, dtype=torch.bool).expand(shape), within.expand(shape), exists], 2)
        return index, valid

    def _random_blocks(self, position, front, end):
        """r of the blocks that are neither global nor in the window, all different, and whether that many exist."""
        low, high = (position - self.reach).clamp(min=front), (position + self.reach + 1).clamp(max=end)
        candidates = end - front - (high - low)
        chosen = torch.zeros_like(self.draws[:, front:end, :0])
        for k, draw in enumerate(self.draws[:, front:end].unbind(2)):
            choice = draw % (candidates - k).clamp(min=1)  # an index among those that are left …
            for taken in chosen.sort(2).values.unbind(2):
                choice = choice + (choice >= taken)  # … becomes an index among all
            chosen = torch.cat([chosen, choice[..., None]], 2)
        exists = torch.arange(chosen.shape[2], device=position.device) < candidates[:, None]
        index = chosen + front
        index = index + (index >= low[:, None]) * (high - low)[:, None]  # the window is skipped
        return index.clamp(max=max(end - 1, 0)), exists.expand_as(index)

    def extra_repr(self) -> str:
        shown = f"block_size={self.block_size}, num_random_blocks={self.draws.shape[2]}"
        shown += f", num_window_blocks={2 * self.reach + 1}, num_global_blocks={self.num_global_blocks}"
        return f"{shown}, dropout={self.dropout}"


def _gather(t, index):
    """The blocks of t (b, heads, blocks, tokens, f) at the indices (heads, m, l): (b, heads, m, l·tokens, f)."""
    heads, blocks = t.shape[1:3]
    flat = index + blocks * torch.arange(heads, device=t.device)[:, None, None]
    return t.flatten(1, 2).index_select(1, flat.flatten()).unflatten(1, index.shape).flatten(3, 4)
