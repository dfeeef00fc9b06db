"""Golden values of Reformer: transformers' Reformer with the paper's buckets, confirmed by dense attention."""

import numpy as np

from spec.golden import Recipe, recipe

VOCABULARY, WIDTH, HEADS, LAYERS, HIDDEN, LENGTH, CHUNK, BUCKETS = 11, 12, 3, 2, 20, 16, 4, 4
SEED = 7  # of transformers' rotations


@recipe(
    "reformer",
    oracle="transformers' ReformerModelWithLMHead in float64, its attention kept to the bucket and without a circle",
    second="dense attention with a mask, and residual layers without reversal, in float64",
    needs=("torch", "transformers"),
)
def reformer(recipe: Recipe) -> None:
    import torch
    from transformers import ReformerConfig, ReformerModelWithLMHead

    rng = np.random.default_rng(0)
    tokens = recipe.given("tokens", rng.integers(0, VOCABULARY, size=(2, LENGTH)))
    torch.manual_seed(SEED)
    # What the library draws too: torch's normal numbers are logarithms, roots and sines, so not exact.
    drawn = torch.randn(HEADS, WIDTH // HEADS, 1, BUCKETS // 2, dtype=torch.float64)
    rotations = recipe.given("rotations", drawn, ulps=4)
    state = {}
    for tag, chunk in (("full", LENGTH), ("hashed", CHUNK)):
        config = ReformerConfig(
            attention_head_size=WIDTH // HEADS,
            attn_layers=["lsh"] * LAYERS,
            axial_pos_embds=False,
            chunk_size_feed_forward=1,
            feed_forward_size=HIDDEN,
            hash_seed=SEED,
            hidden_dropout_prob=0.0,
            hidden_size=WIDTH,
            is_decoder=True,
            layer_norm_eps=1e-5,
            lsh_attention_probs_dropout_prob=0.0,
            lsh_attn_chunk_length=chunk,
            max_position_embeddings=LENGTH + 3,
            num_attention_heads=HEADS,
            num_buckets=BUCKETS,
            num_hashes=1,
            pad_token_id=0,
            use_cache=False,
            vocab_size=VOCABULARY,
        )
        model = ReformerModelWithLMHead(config).double().train()
        for layer in model.reformer.encoder.layers:
            layer.attention.self_attention.__class__ = _keeps_to_its_bucket()
        for name, parameter in model.named_parameters():
            if name != "lm_head.bias":  # which nothing uses
                if name not in state:
                    state[name] = recipe.given(f"weights.{name}", 0.4 * rng.normal(size=tuple(parameter.shape)))
                parameter.data = torch.from_numpy(state[name].copy())
        ids = torch.from_numpy(tokens)
        out = model(ids).logits
        found_loss = torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        found_loss.backward()  # the library's own loss is the same in float32
        found = {name: p.grad for name, p in model.named_parameters()}

        leaves = {k: torch.from_numpy(v).requires_grad_() for k, v in state.items()}
        logits = _ordinary(leaves, ids, torch.from_numpy(rotations) if tag == "hashed" else None)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        grads = torch.autograd.grad(loss, list(leaves.values()))
        recipe.expect(f"logits_{tag}", out, second=logits)
        recipe.expect(f"loss_{tag}", found_loss, second=loss)
        for name, grad in zip(leaves, grads):
            recipe.expect(f"grad_{tag}.{name}", found[name], second=grad)
    _rounds(recipe, rng)


def _keeps_to_its_bucket():
    """transformers' attention, with eq. 3's P_i in place of whole chunks, and no chunk before the first."""
    import torch
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    class KeepsToItsBucket(LSHSelfAttention):
        def _hash_vectors(self, *arguments, **options):
            self.hashed = super()._hash_vectors(*arguments, **options)
            return self.hashed

        def _look_adjacent(self, vectors, num_chunks_before, num_chunks_after):
            nothing = torch.full_like(vectors[:, :, :1], 0 if vectors.is_floating_point() else -1)
            return torch.cat([torch.cat([nothing, vectors[:, :, :-1]], 2), vectors], 3)

        def _compute_attn_mask(self, query_indices, key_indices, attention_mask, shape, do_standard_self_attention):
            causal = query_indices[..., None] >= key_indices[..., None, :]
            if do_standard_self_attention:
                return causal
            own, other = (
                self.hashed.gather(2, t.clamp(min=0).flatten(2)).view(t.shape) for t in (query_indices, key_indices)
            )
            return causal & (own[..., None] == other[..., None, :]) & (key_indices >= 0)[..., None, :]

    return KeepsToItsBucket


def _ordinary(state, tokens, rotations):
    """The model with plain residual layers; attention to all earlier tokens, or, by rotations, those of the bucket."""
    import torch
    from torch.nn import functional

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    part = "reformer.embeddings."
    positions = state[f"{part}position_embeddings.embedding.weight"][: tokens.shape[1]]
    x1 = x2 = state[f"{part}word_embeddings.weight"][tokens] + positions
    for n in range(LAYERS):
        part = f"reformer.encoder.layers.{n}."
        x = norm(x2, f"{part}attention.layer_norm")
        query, value = (
            linear(x, f"{part}attention.self_attention.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query_key", "value")
        )
        causal = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()
        allowed = causal if rotations is None else causal & (_read_by(query, rotations, CHUNK)[:, :, 0])
        read = _attention(query, value, allowed)
        x1 = x1 + linear(read.transpose(1, 2).flatten(2), f"{part}attention.output.dense")
        part = f"{part}feed_forward."
        x2 = x2 + linear(linear(norm(x1, f"{part}layer_norm"), f"{part}dense.dense").relu(), f"{part}output.dense")
    return linear(norm(torch.cat([x1, x2], -1), "reformer.encoder.layer_norm"), "lm_head.decoder")


def _attention(query, value, allowed, less=0):
    """Shared-QK attention of every pair that is allowed, of a token to itself only if there is no other."""
    import torch

    key = query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt() / query.shape[-1] ** 0.5
    itself = torch.eye(query.shape[2], dtype=torch.bool)
    scores = query @ key.mT - torch.where(itself, 1e5, less)
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


def _read_by(query, rotations, chunk):
    """Who reads whom in each round, (b, heads, rounds, n, n), by sorting lists."""
    import torch

    b, heads, n, _ = query.shape
    rounds = rotations.shape[2]
    allowed = torch.zeros(b, heads, rounds, n, n, dtype=torch.bool)
    for sample, head, r in np.ndindex(b, heads, rounds):
        turned = (query[sample, head].detach() @ rotations[head, :, r]).numpy()
        bucket = np.concatenate([turned, -turned], -1).argmax(-1)
        standing = sorted(range(n), key=lambda i, bucket=bucket: (bucket[i], i))
        for i, j in np.ndindex(n, n):
            back = standing.index(i) // chunk - standing.index(j) // chunk
            allowed[sample, head, r, i, j] = bool(bucket[i] == bucket[j] and back in (0, 1))
    return allowed


def _rounds(recipe, rng):
    """Three rounds of attention alone: a softmax of the union of what they read, and the paper's sum over rounds."""
    import torch

    x = recipe.given("x", rng.normal(size=(2, 11, WIDTH)))
    weights = [recipe.given(f"maps.{name}", 0.5 * rng.normal(size=(WIDTH, WIDTH))) for name in ("qk", "v", "out")]
    rotations = recipe.given("turns", rng.normal(size=(HEADS, WIDTH // HEADS, 3, BUCKETS // 2)))
    x, *weights, rotations = (torch.from_numpy(t) for t in (x, *weights, rotations))
    query, value = ((x @ w.T).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in weights[:2])
    allowed = _read_by(query, rotations, 3)
    union = _attention(query, value, allowed.any(2))

    key = query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt() / query.shape[-1] ** 0.5
    less = torch.where(torch.eye(11, dtype=torch.bool), 1e5, allowed.sum(2).clamp(min=1).double().log())
    scores = (query @ key.mT - less)[:, :, None].masked_fill(~allowed, -torch.inf)
    level = scores.logsumexp(-1)
    share = (level - level.logsumexp(2, keepdim=True)).exp()
    summed = (share[..., None] * (scores.softmax(-1) @ value[:, :, None])).sum(2)
    recipe.expect("read", *(t.transpose(1, 2).flatten(2) @ weights[2].T for t in (union, summed)))
