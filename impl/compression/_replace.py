"""Finding the linear layers of a model and putting other modules in their places."""

from torch import Tensor, nn


def is_linear(module: nn.Module) -> bool:
    """Has it a matrix `weight` and in_features, as every kind of linear layer does?"""
    weight = getattr(module, "weight", None)
    return hasattr(module, "in_features") and isinstance(weight, Tensor) and weight.dim() == 2


def replace_modules(model: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put each twin in the place, or the places, of its original; in the model itself."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in twins:
                setattr(parent, name, twins[child])
    return twins.get(model, model)
