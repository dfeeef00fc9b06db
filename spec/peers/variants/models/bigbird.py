"""Block-sparse attention with random blocks drawn by crossing off a table, and keys gathered by what is left open."""

import torch
from torch import nn


class BlockSparseAttention(nn.Module):
    def __init__(
        self,
        embed_dim,
        num_heads,
        block_size=64,
        num_random_blocks=3,
        num_window_blocks=3,
        num_global_blocks=2,
        max_blocks=64,
        dropout=0.0,
        bias=True,
    ):
        super().__init__()
        self.heads, self.size, self.reach, self.p = num_heads, block_size, num_window_blocks // 2, dropout
        self.ends = (num_global_blocks + 1) // 2, num_global_blocks // 2
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(embed_dim, embed_dim, bias) for _ in "qkvo")
        self.register_buffer("draws", torch.randint(2**62, (num_heads, max_blocks, num_random_blocks)))

    def forward(self, input, key_mask=None):
        b, n, d = input.shape
        there = input.new_ones(b, n, dtype=torch.bool) if key_mask is None else key_mask
        blocks = -(-n // self.size)
        missing = blocks * self.size - n
        input = nn.functional.pad(input, (0, 0, 0, missing))
        there = nn.functional.pad(there, (0, missing)).view(b, blocks, self.size)
        query, key, value = (
            part(input).view(b, blocks, self.size, self.heads, d // self.heads)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        place = torch.arange(blocks, device=input.device)
        is_global = (place < self.ends[0]) | (place >= blocks - self.ends[1])
        rows = (
            place[is_global]
            if blocks <= sum(self.ends)
            else torch.cat([place[: self.ends[0]], place[blocks - self.ends[1] :]])
        )
        few = place[0:0] if blocks <= sum(self.ends) else place[self.ends[0] : blocks - self.ends[1]]
        rows = place if blocks <= sum(self.ends) else rows
        outputs = torch.zeros_like(query)
        whole = torch.einsum("bqihd,bkjhd->bhqikj", query[:, rows], key)
        weights = self._weigh(whole.flatten(4), there.flatten(1)[:, None, None, None])
        read = torch.einsum("bhqin,bnhd->bqihd", weights, value.flatten(1, 2))
        outputs = outputs.index_copy(1, rows, read)
        open_, count = self._open(few, is_global)
        order = open_.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]  # (heads, few, count)
        valid = open_.gather(-1, order)
        head = torch.arange(self.heads, device=input.device)[:, None, None]
        near_key, near_value = (
            t.transpose(2, 3)[:, order, head] for t in (key, value)
        )  # (b, heads, few, count, size, d)
        scores = torch.einsum("bqihd,bhqcjd->bhqicj", query[:, few], near_key).flatten(4)
        mask = (there[:, order] & valid[..., None]).flatten(3)[:, :, :, None]
        weights = self._weigh(scores, mask)
        read = torch.einsum("bhqin,bhqnd->bqihd", weights, near_value.flatten(3, 4))
        outputs = outputs.index_copy(1, few, read)
        return self.out_proj(outputs.reshape(b, blocks * self.size, d)[:, :n])

    def _open(self, few, is_global):
        """Which blocks each of the few reads, (heads, few, blocks), and how many at most."""
        place = torch.arange(len(is_global), device=few.device)
        read = is_global | ((few[:, None] - place).abs() <= self.reach)
        left = (~read).expand(self.heads, -1, -1)
        for draw in self.draws[:, few].unbind(2):
            number = left.to(torch.int32).cumsum(-1) - 1
            chosen = draw % left.sum(-1).clamp(min=1)
            left = left & (number != chosen[..., None])
        count = sum(self.ends) + 2 * self.reach + 1 + self.draws.shape[2]
        return ~left, count

    def _weigh(self, scores, allowed):
        scores = scores / (self.q_proj.in_features // self.heads) ** 0.5
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~allowed, 0)
        return nn.functional.dropout(weights, self.p, self.training)
