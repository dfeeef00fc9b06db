"""BigBird against transformers' BigBird and dense attention with a mask, and the published number of parameters."""

import pytest
import torch
from torch import nn

from impl.models.bigbird import BigBird
from spec.golden import load

# transformers' names of parameters → ours.
NAMES = {
    "bert.embeddings.word_embeddings": "words",
    "bert.embeddings.position_embeddings": "positions",
    "bert.embeddings.token_type_embeddings": "types",
    "bert.embeddings.LayerNorm": "norm",
    "bert.encoder.layer": "layers",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "feed_forward.linear1",
    "output.dense": "feed_forward.linear2",
    "output.LayerNorm": "norm2",
    "cls.predictions.transform.dense": "head.dense",
    "cls.predictions.transform.LayerNorm": "head.norm",
    "cls.predictions.bias": "head.bias",
}


def ours(name):
    for theirs, replacement in NAMES.items():
        name = name.replace(theirs, replacement)
    return name


def with_transformers_weights(golden, **options):
    """float64, in evaluation, with weights under transformers' names and the given random blocks."""
    model = BigBird(11, 12, 3, 2, 20, max_len=48, block_size=4, **{"num_random_blocks": 2} | options).double().eval()
    state = {ours(name): value for name, value in golden.state_dict("weights").items()}
    for n, draws in enumerate(golden["draws"]):
        kept = model.state_dict()[f"layers.{n}.self_attn.draws"]
        kept[:, : draws.shape[1]] = draws[:, :, : kept.shape[2]]
        state[f"layers.{n}.self_attn.draws"] = kept
    model.load_state_dict(state)
    return model


@pytest.mark.item("bigbird")
@pytest.mark.parametrize(("tag", "options"), [("sparse", {}), ("full", {"num_global_blocks": 10})])
def test_outputs_loss_and_gradients_are_transformers(tag, options):
    """With transformers' weights and the same random blocks, logits, loss and every gradient are transformers'.

    Source: Zaheer et al. 2020, §2; transformers' BigBirdForMaskedLM, block_sparse and original_full.
    Convention: tokens of padding are read by nobody, and their own outputs mean nothing.
    """
    golden = load("bigbird")
    model, tokens, targets = with_transformers_weights(golden, **options), golden["tokens"], golden["targets"]
    logits = model(tokens, golden["types"])
    golden.check(f"logits_{tag}", logits[tokens != 0])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    golden.check(f"loss_{tag}", loss)
    loss.backward()
    found = dict(model.named_parameters())
    for name in golden.state_dict("weights"):
        golden.check(f"grad_{tag}.{name}", found.pop(ours(name)).grad)
    assert not found, f"expected no other parameters, found {list(found)}"


@pytest.mark.item("bigbird")
def test_bigbird_base_has_127_million_parameters():
    """BigBird-base has 126,878,208 parameters, 127,468,800 with BERT's pooler; its masked language model 642,486 more.

    Source: Zaheer et al. 2020, table 8: 12 layers, 12 heads, width 768; transformers' BigBirdModel 127,468,800 and
    BigBirdForMaskedLM 128,111,286, both with a pooler of 768² + 768 that neither paper nor pretraining task needs.
    """
    with torch.device("meta"):
        model = BigBird()
    total, head = (sum(p.numel() for p in part.parameters()) for part in (model, model.head))
    pooler = 768**2 + 768
    assert total - head + pooler == 127_468_800, f"found {total - head + pooler:,}"
    assert total + pooler == 128_111_286, f"found {total + pooler:,}"
