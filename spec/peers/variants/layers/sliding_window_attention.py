"""Sliding-window attention that gathers each token's w + 1 keys, with torch.nn's linear layers and autograd alone."""

import torch
from torch import nn


class SlidingWindowAttention(nn.Module):
    def __init__(self, embed_dim, num_heads, window, dilation=1, dropout=0.0, bias=True, global_attention=True):
        super().__init__()
        self.heads, self.head_dim, self.p = num_heads, embed_dim // num_heads, dropout
        self.steps = dilation * torch.arange(-(window // 2), window // 2 + 1)
        names = ["q", "k", "v", *(["q_global", "k_global", "v_global"] if global_attention else [])]
        for name in names:
            self.add_module(f"{name}_proj", nn.Linear(embed_dim, embed_dim, bias))
        for name in names[3:]:
            local = self.get_submodule(f"{name[0]}_proj")
            self.get_submodule(f"{name}_proj").load_state_dict(local.state_dict())
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)

    def forward(self, input, global_positions=None, key_mask=None):
        b, n, _ = input.shape
        there = torch.ones(b, n, dtype=torch.bool, device=input.device) if key_mask is None else key_mask
        query, key, value = (self.project(name, input) for name in "qkv")  # (b, n, heads, width)
        place = torch.arange(n, device=input.device)[:, None] + self.steps.to(input.device)
        within = (place >= 0) & (place < n)
        place = place.clamp(0, n - 1)
        local = there
        if global_positions is not None:
            same = global_positions[:, :, None] == global_positions[:, None]
            exists = (global_positions >= 0) & (
                same.int().argmax(-1) == torch.arange(same.shape[1], device=input.device)
            )
            index = global_positions.clamp(min=0)
            marked = torch.zeros(b, n, device=input.device).scatter_add(1, index, exists.float()) > 0
            local = there & ~marked
        scores = torch.einsum("bihd,biwhd->bihw", query, key[:, place])
        allowed = (local[:, place] & within)[:, :, None]
        if global_positions is not None:
            rows = torch.arange(b, device=input.device)[:, None]
            scores = torch.cat([scores, torch.einsum("bihd,bghd->bihg", query, key[rows, index])], -1)
            columns = (exists & there.gather(1, index))[:, None, None].expand(b, n, 1, -1)
            allowed = torch.cat([allowed, columns], -1)
        weights = self.weigh(scores, allowed)
        window = len(self.steps)
        read = torch.einsum("bihw,biwhd->bihd", weights[..., :window], value[:, place])
        if global_positions is not None:
            read = read + torch.einsum("bihg,bghd->bihd", weights[..., window:], value[rows, index])
            special, every, values = (self.project(f"{name}_global", input) for name in "qkv")
            scores = torch.einsum("bghd,bjhd->bghj", special[rows, index], every)
            own = torch.einsum("bghj,bjhd->bghd", self.weigh(scores, there[:, None, None]), values)
            chosen = exists[:, :, None] & (index[:, :, None] == torch.arange(n, device=input.device))
            own = torch.einsum("bgi,bghd->bihd", chosen.to(own.dtype), own)
            read = torch.where(marked[:, :, None, None], own, read)
        return self.out_proj(read.flatten(2))

    def project(self, name, tokens):
        return self.get_submodule(f"{name}_proj")(tokens).unflatten(-1, (self.heads, self.head_dim))

    def weigh(self, scores, allowed):
        scores = (scores / self.head_dim**0.5).masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).masked_fill(~allowed, 0)
        return nn.functional.dropout(weights, self.p, self.training)
