"""Lottery tickets: a sparse subnetwork that, from its original initialisation, trains as well as the whole.

Frankle & Carbin 2018, arXiv:1803.03635; pruning by magnitude: Han et al. 2015, arXiv:1506.02626.

    1. initialise f(x; θ₀)                       3. m: of the weights that are left, drop the p % of smallest |θ_j|
    2. train to θ_j                              4. reset to θ₀, which gives f(x; m ⊙ θ₀); repeat from 2     (§1, §2)

Convention: p is a share of the weights that are left, so n rounds leave (1 − p)ⁿ; shares are rounded to whole weights
as in torch.nn.utils.prune. Biases and gains stay unless they are asked for.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.func import functional_call


def magnitude_masks(
    weights: Mapping[str, Tensor],
    amount: float | Mapping[str, float] = 0.2,
    masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
    scope: str = "layer",
) -> dict[str, Bool[Tensor, "..."]]:
    """Masks that drop a share of the smallest weights among those that are left.

    Args:
        weights: name → trained weights.
        amount: the share to drop, the same for all, or name → share.
        masks: which weights are left by now; all of them if not given.
        scope: rank weights within their "layer", or over all layers: "global".

    Returns:
        name → mask, True where the weight is kept. Where magnitudes tie, exactly as many as asked go. No weights are
        no error: their mask is empty.

    Raises:
        ValueError: a share outside of [0, 1], names or shapes that do not fit, another scope, or "global" with shares
            that differ.

    Source: Frankle & Carbin 2018, §1 and §2; "global": §4.
    """
    amounts = dict(amount) if isinstance(amount, Mapping) else dict.fromkeys(weights, amount)
    _check(weights, amounts, masks, scope)
    if masks is None:
        masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    if scope == "layer":
        return {name: _drop(w, masks[name], amounts[name]) for name, w in weights.items()}
    if not weights:
        return {}
    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    mask = _drop(flat, torch.cat([masks[name].flatten() for name in weights]), next(iter(amounts.values())))
    parts = mask.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts)}


def _drop(weight, mask, amount):
    """`mask` without the share of smallest magnitudes among what it keeps."""
    count = round(amount * int(mask.sum()))
    if count == 0:
        return mask.clone()
    magnitude = weight.detach().abs().masked_fill(~mask, math.inf).flatten()
    threshold = magnitude.kthvalue(count).values
    ties = magnitude == threshold
    going = count - (magnitude < threshold).sum()  # so many of the ties go: the first ones
    kept = (magnitude > threshold) | (ties & (ties.cumsum(0) > going))
    return kept.view_as(mask) & mask


def _check(weights, amounts, masks, scope):
    if scope not in ("layer", "global"):
        raise ValueError(f"expected scope 'layer' or 'global', got {scope!r}")
    if amounts.keys() != weights.keys():
        raise ValueError(f"expected a share for each of {sorted(weights)}, got {sorted(amounts)}")
    for name, share in amounts.items():
        if not 0 <= share <= 1:
            raise ValueError(f"expected 0 <= amount <= 1, got {share} for {name}")
    if scope == "global" and len(set(amounts.values())) > 1:
        raise ValueError(f"expected one share for scope 'global', got {sorted(set(amounts.values()))}")
    if masks is not None and {n: w.shape for n, w in weights.items()} != {n: m.shape for n, m in masks.items()}:
        raise ValueError(f"expected a mask of the same shape for each of {sorted(weights)}, got {sorted(masks)}")


class LotteryTicket(nn.Module):
    """A network f(x; m ⊙ θ) that remembers where it began.

    Training moves θ, by any optimizer, and never what the mask hides; `prune` shrinks m, `rewind` brings θ₀ back. All
    three are in the state dict. Begin each round with a fresh optimizer, as each is a training of its own.

    Args:
        model: the network, at the point to come back to: initialised, or trained for a few steps (Frankle et al. 2019,
            arXiv:1912.05671). It is used, not copied.
        amount: the share of the weights left that a round drops, from every parameter of two dimensions or more, or
            name → share for the parameters named, and no other.
        scope: rank weights within their "layer", or over all layers: "global".

    Attributes:
        model: the network, a module of this one.

    Raises:
        ValueError: as `magnitude_masks`, or no parameter of the name.

    Source: Frankle & Carbin 2018, §2, strategy 1 of appendix B.
    """

    def __init__(self, model: nn.Module, amount: float | Mapping[str, float] = 0.2, scope: str = "layer"):
        super().__init__()
        parameters = dict(model.named_parameters())
        if not isinstance(amount, Mapping):
            amount = {name: amount for name, p in parameters.items() if p.dim() >= 2}
        if not amount.keys() <= parameters.keys():
            raise ValueError(f"expected names among {sorted(parameters)}, got {sorted(amount)}")
        if not amount:
            raise ValueError("expected a parameter to prune, got none of two dimensions or more")
        self.model = model
        self.amount = dict(amount)
        self.scope = scope
        chosen = {name: parameters[name] for name in self.amount}
        _check(chosen, self.amount, None, scope)
        self.kept = _Tensors({name: torch.ones_like(p, dtype=torch.bool) for name, p in chosen.items()})
        self.initial = _Tensors({name: t.detach().clone() for name, t in model.state_dict().items()})

    def forward(self, *inputs):
        return functional_call(self.model, self.weights(), inputs)

    @property
    def masks(self) -> dict[str, Bool[Tensor, "..."]]:
        """m: name → which weights are left, the tensors themselves: what is written into them counts."""
        return self.kept.named()

    def weights(self) -> dict[str, Tensor]:
        """m ⊙ θ: name → weights of the prunable layers, exactly 0 where pruned."""
        parameters = dict(self.model.named_parameters())
        # Cast first: a product of one dtype is the faster one.
        return {name: parameters[name] * mask.to(parameters[name].dtype) for name, mask in self.masks.items()}

    def density(self) -> float:
        """The share of the prunable weights that is left."""
        masks = self.masks.values()
        return sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    @torch.no_grad()
    def prune(self) -> None:
        """Drop the smallest of the weights left, as they are now, by their share; parameters are 0 where pruned."""
        trained = {name: self.model.get_parameter(name) for name in self.amount}
        for name, mask in magnitude_masks(trained, self.amount, self.masks, self.scope).items():
            self.masks[name].copy_(mask)
            trained[name].mul_(mask)

    @torch.no_grad()
    def rewind(self) -> None:
        """Give every parameter and buffer its first value again, and 0 to what is pruned."""
        self.model.load_state_dict(self.initial.named())
        for name, mask in self.masks.items():
            self.model.get_parameter(name).mul_(mask)


class _Tensors(nn.Module):
    """Named tensors that move with a module and are saved with it; a buffer's own name may have no dot."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "/"), tensor)

    def named(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): tensor for name, tensor in self.named_buffers()}
