"""Golden values of GPT-2: transformers' GPT2LMHeadModel in float64, confirmed by the equations in jax."""

import numpy as np

from spec.golden import Recipe, recipe

VOCABULARY, BLOCK, LAYERS, HEADS, WIDTH = 13, 9, 2, 3, 12


def _jax_gpt2(p, tokens, positions, mask):
    """Logits from a checkpoint's weights; `mask` (b, t, t) is True where a token may attend."""
    import jax
    import jax.numpy as jnp

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def mapped(name, x):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    x = p["wte.weight"][tokens] + p["wpe.weight"][positions]
    for n in range(LAYERS):
        q, k, v = (
            t.reshape(*t.shape[:2], HEADS, -1)
            for t in jnp.split(mapped(f"h.{n}.attn.c_attn", norm(f"h.{n}.ln_1", x)), 3, -1)
        )
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(WIDTH // HEADS)
        weights = jax.nn.softmax(scores, axis=-1, where=mask[:, None])
        x = x + mapped(f"h.{n}.attn.c_proj", jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape))
        hidden = jax.nn.gelu(mapped(f"h.{n}.mlp.c_fc", norm(f"h.{n}.ln_2", x)), approximate=True)
        x = x + mapped(f"h.{n}.mlp.c_proj", hidden)
    return norm("ln_f", x) @ p["wte.weight"].T


def _jax_loss(p, tokens, positions, mask, counted):
    import jax
    import jax.numpy as jnp

    logs = jax.nn.log_softmax(_jax_gpt2(p, tokens, positions, mask)[:, :-1], axis=-1)
    chosen = jnp.take_along_axis(logs, tokens[:, 1:, None], -1)[..., 0]
    return -(chosen * counted).sum() / counted.sum()


@recipe(
    "gpt",
    oracle="transformers' GPT2LMHeadModel in float64: logits, gradients of torch's cross_entropy, text; its warpers",
    second="the equations in jax, in float64, with jax.grad; the filters in NumPy",
    needs=("transformers", "jax", "torch"),
)
def gpt(recipe: Recipe) -> None:
    import jax
    import torch
    import transformers

    jax.config.update("jax_enable_x64", True)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=BLOCK,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    state, generator = {}, np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        state[name.removeprefix("transformer.")] = recipe.given(
            f"gpt2.{name}", 0.3 * generator.normal(size=parameter.shape)
        )
        parameter.data = torch.from_numpy(state[name.removeprefix("transformer.")].copy())
    model.tie_weights()
    tokens = recipe.given("tokens", generator.integers(VOCABULARY, size=(2, 8)))
    text = torch.from_numpy(tokens)
    past = np.tril(np.ones((8, 8), dtype=bool))[None]
    places = np.arange(8)[None]
    everything = np.ones((2, 7))

    output = model(text)
    # Its own loss casts the logits to float32; here they stay float64.
    loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    recipe.expect("logits", output.logits, second=_jax_gpt2(state, tokens, places, past))
    recipe.expect("loss", loss, second=_jax_loss(state, tokens, places, past, everything))
    names = [n for n, _ in model.named_parameters()]
    grads = torch.autograd.grad(loss, list(model.parameters()))
    counterparts = jax.grad(_jax_loss)(state, tokens, places, past, everything)
    for name, grad in zip(names, grads):
        recipe.expect(f"d_gpt2.{name}", grad, second=counterparts[name.removeprefix("transformer.")])

    kept = recipe.given("key_mask", np.array([[True] * 8, [False] * 3 + [True] * 5]))
    places = np.maximum(kept.cumsum(-1) - 1, 0)
    output = model(text, attention_mask=torch.from_numpy(kept.astype(np.int64)), position_ids=torch.from_numpy(places))
    padded = _jax_gpt2(state, tokens, places, past & kept[:, None])
    recipe.expect("logits_padded", output.logits[torch.from_numpy(kept)], second=np.asarray(padded)[kept])

    greedy = model.generate(text[:, :3], max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    by_hand = tokens[:, :3]
    for t in range(3, 9):
        logits = _jax_gpt2(state, by_hand, np.arange(t)[None], np.tril(np.ones((t, t), dtype=bool))[None])
        by_hand = np.concatenate([by_hand, np.asarray(logits)[:, -1:].argmax(-1)], 1)
    recipe.expect("greedy", greedy, second=by_hand)
    _sampling(recipe)


def _sampling(recipe):
    import torch
    import transformers

    z = recipe.given("scores", 2 * np.random.default_rng(5).normal(size=(3, 9)))
    warped = torch.from_numpy(z)
    for warper in (
        transformers.TemperatureLogitsWarper(0.7),
        transformers.TopKLogitsWarper(6),
        transformers.TopPLogitsWarper(0.8),
    ):
        warped = warper(None, warped)
    p = np.exp(z / 0.7)
    p *= np.argsort(np.argsort(-p, -1), -1) < 6
    p /= p.sum(-1, keepdims=True)
    for row in p:
        order = np.argsort(-row)
        row[order[int(np.searchsorted(row[order].cumsum(), 0.8)) + 1 :]] = 0
    recipe.expect("probabilities", warped.softmax(-1), second=p / p.sum(-1, keepdims=True))
