"""LLaMA's and Gemma's feed-forward layers."""

from types import SimpleNamespace

from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP

ACTIVATIONS = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}


def _config(in_features, hidden_features, multiple_of, activation, bias=False):
    if hidden_features is None:
        hidden_features = -(-8 * in_features // (3 * multiple_of)) * multiple_of
    return SimpleNamespace(
        hidden_size=in_features,
        intermediate_size=hidden_features,
        hidden_act=activation,
        hidden_activation=activation,
        mlp_bias=bias,
    )


class SwiGLU(LlamaMLP):
    def __init__(self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1):
        config = _config(in_features, hidden_features, multiple_of, "silu", bias)
        super().__init__(config)
        if out_features is not None:  # a language model's residual stream has one width
            self.down_proj = nn.Linear(config.intermediate_size, out_features, bias)


class GEGLU(GemmaMLP):
    def __init__(
        self, in_features, hidden_features=None, out_features=None, bias=False, multiple_of=1, approximate="none"
    ):
        config = _config(in_features, hidden_features, multiple_of, ACTIVATIONS[approximate])
        super().__init__(config)
        if bias or out_features is not None:  # Gemma has neither
            hidden = config.intermediate_size
            self.gate_proj = nn.Linear(in_features, hidden, bias)
            self.up_proj = nn.Linear(in_features, hidden, bias)
            self.down_proj = nn.Linear(hidden, out_features or in_features, bias)
