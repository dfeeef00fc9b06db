"""Golden values of Mamba: transformers' model and mambapy's block, confirmed by jax; zero-order hold by scipy.

Weights are frozen under the official code's names, which are ours. Both libraries cast A, D, Δ and B to float32
whatever they are given, transformers the norms' input and the residuals as well; the recipe lifts those casts, so that
the values are float64 throughout.
"""

from unittest import mock

import numpy as np

from spec.golden import Recipe, recipe

VOCABULARY, WIDTH, LAYERS, STATES, TAPS, EXPAND, RANK, LENGTH = 11, 6, 2, 3, 4, 2, 2, 9
INNER = EXPAND * WIDTH
PUBLISHED = {"130m": (768, 24), "370m": (1024, 48), "790m": (1536, 48), "1400m": (2048, 48), "2800m": (2560, 64)}


def _config(width=WIDTH, layers=LAYERS, **options):
    from transformers import MambaConfig

    return MambaConfig(hidden_size=width, num_hidden_layers=layers, use_mambapy=False, **options)


def _block(jax, x, w):
    """Algorithm 2 in one go: the state at t is the sum of what came before, each times its decay e^(A (S_t − S_s))."""
    jnp = jax.numpy
    joint = x @ w["in_proj.weight"].T
    u, z = joint[..., :INNER], joint[..., INNER:]
    padded = jnp.pad(u, ((0, 0), (TAPS - 1, 0), (0, 0)))
    taps = jnp.stack([padded[:, j : j + x.shape[1]] for j in range(TAPS)], -1)
    u = jax.nn.silu(jnp.einsum("btdk,dk->btd", taps, w["conv1d.weight"][:, 0]) + w["conv1d.bias"])
    read = u @ w["x_proj.weight"].T
    delta = jax.nn.softplus(read[..., :RANK] @ w["dt_proj.weight"].T + w["dt_proj.bias"])
    B, C = read[..., RANK : RANK + STATES], read[..., RANK + STATES :]
    total = jnp.cumsum(delta, 1)
    span = jnp.where(np.tril(np.ones((x.shape[1],) * 2))[None, :, :, None] > 0, total[:, :, None] - total[:, None], 0)
    kept = jnp.exp(-span[..., None] * jnp.exp(w["A_log"])) * np.tril(np.ones((x.shape[1],) * 2))[:, :, None, None]
    y = jnp.einsum("btn,btsdn,bsn,bsd->btd", C, kept, B, delta * u) + w["D"] * u
    return (y * jax.nn.silu(z)) @ w["out_proj.weight"].T


def _model(jax, tokens, w):
    jnp = jax.numpy

    def norm(x, weight):
        return weight * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

    x = w["backbone.embeddings.weight"][tokens]
    for n in range(LAYERS):
        prefix = f"backbone.layers.{n}.mixer."
        parts = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        x = x + _block(jax, norm(x, w[f"backbone.layers.{n}.norm.weight"]), parts)
    return norm(x, w["backbone.norm_f.weight"]) @ w["backbone.embeddings.weight"].T


def _weights(recipe, rng, tag, module):
    found = {}
    for name, old in module.state_dict().items():
        if name == "lm_head.weight":
            found[name] = recipe.given(f"{tag}.{name}", found["backbone.embeddings.weight"])
            continue
        scale = 0.3 if name.endswith(("A_log", "dt_proj.bias")) else 0.8
        found[name] = recipe.given(f"{tag}.{name}", scale * rng.normal(size=old.shape))
    return found


@recipe(
    "mamba",
    oracle="transformers MambaForCausalLM(use_mambapy=False) and mambapy MambaBlock in float64; parameters on meta",
    second="algorithm 2 with the recurrence summed out in jax; scipy.signal.cont2discrete; the counts by arithmetic",
    needs=("torch", "transformers", "mambapy", "jax", "scipy"),
)
def mamba(recipe: Recipe) -> None:
    import jax
    import torch
    from mambapy.mamba import MambaBlock, MambaConfig
    from transformers import MambaForCausalLM

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    sizes = {"vocab_size": VOCABULARY, "state_size": STATES, "conv_kernel": TAPS, "time_step_rank": RANK}
    lifted = mock.patch.object(torch.Tensor, "float", torch.Tensor.double)
    with lifted, mock.patch.object(torch, "float32", torch.float64):
        model = MambaForCausalLM(_config(expand=EXPAND, **sizes)).double()
        weights = _weights(recipe, rng, "model", model)
        model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        tokens = recipe.given("tokens", rng.integers(0, VOCABULARY, size=(2, LENGTH)))
        logits = model(torch.from_numpy(tokens), use_cache=False).logits
        targets = torch.from_numpy(tokens)[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets)
        names = [name for name, _ in model.named_parameters()]
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            made = model.generate(torch.from_numpy(tokens[:, :3]), max_new_tokens=12, do_sample=False, pad_token_id=0)

        block = MambaBlock(MambaConfig(WIDTH, 1, RANK, STATES, EXPAND, TAPS)).double()
        block_weights = _weights(recipe, rng, "block", block)
        block.load_state_dict({name: torch.from_numpy(w) for name, w in block_weights.items()})
        x = recipe.given("x", rng.normal(size=(2, LENGTH, WIDTH)))
        cotangent = recipe.given("cotangent", rng.normal(size=x.shape))
        leaf = torch.from_numpy(x).requires_grad_()
        output = block(leaf)
        block_names = ["x", *(name for name, _ in block.named_parameters())]
        block_slopes = torch.autograd.grad(output, [leaf, *block.parameters()], torch.from_numpy(cotangent))

    def of_tokens(w):
        logits = _model(jax, tokens, w)
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)
        return -chosen.mean(), logits

    counterparts = {name: jax.numpy.asarray(w) for name, w in weights.items() if name != "lm_head.weight"}
    (second_loss, second_logits), second_slopes = jax.value_and_grad(of_tokens, has_aux=True)(counterparts)
    recipe.expect("logits", logits, second=second_logits)
    recipe.expect("loss", loss, second=second_loss)
    for name, slope in zip(names, slopes, strict=True):
        recipe.expect(f"slope.{name}", slope, second=second_slopes[name])
    text = tokens[:, :3]
    for _ in range(12):
        text = np.concatenate([text, np.asarray(_model(jax, text, counterparts))[:, -1:].argmax(-1)], 1)
    recipe.expect("generated", made, second=text)

    counterparts = {name: jax.numpy.asarray(w) for name, w in block_weights.items()}
    second, pull = jax.vjp(lambda x, w: _block(jax, x, w), jax.numpy.asarray(x), counterparts)
    of_x, of_weights = pull(jax.numpy.asarray(cotangent))
    recipe.expect("block_y", output, second=second)
    for name, slope in zip(block_names, block_slopes, strict=True):
        recipe.expect(f"block_slope.{name}", slope, second=of_x if name == "x" else of_weights[name])

    _zero_order_hold(recipe, rng)
    for name, (width, layers) in PUBLISHED.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in MambaForCausalLM(_config(width, layers, vocab_size=50280)).parameters())
        inner, rank = 2 * width, width // 16
        a_block = width * 2 * inner + inner * 5 + inner * (rank + 32) + (rank + 1) * inner + 17 * inner + inner * width
        recipe.expect(f"parameters_{name}", count, second=50280 * width + layers * (a_block + width) + width)


def _zero_order_hold(recipe, rng):
    """Ā and B̄ of single states, and the states of an input that is constant in each step."""
    import mpmath
    from scipy.signal import cont2discrete

    delta = recipe.given("zoh.delta", np.array([1e-4, 0.01, 0.3, 1.0, 7.0]))
    A = recipe.given("zoh.A", [-float(mpmath.exp(v)) for v in rng.normal(size=4).tolist()])
    B = recipe.given("zoh.B", rng.normal(size=4))
    found = np.zeros((2, 5, 4))
    exact = np.zeros((2, 5, 4))
    for i, step in enumerate(delta):
        system = (np.diag(A), B[:, None], np.ones((1, 4)), np.zeros((1, 1)))
        decay, gain, *_ = cont2discrete(system, step, method="zoh")
        found[:, i] = np.diag(decay), gain[:, 0]
        for j in range(4):
            a = mpmath.mpf(A[j])
            exact[:, i, j] = float(mpmath.exp(step * a)), float(mpmath.expm1(step * a) / a * B[j])
    recipe.expect("zoh.decay", found[0], second=exact[0])
    recipe.expect("zoh.gain", found[1], second=exact[1])
