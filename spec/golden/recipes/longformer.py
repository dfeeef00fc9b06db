"""Golden values of Longformer: transformers' Longformer in float64, confirmed by dense attention."""

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.bigbird import given_weights

VOCABULARY, WIDTH, HEADS, HIDDEN, LENGTH, PADDING = 11, 12, 3, 20, 21, 1
WINDOWS = (4, 8)  # of each layer
GLOBAL = {"local": None, "global": np.array([[0, 9], [3, 0]])}


@recipe(
    "longformer",
    oracle="transformers' LongformerForMaskedLM in float64, its softmax too",
    second="every pair of tokens scored, with a mask, in float64",
    needs=("torch", "transformers"),
)
def longformer(recipe: Recipe) -> None:
    import torch
    from transformers import LongformerConfig, LongformerForMaskedLM

    rng = np.random.default_rng(0)
    tokens = rng.integers(2, VOCABULARY, size=(2, LENGTH))
    tokens[1, LENGTH - 6 :] = PADDING
    tokens = recipe.given("tokens", tokens)
    chosen = (rng.random(tokens.shape) < 0.25) & (tokens != PADDING)
    targets = recipe.given("targets", np.where(chosen, rng.integers(2, VOCABULARY, tokens.shape), -100))
    types = recipe.given("types", rng.integers(0, 2, size=tokens.shape))
    recipe.given("positions", GLOBAL["global"])
    config = LongformerConfig(
        attention_probs_dropout_prob=0.0,
        attention_window=list(WINDOWS),
        hidden_dropout_prob=0.0,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        layer_norm_eps=1e-5,
        max_position_embeddings=30 + PADDING + 1,
        num_attention_heads=HEADS,
        num_hidden_layers=len(WINDOWS),
        pad_token_id=PADDING,
        type_vocab_size=2,
        vocab_size=VOCABULARY,
    )
    model = LongformerForMaskedLM(config).double().eval()
    state = given_weights(recipe, rng, model, unused="longformer.pooler")
    present = torch.from_numpy(tokens != PADDING)
    for tag, positions in GLOBAL.items():
        marked = np.zeros(tokens.shape, dtype=bool)
        if positions is not None:
            np.put_along_axis(marked, positions, True, 1)
        found = _outputs(model, tokens, types, targets, marked)
        leaves = {k: torch.from_numpy(v).requires_grad_() for k, v in state.items()}
        logits = _dense(leaves, tokens, types, present, torch.from_numpy(marked))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        recipe.expect(f"logits_{tag}", found[0][present], second=logits[present])
        recipe.expect(f"loss_{tag}", found[1], second=loss)
        for name, grad in zip(leaves, grads):
            if found[2][name] is not None:  # without global tokens their projections get none
                recipe.expect(f"grad_{tag}.{name}", found[2][name], second=grad)


def _outputs(model, tokens, types, targets, marked):
    import torch

    tokens, types, targets = (torch.from_numpy(t) for t in (tokens, types, targets))
    model.zero_grad()
    softmax = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda x, dim, dtype=None: softmax(x, dim=dim)  # it asks for float32
    try:
        out = model(
            tokens,
            attention_mask=(tokens != PADDING).long(),
            global_attention_mask=torch.from_numpy(marked).long(),
            token_type_ids=types,
            labels=targets,
        )
        out.loss.backward()
    finally:
        torch.nn.functional.softmax = softmax
    return out.logits, out.loss, {name: p.grad for name, p in model.named_parameters()}


def _dense(state, tokens, types, present, marked):
    """RoBERTa with a banded mask, global rows by projections of their own, by torch's own functions."""
    import torch
    from torch.nn import functional

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    def embed(rows, kind):
        return functional.embedding(rows, state[f"longformer.embeddings.{kind}_embeddings.weight"])

    count = np.zeros(tokens.shape, dtype=np.int64) + PADDING
    for sample, place in np.ndindex(tokens.shape):
        if tokens[sample, place] != PADDING:
            count[sample, place] = PADDING + np.sum(tokens[sample, : place + 1] != PADDING)
    x = embed(torch.from_numpy(tokens), "word") + embed(torch.from_numpy(count), "position")
    x = norm(x + embed(torch.from_numpy(types), "token_type"), "longformer.embeddings.LayerNorm")
    x = x * present[..., None] + x.detach() * ~present[..., None]  # padding's vectors learn nothing, nor are they read
    place = torch.arange(LENGTH)
    for n, window in enumerate(WINDOWS):
        part = f"longformer.encoder.layer.{n}."
        near = (place[:, None] - place).abs() <= window // 2
        allowed = (near | marked[:, None] | marked[:, :, None]) & present[:, None]
        allowed = allowed | ~present[:, :, None]  # whatever padding reads
        reads = []
        for kind in ("", "_global"):
            query, key, value = (
                linear(x, f"{part}attention.self.{name}{kind}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            read = functional.scaled_dot_product_attention(query, key, value, allowed[:, None])
            reads.append(read.transpose(1, 2).flatten(2))
        read = torch.where(marked[..., None], reads[1], reads[0])
        x = norm(x + linear(read, f"{part}attention.output.dense"), f"{part}attention.output.LayerNorm")
        wide = functional.gelu(linear(x, f"{part}intermediate.dense"))
        x = norm(x + linear(wide, f"{part}output.dense"), f"{part}output.LayerNorm")
    x = norm(functional.gelu(linear(x, "lm_head.dense")), "lm_head.layer_norm")
    return functional.linear(x, state["longformer.embeddings.word_embeddings.weight"], state["lm_head.bias"])
