"""Golden values of BigBird: transformers' BigBird with random blocks that are given, confirmed by dense attention."""

import numpy as np

from spec.golden import Recipe, recipe

VOCABULARY, WIDTH, HEADS, LAYERS, HIDDEN, LENGTH, BLOCK, RANDOM = 11, 12, 3, 2, 20, 40, 4, 2
BLOCKS = LENGTH // BLOCK


@recipe(
    "bigbird",
    oracle="transformers' BigBirdForMaskedLM in float64, its random blocks replaced by given ones",
    second="every pair of tokens scored, with a mask, in float64",
    needs=("torch", "transformers"),
)
def bigbird(recipe: Recipe) -> None:
    import torch
    from transformers import BigBirdConfig, BigBirdForMaskedLM
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    rng = np.random.default_rng(0)
    tokens, types, targets = _text(recipe, rng)
    # Each choice takes one of the blocks that are neither global, nor in the window, nor taken, as in a lottery.
    draws = recipe.given("draws", rng.integers(0, 2**62, size=(LAYERS, HEADS, BLOCKS, RANDOM)))
    plan = np.zeros((LAYERS, HEADS, BLOCKS, RANDOM), dtype=np.int64)
    for layer, head, block in np.ndindex(LAYERS, HEADS, BLOCKS):
        left = [b for b in range(1, BLOCKS - 1) if abs(b - block) > 1]
        for k, draw in enumerate(draws[layer, head, block]):
            plan[layer, head, block, k] = left.pop(int(draw) % len(left))

    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    sizes |= {"intermediate_size": HIDDEN, "max_position_embeddings": LENGTH + 8, "pad_token_id": 0}
    config = BigBirdConfig(**sizes, block_size=BLOCK, num_random_blocks=RANDOM)
    model = BigBirdForMaskedLM(config).double().eval()
    state = given_weights(recipe, rng, model, unused="bert.pooler")
    layers = {layer.attention.self: plan[n, :, 1:-1] for n, layer in enumerate(model.bert.encoder.layer)}
    real = BigBirdBlockSparseAttention._bigbird_block_rand_mask_with_head
    BigBirdBlockSparseAttention._bigbird_block_rand_mask_with_head = lambda layer, **_: list(layers[layer])
    try:
        found = _outputs(model, tokens, types, targets)
    finally:
        BigBirdBlockSparseAttention._bigbird_block_rand_mask_with_head = real
    assert model.bert.attention_type == "block_sparse", "so short a text is read densely"

    present = torch.from_numpy(tokens != 0)
    allowed = torch.stack([torch.from_numpy(_pattern(plan[n])) for n in range(LAYERS)])[:, None]
    for tag, masks in (("sparse", allowed), ("full", torch.ones_like(allowed))):
        if tag == "full":
            model.bert.set_attention_type("original_full")
            found = _outputs(model, tokens, types, targets)
        leaves = {k: torch.from_numpy(v).requires_grad_() for k, v in state.items()}
        logits = dense(leaves, tokens, types, masks & present[:, None, None])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        grads = torch.autograd.grad(loss, list(leaves.values()))
        recipe.expect(f"logits_{tag}", found[0][present], second=logits[present])
        recipe.expect(f"loss_{tag}", found[1], second=loss)
        for name, grad in zip(leaves, grads):
            recipe.expect(f"grad_{tag}.{name}", found[2][name], second=grad)


def _text(recipe, rng):
    """Two texts, the second one shorter; a quarter of the tokens to be told."""
    tokens, types = rng.integers(1, VOCABULARY, size=(2, LENGTH)), rng.integers(0, 2, size=(2, LENGTH))
    tokens[1, LENGTH - 5 :] = 0
    targets = np.where(
        (rng.random((2, LENGTH)) < 0.25) & (tokens != 0), rng.integers(1, VOCABULARY, tokens.shape), -100
    )
    return recipe.given("tokens", tokens), recipe.given("types", types), recipe.given("targets", targets)


def given_weights(recipe, rng, model, unused):
    """Random weights, of a size at which no softmax is saturated, for what the outputs depend on; tied ones once."""
    import torch

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if not name.startswith(unused)}
    state = {name: recipe.given(f"weights.{name}", 0.4 * rng.normal(size=shape)) for name, shape in shapes.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(torch.from_numpy(state[name]))
    return state


def _outputs(model, tokens, types, targets):
    import torch

    tokens, types, targets = (torch.from_numpy(t) for t in (tokens, types, targets))
    model.zero_grad()
    out = model(tokens, attention_mask=(tokens != 0).double(), token_type_ids=types, labels=targets)
    out.loss.backward()
    return out.logits, out.loss, {name: p.grad for name, p in model.named_parameters()}


def _pattern(plan):
    """Who reads whom, (heads, tokens, tokens): the first and last block and the window's, and the given ones."""
    allowed = np.zeros((HEADS, BLOCKS, BLOCKS), dtype=bool)
    for head, block in np.ndindex(HEADS, BLOCKS):
        allowed[head, block, [0, BLOCKS - 1, *range(max(block - 1, 0), min(block + 2, BLOCKS))]] = True
        allowed[head, block, plan[head, block] if 0 < block < BLOCKS - 1 else slice(None)] = True
    return allowed.repeat(BLOCK, 1).repeat(BLOCK, 2)


def dense(state, tokens, types, masks):
    """BERT with a mask (b, heads, n, n) in each layer, by torch's own functions."""
    import torch
    from torch.nn import functional

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-12)

    part = "bert.embeddings."
    tables = [state[f"{part}{kind}_embeddings.weight"] for kind in ("word", "token_type", "position")]
    rows = torch.from_numpy(tokens), torch.from_numpy(types), torch.arange(tokens.shape[1])
    fixed = functional.embedding(rows[0], tables[0], padding_idx=0)
    x = norm(fixed + tables[1][rows[1]] + tables[2][rows[2]], f"{part}LayerNorm")
    for n, mask in enumerate(masks):
        part = f"bert.encoder.layer.{n}."
        query, key, value = (
            linear(x, f"{part}attention.self.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        read = functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        x = norm(x + linear(read, f"{part}attention.output.dense"), f"{part}attention.output.LayerNorm")
        wide = functional.gelu(linear(x, f"{part}intermediate.dense"), approximate="tanh")
        x = norm(x + linear(wide, f"{part}output.dense"), f"{part}output.LayerNorm")
    part = "cls.predictions."
    x = functional.gelu(linear(x, f"{part}transform.dense"), approximate="tanh")
    return functional.linear(norm(x, f"{part}transform.LayerNorm"), tables[0], state[f"{part}bias"])
