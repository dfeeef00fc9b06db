"""Low-rank adapters around torch.nn's own layers: each factor is a layer as well."""

import copy
import math
import re

import torch
from torch import nn
from torch.nn import functional as F

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


class _Adapted(nn.Module):
    """The base layer's call with another weight, plus the factors' calls; merging keeps ΔW, which each call adds."""

    def __init__(self, base, a, b, r, lora_alpha, lora_dropout=0.0):
        super().__init__()
        self.how = {"stride": base.stride, "dilation": base.dilation, "groups": base.groups} if _is_conv(base) else {}
        if _is_conv(base):
            self.padding, self.padding_mode = base.padding, base.padding_mode
            self.margins = base._reversed_padding_repeated_twice
        self.weight = base.weight.requires_grad_(False)
        self.bias = getattr(base, "bias", None)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.padding_idx = getattr(base, "padding_idx", None)
        self.lora_A, self.lora_B = (nn.Parameter(self.weight.new_empty(s)) for s in (a, b))
        self.scale, self.dropout, self.frozen = lora_alpha / r, nn.Dropout(lora_dropout), None
        self.reset_lora_parameters()

    def reset_lora_parameters(self):
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    @property
    def merged(self):
        return self.frozen is not None

    def merge(self):
        self.frozen = self.delta_weight().detach()

    def unmerge(self):
        self.frozen = None

    def train(self, mode=True):
        self.frozen = None if mode else self.frozen
        return super().train(mode)

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self.frozen = None

    def _apply(self, change, recurse=True):
        self.frozen = None if self.frozen is None else change(self.frozen)
        return super()._apply(change, recurse)

    def delta_weight(self):
        return self.scale * self.product(self.lora_A, self.lora_B)

    def forward(self, x):
        if self.merged:
            return self.call(x, self.weight + self.frozen, self.bias)
        return self.call(x, self.weight, self.bias) + self.scale * self.aside(x)


def _is_conv(layer):
    return isinstance(layer, nn.Conv2d)


class LoRALinear(_Adapted):
    """Around torch.nn.Linear."""

    def __init__(self, in_features, out_features, r=8, lora_alpha=16, lora_dropout=0.0, bias=True, base=None):
        base = base or nn.Linear(in_features, out_features, bias)
        super().__init__(base, (r, in_features), (out_features, r), r, lora_alpha, lora_dropout)

    def call(self, x, weight, bias=None):
        return F.linear(x, weight, bias)

    def aside(self, x):
        return F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def product(self, a, b):
        return b @ a


class LoRAConv2d(_Adapted):
    """Around torch.nn.Conv2d."""

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        r=8,
        lora_alpha=16,
        lora_dropout=0.0,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        base=None,
    ):
        arguments = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        base = base or nn.Conv2d(*arguments)
        a, b = (r, *base.weight.shape[1:]), (out_channels, r // groups, 1, 1)
        super().__init__(base, a, b, r, lora_alpha, lora_dropout)

    def call(self, x, weight, bias=None):
        if self.padding_mode == "zeros":
            return F.conv2d(x, weight, bias, padding=self.padding, **self.how)
        return F.conv2d(F.pad(x, self.margins, mode=self.padding_mode), weight, bias, **self.how)

    def aside(self, x):
        return F.conv2d(self.call(self.dropout(x), self.lora_A), self.lora_B, groups=self.how["groups"])

    def product(self, a, b):
        parts = [t.chunk(self.how["groups"]) for t in (a, b)]
        return torch.cat([torch.tensordot(v.flatten(1), u, 1) for u, v in zip(*parts)])


class LoRAEmbedding(_Adapted):
    """Around torch.nn.Embedding."""

    def __init__(self, num_embeddings, embedding_dim, r=8, lora_alpha=16, padding_idx=None, base=None):
        base = base or nn.Embedding(num_embeddings, embedding_dim, padding_idx)
        super().__init__(base, (r, num_embeddings), (embedding_dim, r), r, lora_alpha)

    def reset_lora_parameters(self):
        nn.init.zeros_(self.lora_A)
        nn.init.normal_(self.lora_B)

    def call(self, x, weight, bias=None):
        return F.embedding(x, weight, self.padding_idx)

    def aside(self, x):
        found = F.embedding(x, self.lora_A.T, self.padding_idx) @ self.lora_B.T
        # What a padded symbol reads of B is a constant too.
        return (
            found
            if self.padding_idx is None
            else torch.where((x == self.padding_idx)[..., None], found.detach(), found)
        )

    def product(self, a, b):
        return a.T @ b.T


def _adapter(layer, r, lora_alpha, lora_dropout):
    if type(layer).__name__ == "Linear":
        base = copy.copy(layer)
        return LoRALinear(base.in_features, base.out_features, r, lora_alpha, lora_dropout, base=base)
    if type(layer) is nn.Conv2d:
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
        return LoRAConv2d(*sizes, r, lora_alpha, lora_dropout, groups=layer.groups, base=layer)
    if type(layer).__name__ == "Embedding":
        sizes = (layer.num_embeddings, layer.embedding_dim)
        return LoRAEmbedding(*sizes, r, lora_alpha, layer.padding_idx, base=layer)
    raise ValueError(f"expected a linear, convolution or embedding layer, got {type(layer).__name__}")


def inject_lora(model, target_modules, r=8, lora_alpha=16, lora_dropout=0.0):
    """In place."""
    exact = isinstance(target_modules, str)
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen = set()
    for target in [target_modules] if exact else target_modules:
        found = {n for n in modules if (re.fullmatch(target, n) if exact else f".{n}".endswith(f".{target}"))}
        if not found:
            raise ValueError(f"expected a module {target}, got none")
        chosen |= found
    frozen = {p: p.requires_grad for p in model.parameters()}
    try:
        layers = {id(modules[n]): modules[n] for n in chosen}
        counterparts = {key: _adapter(layer, r, lora_alpha, lora_dropout) for key, layer in layers.items()}
    except ValueError:
        for parameter, before in frozen.items():
            parameter.requires_grad_(before)
        raise
    for key, counterpart in counterparts.items():
        counterpart.train(layers[key].training)
        counterpart.register_forward_pre_hook(lambda module, inputs: None)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in counterparts:
                parent._modules[name] = counterparts[id(child)]
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False
    model = counterparts.get(id(model), model)
    mark_only_lora_as_trainable(model)
    return model


def _names(model, bias):
    layers = [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, _Adapted)]
    if not layers or bias not in ("none", "lora_only", "all"):
        raise ValueError(f"expected adapters and a known bias, got {len(layers)} and {bias}")
    names = [f"{n}.{k}".lstrip(".") for n, m in layers for k in ("lora_A", "lora_B")]
    if bias == "lora_only":
        names += [f"{n}.bias".lstrip(".") for n, m in layers if m.bias is not None]
    if bias == "all":
        names += [
            n
            for n, _ in model.named_parameters(remove_duplicate=False)
            if n.rpartition(".")[2].startswith(("bias", "in_proj_bias"))
        ]
    return names


def mark_only_lora_as_trainable(model, bias="none"):
    """Freeze the rest."""
    names = _names(model, bias)
    model.requires_grad_(False)
    for name in names:
        model.get_parameter(name).requires_grad_()


def lora_state_dict(model, bias="none"):
    """The factors, and biases."""
    return {name: model.get_parameter(name).detach() for name in _names(model, bias)}


def load_lora_state_dict(model, state_dict, bias="none"):
    """By names that must agree."""
    own = lora_state_dict(model, bias)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in state_dict.items()}:
        raise ValueError(f"expected {list(own)}, got {list(state_dict)}")
    for name, tensor in own.items():
        tensor.copy_(state_dict[name])
    unmerge_lora(model)


def merge_lora(model):
    """All."""
    for module in model.modules():
        if isinstance(module, _Adapted):
            module.merge()


def unmerge_lora(model):
    """All."""
    for module in model.modules():
        if isinstance(module, _Adapted):
            module.unmerge()


def merged_state_dict(model):
    """The base's names."""
    state = {n: t for n, t in model.state_dict().items() if not n.endswith(("lora_A", "lora_B"))}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _Adapted):
            state[f"{name}.weight".lstrip(".")] = (module.weight + module.delta_weight()).detach()
    return state
