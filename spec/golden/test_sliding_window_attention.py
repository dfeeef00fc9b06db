"""Sliding-window attention against transformers' Longformer and dense attention with a mask."""

import pytest
import torch

from impl.layers.sliding_window_attention import SlidingWindowAttention
from spec.golden import load

NAMES = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
NAMES |= {f"{theirs}_global": ours.replace("_", "_global_") for theirs, ours in NAMES.items()}


def with_longformers_weights(golden):
    """query → q_proj, query_global → q_global_proj, likewise key and value; the output's dense → out_proj."""
    state = {}
    for name, tensor in golden.state_dict("longformer").items():
        part, _, kind = name.partition(".")
        state[f"{NAMES[part]}.{kind}"] = tensor
    state |= {f"out_proj.{kind}": tensor for kind, tensor in golden.state_dict("dense").items()}
    module = SlidingWindowAttention(12, 3, window=4).double()
    module.load_state_dict(state)
    return module


@pytest.mark.item("sliding-window-attention")
@pytest.mark.parametrize("tag", ["local", "global"])
def test_longformers_weights_move_over(tag):
    """With Longformer's weights, padding, and no or ragged global tokens, output and gradient are Longformer's.

    Source: Beltagy et al. 2020, §3.1; transformers' LongformerSelfAttention; dense attention with a mask.
    Convention: attention_window is w, both sides together; a global token counts once, by the ordinary projections.
    """
    golden = load("sliding-window-attention")
    module, x, present = with_longformers_weights(golden), golden["x"].requires_grad_(), golden["key_mask"].bool()
    output = module(x, golden[f"positions_{tag}"], present)[present]
    golden.check(f"y_{tag}", output)
    (grad,) = torch.autograd.grad(output, x, golden[f"cotangent_{tag}"])
    golden.check(f"d_x_{tag}", grad)


@pytest.mark.item("sliding-window-attention")
def test_longformer_base_has_21_million_parameters_more_for_global_tokens():
    """Q_g, K_g, V_g of Longformer-base are 12 · 3 · (768² + 768) = 21,261,312 parameters.

    Source: Beltagy et al. 2020, §3.1: additional projections for global attention. With poolers, Longformer-base has
    148,659,456 and RoBERTa-base 124,645,632 parameters, 24,013,824 apart; 2,752,512 of them are 3584 more positions of
    768 numbers.
    """
    with torch.device("meta"):
        with_, without = (SlidingWindowAttention(768, 12, 512, global_attention=g) for g in (True, False))
    sizes = [12 * sum(p.numel() for p in module.parameters()) for module in (with_, without)]
    assert sizes[0] - sizes[1] == 21_261_312 == 24_013_824 - 2_752_512, f"found {sizes[0] - sizes[1]:,}"
    assert sizes[1] == 12 * 4 * (768**2 + 768), f"found {sizes[1]:,}"
