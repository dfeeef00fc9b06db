"""Golden values of linear attention: loops over pairs of tokens in NumPy, confirmed by recurrent sums in jax.

The oracle forms every weight φ(q_i)ᵀφ(k_j), one pair at a time, with logarithms; the second derivation carries S and z
from token to token, as the paper's eq. 16-20. Gradients are its own in jax, confirmed by those of a softmax in torch.
"""

import numpy as np

from spec.golden import Recipe, recipe

BATCH, TOKENS, WIDTH, HEADS, FEATURES = 2, 7, 12, 3, 10


@recipe(
    "linear-attention",
    oracle="NumPy, one pair of tokens at a time; for gradients jax, through a recurrence over tokens, in float64",
    second="that recurrence; for gradients torch, through a softmax of all pairs",
    needs=("numpy", "jax", "torch"),
)
def linear_attention(recipe: Recipe) -> None:
    import jax

    with jax.enable_x64(True):
        _generate(recipe, jax)


def _generate(recipe, jax):
    rng = np.random.default_rng(0)
    x = recipe.given("x", rng.normal(size=(BATCH, TOKENS, WIDTH)))
    present = recipe.given("key_mask", np.arange(TOKENS) < np.array([[TOKENS], [5]]))
    cotangent = recipe.given("cotangent", rng.normal(size=x.shape))
    shapes = {
        "in_proj_weight": (3 * WIDTH, WIDTH),
        "in_proj_bias": (3 * WIDTH,),
        "out_proj.weight": (WIDTH, WIDTH),
        "out_proj.bias": (WIDTH,),
    }
    weights = {n: recipe.given(f"weights.{n}", 0.4 * rng.normal(size=shape)) for n, shape in shapes.items()}
    projection = recipe.given("projection", rng.normal(size=(FEATURES, WIDTH // HEADS)))

    # The kernel alone: exp(ωᵀx − ‖x‖²/2)/√m for vectors and projection.
    vectors = recipe.given("vectors", rng.normal(size=(5, WIDTH // HEADS)))
    by_pairs = [[np.exp(w @ v - v @ v / 2) / FEATURES**0.5 for w in projection] for v in vectors]
    recipe.expect("features", np.array(by_pairs), second=_favor(jax.numpy, vectors, projection))

    for name, kernel in (("elu", None), ("favor", projection)):
        for causal in (False, True):
            tag = f"{name}_{'causal' if causal else 'full'}"
            expected = _by_pairs(x, weights, kernel, present, causal)

            def run(tokens, kernel=kernel, causal=causal):
                return _by_recurrence(jax, tokens, weights, kernel, present, causal)

            found, pull = jax.vjp(run, x)
            recipe.expect(f"y_{tag}", expected, second=np.asarray(found))
            (slope,) = pull(cotangent)
            confirmed = _slope_of_all_weights(x, weights, kernel, present, causal, cotangent)
            recipe.expect(f"d_x_{tag}", np.asarray(slope), second=confirmed)


def _elu_plus_one(np, x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def _favor(np, x, projection):
    return np.exp(x @ projection.T - (x * x).sum(-1, keepdims=True) / 2) / len(projection) ** 0.5


def _by_pairs(x, weights, projection, present, causal):
    """Every weight on its own, with math.log and math.exp of the kernel's logarithm."""
    size, output = WIDTH // HEADS, np.zeros_like(x)
    for b in range(len(x)):
        packed = np.array([weights["in_proj_weight"] @ token + weights["in_proj_bias"] for token in x[b]])
        read = np.zeros((TOKENS, WIDTH))
        for h in range(HEADS):
            rows = [slice(part * WIDTH + h * size, part * WIDTH + (h + 1) * size) for part in range(3)]
            query, key, value = (packed[:, r] for r in rows)
            for i in range(TOKENS):
                seen = [j for j in range(i + 1 if causal else TOKENS) if present[b, j]]
                kernel = np.array([_log_kernel(query[i], key[j], projection) for j in seen])
                share = np.exp(kernel - kernel.max())
                read[i, h * size : (h + 1) * size] = (share / share.sum()) @ value[seen]
        output[b] = read @ weights["out_proj.weight"].T + weights["out_proj.bias"]
    return output


def _log_kernel(query, key, projection):
    if projection is None:
        return np.log(sum(_elu_plus_one(np, a) * _elu_plus_one(np, b) for a, b in zip(query, key)))
    a, b = query / len(query) ** 0.25, key / len(key) ** 0.25
    # The two exponents of a feature added: exp(ω·(a + b) − (‖a‖² + ‖b‖²)/2)/m.
    return np.logaddexp.reduce([w @ (a + b) for w in projection]) - (a @ a + b @ b) / 2 - np.log(len(projection))


def _by_recurrence(jax, x, weights, projection, present, causal):
    """S and z carried from token to token; without a mask their last values serve all queries."""
    jnp, size = jax.numpy, WIDTH // HEADS
    packed = x @ weights["in_proj_weight"].T + weights["in_proj_bias"]
    query, key, value = (t.reshape(BATCH, TOKENS, HEADS, size) for t in jnp.split(packed, 3, axis=-1))
    if projection is None:
        query, key = (_elu_plus_one(jnp, t) for t in (query, key))
    else:
        query, key = (_favor(jnp, t / size**0.25, projection) for t in (query, key))
    key = key * present[:, :, None, None]

    def step(carried, token):
        total, count = carried
        k, v = token
        total, count = total + k[..., :, None] * v[..., None, :], count + k
        return (total, count), (total, count)

    start = jnp.zeros((BATCH, HEADS, key.shape[-1], size)), jnp.zeros((BATCH, HEADS, key.shape[-1]))
    last, each = jax.lax.scan(step, start, (key.swapaxes(0, 1), value.swapaxes(0, 1)))
    total, count = each if causal else (jnp.broadcast_to(l, e.shape) for l, e in zip(last, each))
    query = query.swapaxes(0, 1)
    read = jnp.einsum("tbhm,tbhmv->tbhv", query, total) / jnp.einsum("tbhm,tbhm->tbh", query, count)[..., None]
    read = read.swapaxes(0, 1).reshape(BATCH, TOKENS, WIDTH)
    return read @ weights["out_proj.weight"].T + weights["out_proj.bias"]


def _slope_of_all_weights(x, weights, projection, present, causal, cotangent):
    """torch's gradient of attention that forms the N² weights as a softmax of the logarithms of the kernel."""
    import torch

    leaf, there = torch.from_numpy(x).requires_grad_(), torch.from_numpy(present)
    weights = {n: torch.from_numpy(w) for n, w in weights.items()}
    packed = torch.nn.functional.linear(leaf, weights["in_proj_weight"], weights["in_proj_bias"])
    query, key, value = packed.reshape(BATCH, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    if projection is None:
        scores = ((torch.nn.functional.elu(query) + 1) @ (torch.nn.functional.elu(key) + 1).mT).log()
    else:
        omega, root = torch.from_numpy(projection), query.shape[-1] ** 0.25
        a, b = ((t @ omega.T) / root - t.square().sum(-1, keepdim=True) / root**2 / 2 for t in (query, key))
        scores = torch.logsumexp(a[..., :, None, :] + b[..., None, :, :], -1)
    allowed = there[:, None, None] & (torch.ones(TOKENS, TOKENS).tril().bool() if causal else torch.tensor(True))
    read = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value
    output = torch.nn.functional.linear(
        read.permute(0, 2, 1, 3).flatten(2), weights["out_proj.weight"], weights["out_proj.bias"]
    )
    return torch.autograd.grad(output, leaf, torch.from_numpy(cotangent))[0]
