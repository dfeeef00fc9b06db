"""Replacing modules of a model by others, in the model itself; adapters and quantized layers are put in this way."""

from collections.abc import Mapping

from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """True if it has in_features and a matrix `weight`, as every kind of linear layer does."""
    weight = getattr(module, "weight", None)
    return hasattr(module, "in_features") and isinstance(weight, Tensor) and weight.dim() == 2


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Puts each replacement wherever its original is used in the model: a shared layer stays shared.

    Args:
        model: changed in place.
        replacements: original → replacement.

    Returns:
        The model, or its replacement if it is itself one of the originals.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)
