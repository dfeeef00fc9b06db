"""Cases of low-rank adapters; the frozen parameters are trainable here as well, so that all gradients are checked."""

import torch
from torch import nn

from impl.layers.lora import (
    LoRAConv2d,
    LoRAEmbedding,
    LoRALinear,
    inject_lora,
    load_lora_state_dict,
    lora_state_dict,
    mark_only_lora_as_trainable,
    merge_lora,
    merged_state_dict,
    unmerge_lora,
)
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import randomise, reseed


def _random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _token_ids():
    return (torch.tensor([[0, 5, 2, 3, 3], [6, 2, 2, 1, 4]]),)


def _open(layer):
    """With random factors, and nothing frozen."""
    return randomise(layer.requires_grad_(), seed=3)


def _merged():
    layer = _open(LoRALinear(5, 4, r=3, lora_alpha=7.0)).eval()
    layer.merge()
    return layer


class Linear(nn.Linear):
    """Of torch's name, and with an activation inside, as detectron2's Conv2d has one."""

    def forward(self, input):
        return super().forward(input).tanh()


def network():
    """A table of tokens, two linear layers and a norm, torch's own."""
    reseed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4))


def _injected():
    return _open(inject_lora(network(), ["0", "4"], r=3, lora_alpha=5.0))


def _linear(*mentions, **options):
    return Bad(call=lambda: LoRALinear(**({"in_features": 5, "out_features": 4} | options)), mentions=mentions)


def _conv(*mentions, **options):
    sizes = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    return Bad(call=lambda: LoRAConv2d(**(sizes | options)), mentions=mentions)


def _table(*mentions, **options):
    sizes = {"num_embeddings": 7, "embedding_dim": 4}
    return Bad(call=lambda: LoRAEmbedding(**(sizes | options)), mentions=mentions)


def _inject(target_modules, *mentions, model=network, **options):
    return Bad(call=lambda: inject_lora(model(), target_modules, **options), mentions=mentions)


def _load(change):
    def call():
        model = _injected()
        load_lora_state_dict(model, change(lora_state_dict(model)))

    return call


_BAD_LINEAR = {
    "an alpha that is no number": _linear("lora_alpha", "nan", lora_alpha=float("nan")),
    "an input of another width": Bad(call=lambda: LoRALinear(5, 4)(_random(2, 3, 6)), mentions=("5", "6")),
}
_BAD_CONV = {
    "a rank that the groups do not share": _conv("groups", "2", "3", groups=2, r=3),
    "an input of other channels": Bad(
        call=lambda: LoRAConv2d(4, 6, 3)(_random(2, 5, 7, 7)), mentions=("(2, 5, 7, 7)",)
    ),
    "a margin without an image to mirror": Bad(
        call=lambda: LoRAConv2d(4, 6, 3, padding=2, padding_mode="reflect")(_random(2, 4, 2, 7)), mentions=("reflect",)
    ),
    "an image without a batch": Bad(call=lambda: LoRAConv2d(4, 6, 3)(_random(4, 7, 7)), mentions=("(4, 7, 7)",)),
}
_BAD_TABLE = {
    "padding outside of the vocabulary": _table("padding_idx", "7", padding_idx=7),
}
_BAD_MODEL = {
    "no such name": _inject("q_proj", "q_proj"),
    "one of two names unknown": _inject(["1", "q_proj"], "q_proj"),
    "a part of a name": _inject(["roj"], "roj", model=lambda: nn.ModuleDict({"q_proj": nn.Linear(3, 2)})),
    "no names": _inject([], "[]"),
    "a layer that cannot be adapted": _inject(["2"], "LayerNorm", "'2'"),
    "a network that cannot be adapted": _inject(".*", "Sequential"),
    "a weight that is used past its layer": _inject(
        ["out_proj"], "NonDynamicallyQuantizableLinear", model=lambda: nn.MultiheadAttention(6, 2)
    ),
    "adapted twice": _inject(["0"], "LoRALinear", model=lambda: nn.Sequential(LoRALinear(3, 2))),
    "a layer that does more than its name says": _inject(
        ["0"], "Linear", "'0'", model=lambda: nn.Sequential(Linear(3, 2))
    ),
    "a table that renormalises itself": _inject("", "max_norm", model=lambda: nn.Embedding(5, 3, max_norm=1.0)),
    "a table of sparse gradients": _inject("", "sparse", model=lambda: nn.Embedding(5, 3, sparse=True)),
    "nothing to train": Bad(call=lambda: mark_only_lora_as_trainable(network()), mentions=("Sequential",)),
    "an adapter with a factor missing": Bad(call=_load(lambda s: dict(list(s.items())[1:])), mentions=("0.lora_A",)),
    "an adapter with a name too many": Bad(
        call=_load(lambda s: s | {"1.lora_A": torch.ones(3, 6)}), mentions=("1.lora_A",)
    ),
    "an adapter of another rank": Bad(
        call=_load(lambda s: s | {"4.lora_A": torch.ones(2, 5)}), mentions=("(3, 5)", "(2, 5)")
    ),
}

CASES = [
    Case(
        item="lora",
        name="LoRALinear",
        build=lambda: _open(LoRALinear(5, 4, r=3, lora_alpha=7.0)),
        inputs=lambda: (_random(2, 3, 5),),
        bad=_BAD_LINEAR,
    ),
    Case(
        item="lora",
        name="LoRALinear, no bias, dropout",
        build=lambda: _open(LoRALinear(5, 4, r=2, lora_alpha=3, lora_dropout=0.4, bias=False)),
        inputs=lambda: (_random(3, 5),),
    ),
    Case(item="lora", name="LoRALinear, merged", build=_merged, inputs=lambda: (_random(2, 3, 5),)),
    Case(
        item="lora",
        name="LoRAConv2d, groups",
        build=lambda: _open(
            LoRAConv2d(4, 6, (3, 2), r=2, lora_alpha=5.0, stride=(1, 2), padding=(2, 1), dilation=(1, 2), groups=2)
        ),
        inputs=lambda: (_random(2, 4, 3, 5),),
        bad=_BAD_CONV,
    ),
    Case(
        item="lora",
        name="LoRAConv2d, same, reflect, dropout",
        build=lambda: _open(
            LoRAConv2d(2, 3, (2, 3), 4, 6.0, lora_dropout=0.3, padding="same", bias=False, padding_mode="reflect")
        ),
        inputs=lambda: (_random(3, 2, 4, 5),),
    ),
    Case(
        item="lora",
        name="LoRAEmbedding",
        build=lambda: _open(LoRAEmbedding(7, 4, r=3, lora_alpha=5.0, padding_idx=2)),
        inputs=_token_ids,
        bad=_BAD_TABLE,
        exempt={
            "gradient_correct": "a padding token's output has a value and no gradient; the properties check the rest"
        },
    ),
    Case(
        item="lora",
        name="inject_lora, a network",
        build=_injected,
        inputs=_token_ids,
        bad=_BAD_MODEL,
        exempt={"from_scratch": "the network is the caller's; the layers put in have records of their own"},
    ),
]


COUNT, BIAS = "int >= 1", {"bias": "'none', 'lora_only', 'all'"}
ADAPTER = {"r": COUNT, "lora_alpha": "(0, inf)"}
DROPOUT = {"lora_dropout": "[0, 1]"}
ADAPTED = Fresh(lambda: LoRALinear(3, 2, r=1))


def _promise(of, name, *calls, **more):
    return Contract(item="lora", name=name, of=of, calls=calls, **more)


def _layer(of, name, call, state, **ranges):
    return _promise(
        of,
        name,
        call,
        ranges=ADAPTER | ranges,
        state=state,
        attributes={"merged": "True while it computes with W₀ + ΔW as one weight"},
        remembers="W₀ + ΔW as it was merged, until it is unmerged; not in the state dict",
    )


CONTRACTS = [
    _layer(
        LoRALinear,
        "LoRALinear",
        {"in_features": 5, "out_features": 4, "r": 3},
        {
            "weight": "(out_features, in_features)",
            "bias": "(out_features,)",
            "lora_A": "(r, in_features)",
            "lora_B": "(out_features, r)",
        },
        in_features=COUNT,
        out_features=COUNT,
        **DROPOUT,
    ),
    _layer(
        LoRAConv2d,
        "LoRAConv2d",
        {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "r": 2},
        {
            "weight": "(out_channels, in_channels // groups, *kernel_size)",
            "bias": "(out_channels,)",
            "lora_A": "(r, in_channels // groups, *kernel_size)",
            "lora_B": "(out_channels, r // groups, 1, 1)",
        },
        in_channels=COUNT,
        out_channels=COUNT,
        kernel_size=COUNT,
        groups=COUNT,
        **DROPOUT,
    ),
    _layer(
        LoRAEmbedding,
        "LoRAEmbedding",
        {"num_embeddings": 7, "embedding_dim": 4, "r": 3},
        {
            "weight": "(num_embeddings, embedding_dim)",
            "lora_A": "(r, num_embeddings)",
            "lora_B": "(embedding_dim, r)",
        },
        num_embeddings=COUNT,
        embedding_dim=COUNT,
    ),
    _promise(
        inject_lora,
        "inject_lora",
        {"model": Fresh(lambda: nn.Linear(3, 2)), "target_modules": ""},
        ranges=ADAPTER | DROPOUT,
    ),
    *(
        _promise(of, name, {"model": ADAPTED}, ranges=BIAS)
        for of, name in (
            (mark_only_lora_as_trainable, "mark_only_lora_as_trainable"),
            (lora_state_dict, "lora_state_dict"),
        )
    ),
    _promise(
        load_lora_state_dict,
        "load_lora_state_dict",
        {"model": ADAPTED, "state_dict": {"lora_A": torch.ones(1, 3), "lora_B": torch.ones(2, 1)}},
    ),
    *(
        _promise(of, name, {"model": ADAPTED})
        for of, name in (
            (merge_lora, "merge_lora"),
            (unmerge_lora, "unmerge_lora"),
            (merged_state_dict, "merged_state_dict"),
        )
    ),
]
