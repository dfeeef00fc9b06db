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
)
from spec.cases import Bad, Case
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
    "no inputs": _linear("in_features", "0", in_features=0),
    "no outputs": _linear("out_features", "-1", out_features=-1),
    "no rank": _linear("r", "0", r=0),
    "an alpha of zero": _linear("lora_alpha", "0", lora_alpha=0),
    "a negative alpha": _linear("lora_alpha", "-2.0", lora_alpha=-2.0),
    "an alpha that is no number": _linear("lora_alpha", "nan", lora_alpha=float("nan")),
    "an infinite alpha": _linear("lora_alpha", "inf", lora_alpha=float("inf")),
    "a negative probability": _linear("-0.5", lora_dropout=-0.5),
    "a probability above 1": _linear("1.5", lora_dropout=1.5),
    "an input of another width": Bad(call=lambda: LoRALinear(5, 4)(_random(2, 3, 6)), mentions=("5", "6")),
}
_BAD_CONV = {
    "no channels": _conv("in_channels", "0", in_channels=0),
    "no kernel": _conv("kernel_size", "0", kernel_size=0),
    "no rank": _conv("r", "-1", r=-1),
    "a rank that the groups do not share": _conv("groups", "2", "3", groups=2, r=3),
    "an alpha of zero": _conv("lora_alpha", "0.0", lora_alpha=0.0),
    "a probability above 1": _conv("1.5", lora_dropout=1.5),
    "an input of other channels": Bad(
        call=lambda: LoRAConv2d(4, 6, 3)(_random(2, 5, 7, 7)), mentions=("(2, 5, 7, 7)",)
    ),
    "a margin without an image to mirror": Bad(
        call=lambda: LoRAConv2d(4, 6, 3, padding=2, padding_mode="reflect")(_random(2, 4, 2, 7)), mentions=("reflect",)
    ),
    "an image without a batch": Bad(call=lambda: LoRAConv2d(4, 6, 3)(_random(4, 7, 7)), mentions=("(4, 7, 7)",)),
}
_BAD_TABLE = {
    "no tokens": _table("num_embeddings", "0", num_embeddings=0),
    "no rank": _table("r", "0", r=0),
    "an alpha of zero": _table("lora_alpha", "0", lora_alpha=0),
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
    "no rank": _inject(["1"], "r", "0", r=0),
    "nothing to train": Bad(call=lambda: mark_only_lora_as_trainable(network()), mentions=("Sequential",)),
    "unknown biases": Bad(call=lambda: mark_only_lora_as_trainable(_injected(), "some"), mentions=("some",)),
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
