"""Longformer against transformers' Longformer and dense attention, and the published number of parameters."""

import pytest
import torch
from torch import nn

from impl.models.longformer import Longformer
from spec.golden import load

# transformers' names of parameters → ours.
NAMES = {
    "longformer.embeddings.word_embeddings": "words",
    "longformer.embeddings.position_embeddings": "positions",
    "longformer.embeddings.token_type_embeddings": "types",
    "longformer.embeddings.LayerNorm": "norm",
    "longformer.encoder.layer": "layers",
    "attention.self.query_global": "self_attn.q_global_proj",
    "attention.self.key_global": "self_attn.k_global_proj",
    "attention.self.value_global": "self_attn.v_global_proj",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "feed_forward.linear1",
    "output.dense": "feed_forward.linear2",
    "output.LayerNorm": "norm2",
    "lm_head.dense": "head.dense",
    "lm_head.layer_norm": "head.norm",
    "lm_head.bias": "head.bias",
}


def ours(name):
    for theirs, replacement in NAMES.items():
        name = name.replace(theirs, replacement)
    return name


@pytest.mark.item("longformer")
@pytest.mark.states("equivalence")
@pytest.mark.parametrize("tag", ["local", "global"])
def test_outputs_loss_and_gradients_are_transformers(tag):
    """With transformers' weights, logits, loss and every gradient are transformers', with and without global tokens.

    21 tokens, windows of 4 and 8, a padded text.

    Source: Beltagy et al. 2020, §3; transformers' LongformerForMaskedLM, which pads to a multiple of the window.
    Convention: positions start at padding_idx + 1; tokens of padding are read by nobody and mean nothing.
    """
    golden = load("longformer")
    model = Longformer(11, 12, 3, (4, 8), 1, 2, 20, max_len=30, num_types=2).double().eval()
    model.load_state_dict({ours(name): value for name, value in golden.state_dict("weights").items()})
    tokens, targets = golden["tokens"], golden["targets"]
    logits = model(tokens, golden["positions"] if tag == "global" else None, golden["types"])
    golden.check(f"logits_{tag}", logits[tokens != 1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    golden.check(f"loss_{tag}", loss)
    loss.backward()
    found = dict(model.named_parameters())
    for name in golden.state_dict("weights"):
        grad = found.pop(ours(name)).grad
        if tag == "local" and "_global" in name:
            assert grad is None or (grad == 0).all(), f"expected no gradient for {name} without global tokens"
        else:
            golden.check(f"grad_{tag}.{name}", grad)
    assert not found, f"expected no other parameters, found {list(found)}"


@pytest.mark.item("longformer")
def test_longformer_base_has_148_million_parameters():
    """Longformer-base has 148,068,864 parameters without a pooler, 148,711,257 as a masked language model.

    Source: Beltagy et al. 2020, §5: RoBERTa-base, 3584 more positions, and three projections more a layer for global
    tokens; transformers' LongformerModel and LongformerForMaskedLM of allenai/longformer-base-4096.
    """
    with torch.device("meta"):
        model = Longformer()
    total, head = (sum(p.numel() for p in part.parameters()) for part in (model, model.head))
    assert total == 148_711_257, f"found {total:,}"
    assert total - head == 148_068_864, f"found {total - head:,}"
