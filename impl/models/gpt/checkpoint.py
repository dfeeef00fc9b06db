"""GPT-2's weights under the released checkpoints' names, and under those of `GPT`.

Radford et al. 2019 (GPT-2).

Convention: the checkpoints store each matrix as (inputs, outputs), transformers' Conv1D, so all but the embeddings are
transposed. The prefix `transformer.`, the causal masks of old files and an `lm_head.weight` equal to `wte.weight` are
optional.
"""

import re

import torch
from torch import Tensor

_PARTS = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "attn.c_attn.": "self_attn.in_proj_",
    "attn.c_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "feed_forward.linear1.",
    "mlp.c_proj.": "feed_forward.linear2.",
}
_WHOLE = {
    "wte.weight": "wte.weight",
    "wpe.weight": "wpe.weight",
    "ln_f.weight": "ln_f.weight",
    "ln_f.bias": "ln_f.bias",
}


def weights_from_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `GPT` for a checkpoint of GPT-2.

    Raises:
        ValueError: a name that is not GPT-2's, or an output matrix that differs from the embedding.
    """
    state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    head = state.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, state["wte.weight"]):
        raise ValueError("expected lm_head.weight to be wte.weight, as in GPT-2, got another matrix")
    return {_ours(name): _transposed(name, tensor) for name, tensor in state.items() if not _is_mask(name)}


def weights_to_gpt2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of GPT-2, for transformers' GPT2LMHeadModel, of a state dict of `GPT`."""
    names = {v: k for k, v in _PARTS.items()}
    found = {"lm_head.weight": state["wte.weight"]}
    for name, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.*[._])(weight|bias)", name)
        theirs = f"h.{match[1]}.{names[match[2]]}{match[3]}" if match else name
        found[f"transformer.{theirs}"] = _transposed(theirs, tensor)
    return found


def _ours(name):
    match = re.fullmatch(r"h\.(\d+)\.(.*\.)(weight|bias)", name)
    if match and match[2] in _PARTS:
        return f"blocks.{match[1]}.{_PARTS[match[2]]}{match[3]}"
    if name not in _WHOLE:
        raise ValueError(f"expected names of GPT-2's parameters, got {name!r}")
    return _WHOLE[name]


def _transposed(name, tensor):
    return tensor.T.contiguous() if re.search(r"\.c_\w+\.weight$", name) else tensor


def _is_mask(name):
    return name.endswith((".attn.bias", ".attn.masked_bias"))
