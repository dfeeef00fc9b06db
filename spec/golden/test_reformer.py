"""Reformer against transformers' Reformer and dense attention, and collision probabilities in closed form."""

import math

import pytest
import torch
from torch import nn

from impl.models.reformer import LSHAttention, Reformer, lsh_buckets
from spec.golden import load

# transformers' names of parameters → ours.
NAMES = {
    "reformer.embeddings.word_embeddings": "words",
    "reformer.embeddings.position_embeddings.embedding": "positions",
    "reformer.encoder.layers": "layers.blocks",
    "reformer.encoder.layer_norm": "norm",
    "attention.layer_norm": "f.norm",
    "attention.self_attention.query_key": "f.part.qk_proj",
    "attention.self_attention.value": "f.part.v_proj",
    "attention.output.dense": "f.part.out_proj",
    "feed_forward.layer_norm": "g.norm",
    "feed_forward.dense.dense": "g.part.linear1",
    "feed_forward.output.dense": "g.part.linear2",
    "lm_head.decoder": "head",
}


def ours(name):
    for theirs, replacement in NAMES.items():
        name = name.replace(theirs, replacement)
    return name


@pytest.mark.item("reformer")
@pytest.mark.parametrize(("tag", "hashing"), [("full", (1, 16)), ("hashed", (4, 4))])
def test_outputs_loss_and_gradients_are_transformers(tag, hashing):
    """With transformers' weights and rotations, logits, loss and every gradient are transformers'.

    Source: Kitaev et al. 2020, §2 and §3; transformers' ReformerModelWithLMHead, whose layers are reversible too.
    Convention: buckets do not mix and the first chunk has none before it: transformers' masks are fixed for that.
    """
    golden = load("reformer")
    model = Reformer(11, 12, 3, 2, 20, 19, *hashing, num_hashes=1, feed_forward_chunk=5).double().eval()
    state = {ours(name): value for name, value in golden.state_dict("weights").items()}
    for n in range(2):
        kept = f"layers.blocks.{n}.f.part.rotations"
        state[kept] = golden["rotations"] if tag == "hashed" else model.state_dict()[kept]
    model.load_state_dict(state)
    tokens = golden["tokens"]
    logits = model(tokens)
    golden.check(f"logits_{tag}", logits)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    golden.check(f"loss_{tag}", loss)
    loss.backward()
    found = dict(model.named_parameters())
    for name in golden.state_dict("weights"):
        golden.check(f"grad_{tag}.{name}", found.pop(ours(name)).grad)
    assert not found, f"expected no other parameters, found {list(found)}"


@pytest.mark.item("reformer")
def test_rounds_sum_to_one_softmax():
    """Three rounds give the softmax over all tokens that any of them attends to, each counted once.

    Source: Kitaev et al. 2020, appendix A, eq. 13 to 16: m_ij = log N_ij.
    """
    golden = load("reformer")
    module = LSHAttention(12, 3, num_buckets=4, chunk_length=3, num_hashes=3).double().eval()
    maps = {f"{name}_proj.weight": value for name, value in golden.state_dict("maps").items()}
    module.load_state_dict(maps | {"rotations": golden["turns"]})
    golden.check("read", module(golden["x"]))


@pytest.mark.item("reformer")
@pytest.mark.parametrize(
    ("buckets", "angle", "probability"),
    [(2, 0.25, 0.9204), (2, 0.5, 0.8408), (2, 1.0, 0.6817), (2, math.pi, 0.0), (4, math.pi / 2, 0.25), (6, 0.0, 1.0)],
)
def test_vectors_collide_as_often_as_their_angle_says(buckets, angle, probability):
    """P(h(x) = h(y)) = 1 − θ/π with two buckets; with b buckets 1/b for orthogonal, 0 for opposite, 1 for equal
    vectors.

    20,000 rounds: 5 σ are at most 0.018.

    Source: Andoni et al. 2015, arXiv:1509.02897; Kitaev et al. 2020, §2; two buckets are the sides of a hyperplane.
    """
    generator = torch.Generator().manual_seed(0)
    rotations = torch.randn(1, 5, 20_000, buckets // 2, generator=generator, dtype=torch.float64)
    vectors = torch.zeros(1, 1, 2, 5, dtype=torch.float64)
    vectors[0, 0, 0, 1] = 2.0
    vectors[0, 0, 1, 1:3] = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    found = lsh_buckets(vectors, rotations)
    assert found.shape == (1, 1, 20_000, 2), f"expected a bucket for each round and vector, found {found.shape}"
    assert found.unique().tolist() == list(range(buckets)), f"expected every bucket, found {found.unique().tolist()}"
    share = (found[..., 0] == found[..., 1]).double().mean().item()
    bound = 5 * (probability * (1 - probability) / 20_000) ** 0.5 + 1e-9 + 5e-5
    assert abs(share - probability) <= bound, f"expected {probability}, found {share}"
