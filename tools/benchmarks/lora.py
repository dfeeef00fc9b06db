"""Adapted layers next to peft's: factors are trained, the base is frozen."""

import torch
from torch import nn

from impl.layers.lora import LoRAConv2d, LoRAEmbedding, LoRALinear
from tools.bench import Pair


def _of_peft(base):
    """peft's adapter around a layer, of rank 8 and α 16."""

    def build():
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=8, lora_alpha=16, target_modules=["0"])
        model = inject_adapter_in_model(config, nn.Sequential(base()))[0]
        return _Trainable(model, [p for n, p in model.named_parameters() if "lora_" in n])

    return build


def _ours(build):
    def wrapped():
        layer = build()
        return _Trainable(layer, [layer.lora_A, layer.lora_B])

    return wrapped


class _Trainable(nn.Module):
    """A layer whose frozen parameters are hidden from whoever asks for gradients."""

    def __init__(self, layer, trained):
        super().__init__()
        self.trained = nn.ParameterList(trained)
        self.__dict__["layer"] = layer

    def forward(self, x):
        return self.layer(x)


PAIRS = [
    Pair(
        item="lora",
        name="LoRALinear",
        ours=_ours(lambda: LoRALinear(512, 768)),
        theirs=_of_peft(lambda: nn.Linear(512, 768)),
        inputs=lambda: (torch.randn(8, 128, 512),),
    ),
    Pair(
        item="lora",
        name="LoRAConv2d",
        ours=_ours(lambda: LoRAConv2d(32, 64, 3, padding=1)),
        theirs=_of_peft(lambda: nn.Conv2d(32, 64, 3, padding=1)),
        inputs=lambda: (torch.randn(8, 32, 32, 32),),
    ),
    Pair(
        item="lora",
        name="LoRAEmbedding",
        ours=_ours(lambda: LoRAEmbedding(5000, 512)),
        theirs=_of_peft(lambda: nn.Embedding(5000, 512)),
        inputs=lambda: (torch.randint(0, 5000, (8, 128)),),
    ),
]
