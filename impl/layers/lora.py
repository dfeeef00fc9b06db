"""LoRA: a trained model is adapted by low-rank changes of its frozen weights.

Hu et al. 2021, arXiv:2106.09685.

    h = W₀ x + ΔW x = W₀ x + (α/r) B A x,    A ∈ ℝ^{r×k}, B ∈ ℝ^{d×r}                          (§4.1, eq. 3)
    initially A is random and B = 0, so ΔW = 0; W₀ gets no gradient
    merged: W = W₀ + (α/r) B A is one matrix, with the base model's cost                       (§4.1)

Convention: scale α/r; A is initialised uniform in ±1/√fan-in as in loralib and peft (the paper: Gaussian). Merging is
explicit, as in peft, and keeps W₀ next to the sum: unmerging is exact, and weights that layers share are not changed.
`train()` and `load_state_dict` unmerge, `eval()` does nothing; a saved state holds W₀, A and B, merged or not, as
`weight`, `lora_A` and `lora_B`, loralib's names.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .convolution import Conv2d
from .embedding import Embedding
from .linear import Linear
from .lora_layers import LoRAConv2d, LoRAEmbedding, LoRALinear
from .replacement import replace_modules

__all__ = [
    "LoRAConv2d",
    "LoRAEmbedding",
    "LoRALinear",
    "inject_lora",
    "load_lora_state_dict",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "merge_lora",
    "merged_state_dict",
    "unmerge_lora",
]

OURS = (Linear, Conv2d, Embedding)
LAYERS = (LoRALinear, LoRAConv2d, LoRAEmbedding)
# The class name of a layer that can be adapted → its LoRA layer, and the arguments that both have.
KINDS = {
    "Linear": (LoRALinear, ("in_features", "out_features")),
    "Conv2d": (
        LoRAConv2d,
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    ),
    "Embedding": (LoRAEmbedding, ("num_embeddings", "embedding_dim", "padding_idx")),
}


def inject_lora(
    model: nn.Module,
    target_modules: str | Sequence[str],
    r: int = 8,
    lora_alpha: float = 16,
    lora_dropout: float = 0.0,
) -> nn.Module:
    """Replace named layers by LoRA layers, in the model itself, and freeze all but their factors.

    Args:
        model: holds layers named Linear, Conv2d or Embedding, torch's or ours. Their weights are used, not copied; a
            layer that is used several times, and a weight that several layers share, stay shared.
        target_modules: a regular expression for whole dotted names, or names each of which is a whole dotted name or
            its end after a dot: "q_proj" is every layer of that name.
        r, lora_alpha, lora_dropout: see `LoRALinear`; an embedding has no dropout.

    Returns:
        The model, or its LoRA layer if it is itself such a layer, of the name "".

    Adapters act inside of torch.nn.TransformerEncoder as well, whose fast path would use weights past their layers.

    Raises:
        ValueError: a target that no module matches, or one that is no such layer: of a class derived from them the
            weight may be used in other ways (as that of torch.nn.MultiheadAttention.out_proj is, past its layer).
            Nothing has been changed then.

    Source: Hu et al. 2021, arXiv:2106.09685, §4.2: which weight matrices to adapt is a choice.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    patterns = (
        [target_modules] if isinstance(target_modules, str) else [rf"(.*\.)?{re.escape(t)}" for t in target_modules]
    )
    matches = [[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns]
    if not matches or not all(matches):
        raise ValueError(f"expected targets that each match one of {names}, got {target_modules!r}")
    chosen = dict.fromkeys(name for found in matches for name in found)
    adapters = {}
    for name in chosen:
        layer = model.get_submodule(name)
        adapters[layer] = adapters.get(layer) or _adapted(layer, name, r, lora_alpha, lora_dropout)
    for layer, adapter in adapters.items():
        adapter.weight, adapter.bias = layer.weight, getattr(layer, "bias", None)
    model = replace_modules(model, adapters)
    for parent in model.modules():
        if getattr(parent, "use_nested_tensor", False) and any(isinstance(m, LAYERS) for m in parent.modules()):
            # torch.nn.TransformerEncoder packs padded texts, which only the path past its layers' calls can process.
            parent.use_nested_tensor = False
    mark_only_lora_as_trainable(model)
    return model


def _adapted(layer: nn.Module, name: str, r: int, lora_alpha: float, lora_dropout: float) -> nn.Module:
    """A LoRA layer of the same sizes, dtype, device and mode, still without the weights."""
    kind = type(layer).__name__
    if kind not in KINDS or not (type(layer) in OURS or type(layer).__module__.startswith("torch.nn.modules.")):
        raise ValueError(f"expected {', '.join(KINDS)}, torch's or ours, to adapt, got {type(layer)} at {name!r}")
    changes_weights = [o for o in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(layer, o, None)]
    if changes_weights:
        raise ValueError(f"expected an embedding without {', '.join(changes_weights)}, got {layer} at {name!r}")
    kind_of_adapter, arguments = KINDS[kind]
    options = {argument: getattr(layer, argument) for argument in arguments}
    if kind != "Embedding":
        options |= {"bias": layer.bias is not None, "lora_dropout": lora_dropout}
    with torch.device("meta"):  # no memory, and no random numbers, for a weight that is there already
        adapter = kind_of_adapter(**options, r=r, lora_alpha=lora_alpha)
    for factor in ("lora_A", "lora_B"):
        setattr(adapter, factor, nn.Parameter(layer.weight.detach().new_empty(getattr(adapter, factor).shape)))
    adapter.reset_lora_parameters()
    # With a hook on any part, torch.nn.TransformerEncoderLayer calls its layers instead of reading their weights.
    adapter.register_forward_hook(_as_it_is)
    return adapter.train(layer.training)


def _as_it_is(module, inputs, output):
    return None


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Freeze every parameter but the factors A and B, and biases on request.

    Args:
        bias: which biases are trained as well: "none", those of the "lora_only" layers, or "all".

    Raises:
        ValueError: another `bias`, or a model without a LoRA layer.
    """
    trained = _trained(model, bias)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name in trained)


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, Tensor]:
    """What was trained and nothing else: name → tensor. α is not in it.

    Args and errors: see `mark_only_lora_as_trainable`.
    """
    trained = _trained(model, bias)
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}


def load_lora_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], bias: str = "none") -> None:
    """Load what `lora_state_dict` gave, into a model of the same base and injection.

    Raises:
        ValueError: a name missing or too many, or another shape. Nothing has been loaded then.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in lora_state_dict(model, bias).items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    if wanted != found:
        raise ValueError(f"expected the tensors {wanted}, got {found}")
    model.load_state_dict(state_dict, strict=False)


def merge_lora(model: nn.Module) -> None:
    """Merge every LoRA layer."""
    for _, layer in _lora_layers(model):
        layer.merge()


def unmerge_lora(model: nn.Module) -> None:
    """Unmerge every LoRA layer."""
    for _, layer in _lora_layers(model):
        layer.unmerge()


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the base model with W₀ + ΔW for W₀: it loads into the model as it was before the injection.

    Where one of several layers that share a weight was adapted, their names hold two tensors: load those into a model
    that does not share it.
    """
    state = model.state_dict()
    for prefix, layer in _lora_layers(model):
        state[f"{prefix}weight"] = layer.weight + layer.delta_weight()
        del state[f"{prefix}lora_A"], state[f"{prefix}lora_B"]
    return state


def _lora_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(prefix of its names, layer) wherever a LoRA layer is used."""
    modules = model.named_modules(remove_duplicate=False)
    return [(f"{name}." if name else "", module) for name, module in modules if isinstance(module, LAYERS)]


def _trained(model: nn.Module, bias: str) -> set[str]:
    if bias not in ("none", "lora_only", "all"):
        raise ValueError(f"expected bias 'none', 'lora_only' or 'all', got {bias!r}")
    layers = _lora_layers(model)
    if not layers:
        raise ValueError(f"expected a model with a LoRA layer, got none in {type(model).__name__}")
    names = {prefix + factor for prefix, _ in layers for factor in ("lora_A", "lora_B")}
    if bias == "lora_only":
        names |= {f"{prefix}bias" for prefix, layer in layers if layer.bias is not None}
    if bias == "all":
        # Also in_proj_bias of attention, and bias_ih_l0 of recurrent layers.
        names |= {n for n, _ in model.named_parameters(remove_duplicate=False) if "bias" in n.split(".")[-1]}
    return names
