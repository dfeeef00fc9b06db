"""Masks by torch.nn.utils.prune. It knows no rewinding, so it has no LotteryTicket."""

import torch
from torch import nn
from torch.nn.utils import prune


def magnitude_masks(weights, amount=0.2, masks=None, scope="layer"):
    amounts = amount if isinstance(amount, dict) else dict.fromkeys(weights, amount)
    if masks is None:
        masks = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
    if not weights:
        return {}
    if scope == "layer":
        return {name: _smallest_out(w, masks[name], amounts[name]) for name, w in weights.items()}
    flat = nn.utils.parameters_to_vector([w.detach() for w in weights.values()])
    mask = _smallest_out(flat, nn.utils.parameters_to_vector(list(masks.values())), next(iter(amounts.values())))
    found = {name: torch.empty(w.shape, dtype=torch.bool) for name, w in weights.items()}
    nn.utils.vector_to_parameters(mask, list(found.values()))
    return found


def _smallest_out(weight, mask, amount):
    # As PruningContainer does it: the method ranks the slice of what is left.
    left, result = weight.detach()[mask], mask.clone()
    if left.numel():
        result[mask] = prune.L1Unstructured(amount=float(amount)).compute_mask(left, torch.ones_like(left)).bool()
    return result
