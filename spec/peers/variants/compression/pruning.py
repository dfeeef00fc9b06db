"""Pruning by a stable sort; masks in one flat buffer, which choose between a weight and 0."""

import torch
from torch import nn


def magnitude_masks(weights, amount=0.2, masks=None, scope="layer"):
    amounts = amount if isinstance(amount, dict) else dict.fromkeys(weights, amount)
    if masks is None:
        masks = {name: torch.full(w.shape, True) for name, w in weights.items()}
    found = {name: m.clone(memory_format=torch.contiguous_format) for name, m in masks.items()}
    groups = [[name] for name in weights] if scope == "layer" else [list(weights)] if weights else []
    for names in groups:
        magnitudes = torch.cat([weights[n].detach().abs().reshape(-1) for n in names])
        kept = torch.cat([found[n].reshape(-1) for n in names])
        count = round(amounts[names[0]] * int(kept.sum()))
        # What is gone sorts last; the smallest of the rest go now.
        ranked = magnitudes.double().masked_fill(~kept, float("inf")).argsort(stable=True)
        kept[ranked[:count]] = False
        start = 0
        for n in names:
            size = found[n].numel()
            found[n] = kept[start : start + size].reshape(found[n].shape).clone()
            start += size
    return found


class LotteryTicket(nn.Module):
    """First values are buffers by number; rewinding copies them entry by entry."""

    def __init__(self, model, amount=0.2, scope="layer"):
        super().__init__()
        self.model = model
        if not isinstance(amount, dict):
            amount = {n: amount for n, p in model.named_parameters() if p.dim() > 1}
        self.amount, self.scope = amount, scope
        self._places, start = {}, 0
        for name in amount:
            p = model.get_parameter(name)
            self._places[name] = (start, p.shape)
            start += p.numel()
        self.register_buffer("mask", torch.full((start,), True))
        self._first = list(model.state_dict())
        for n, value in enumerate(model.state_dict().values()):
            self.register_buffer(f"first_{n}", value.detach().clone())

    @property
    def masks(self):
        return {n: self.mask[a : a + shape.numel()].view(shape) for n, (a, shape) in self._places.items()}

    def weights(self):
        parameters = dict(self.model.named_parameters())
        return {n: torch.where(mask, parameters[n], torch.zeros_like(parameters[n])) for n, mask in self.masks.items()}

    def density(self):
        return int(self.mask.sum()) / self.mask.numel()

    def forward(self, *inputs):
        everything = dict(self.model.named_parameters()) | dict(self.model.named_buffers()) | self.weights()
        return torch.func.functional_call(self.model, everything, inputs, strict=True)

    @torch.no_grad()
    def prune(self):
        trained = {n: self.model.get_parameter(n) for n in self.amount}
        masks = magnitude_masks(trained, self.amount, self.masks, self.scope)
        self.mask.copy_(torch.cat([m.reshape(-1) for m in masks.values()]))
        self._clear()

    @torch.no_grad()
    def rewind(self):
        state = self.model.state_dict()
        for n, name in enumerate(self._first):
            state[name].copy_(getattr(self, f"first_{n}"))
        self._clear()

    def _clear(self):
        for name, mask in self.masks.items():
            self.model.get_parameter(name).masked_fill_(~mask, 0)
