"""Golden values of attention: torch's kernels and layers and transformers', confirmed by jax, flax and onnx.

The weights of a foreign layer are frozen under its own names; the specs hold the mapping to ours.
"""

import numpy as np

from spec.golden import Recipe, recipe

BATCH, WIDTH, HEADS = 2, 12, 3


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _mask(seed, *shape):
    """True for about two thirds, and for the first key always."""
    mask = np.random.default_rng(seed).random(shape) < 0.66
    mask[..., 0] = True
    return mask


def _weights(recipe, prefix, module, seed):
    """Random weights under the module's own names, put into it and frozen."""
    import torch

    state = {}
    for n, (name, old) in enumerate(module.state_dict().items()):
        state[name] = recipe.given(f"{prefix}.{name}", 0.5 * _normal(seed + n, *old.shape))
    module.double().load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return state


def _heads(tokens):
    """(b, t, heads · d) → (b, heads, t, d)."""
    return tokens.reshape(*tokens.shape[:2], HEADS, -1).swapaxes(1, 2)


def _onnx_attention(query, key, value, mask=None, **attributes):
    """onnx's operator Attention, of opset 23, by its reference evaluator, of (b, tokens, heads · d)."""
    import onnx
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    arrays = {"q": query, "k": key, "v": value} | ({} if mask is None else {"m": mask})
    kinds = {"m": TensorProto.BOOL}
    node = helper.make_node("Attention", list(arrays), ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(n, kinds.get(n, TensorProto.DOUBLE), list(a.shape)) for n, a in arrays.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None] * 3)]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, arrays)[0]


def _jax_attention(query, key, value, mask=None, bias=0.0, scale=None):
    """softmax(Q Kᵀ/√d + bias) V of (b, heads, tokens, d) in jax; its own function takes the softmax in float32."""
    import jax
    import jax.numpy as jnp

    heads, shared = query.shape[1], key.shape[1]
    serving = [h // (heads // shared) for h in range(heads)]
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key[:, serving]) * (scale or query.shape[-1] ** -0.5) + bias
    weights = jax.nn.softmax(scores, axis=-1, where=mask)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value[:, serving])


def _function(recipe, tag, first, second, shapes, seed):
    """Output, gradients and a product with the second derivative of two functions of (query, key, value)."""
    import jax
    import jax.numpy as jnp
    import torch

    arrays = [recipe.given(f"{n}_{tag}", _normal(seed + i, *shape)) for i, (n, shape) in enumerate(shapes.items())]
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    output = first(*leaves)
    cotangent = recipe.given(f"cotangent_{tag}", _normal(seed + 5, *output.shape))
    tangent = recipe.given(f"tangent_{tag}", _normal(seed + 6, *arrays[1].shape))
    grads = torch.autograd.grad(output, leaves, torch.from_numpy(cotangent), create_graph=True)
    (curvature,) = torch.autograd.grad(grads[1], leaves[0], torch.from_numpy(tangent))

    counterpart, pull = jax.vjp(second, *map(jnp.asarray, arrays))
    recipe.expect(f"output_{tag}", output, second=counterpart)
    for name, grad, other in zip(shapes, grads, pull(jnp.asarray(cotangent))):
        recipe.expect(f"d_{name}_{tag}", grad, second=other)

    def slope_along_tangent(query):
        _, pull = jax.vjp(second, query, *map(jnp.asarray, arrays[1:]))
        return jnp.vdot(pull(jnp.asarray(cotangent))[1], tangent)

    recipe.expect(f"curvature_{tag}", curvature, second=jax.grad(slope_along_tangent)(jnp.asarray(arrays[0])))


def _shapes(t, s, d_k, d_v, heads, kv_heads):
    return {"query": (2, heads, t, d_k), "key": (2, kv_heads, s, d_k), "value": (2, kv_heads, s, d_v)}


@recipe(
    "self-attention",
    oracle="torch.nn.functional.scaled_dot_product_attention, torch.nn.MultiheadAttention, transformers' GPT2Attention "
    "in float64",
    second="sums of products and jax.nn.softmax in float64 with two derivatives; "
    "flax.linen.MultiHeadDotProductAttention; onnx.reference Attention (opset 23)",
    needs=("torch", "jax", "flax", "onnx", "transformers"),
)
def self_attention(recipe: Recipe) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    _functions(recipe)
    _flax_and_torch(recipe)
    _gpt2(recipe)


def _functions(recipe):
    import jax.numpy as jnp
    import torch

    def kernel(*qkv, **options):
        # The fused kernel has no second derivative.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.nn.functional.scaled_dot_product_attention(*qkv, **options)

    _function(recipe, "plain", kernel, _jax_attention, _shapes(5, 7, 4, 6, 3, 3), 100)
    mask = recipe.given("mask", _mask(1, 2, 1, 5, 7))
    _function(
        recipe,
        "masked",
        lambda *qkv: kernel(*qkv, attn_mask=torch.from_numpy(mask), scale=0.3),
        lambda *qkv: _jax_attention(*qkv, mask=jnp.asarray(mask), scale=0.3),
        _shapes(5, 7, 4, 3, 3, 3),
        110,
    )
    bias = recipe.given("bias", _normal(2, 3, 5, 7))
    _function(
        recipe,
        "biased",
        lambda *qkv: kernel(*qkv, attn_mask=torch.from_numpy(bias)),
        lambda *qkv: _jax_attention(*qkv, bias=jnp.asarray(bias)),
        _shapes(5, 7, 6, 6, 3, 3),
        120,
    )
    _function(
        recipe,
        "grouped",
        lambda *qkv: kernel(*qkv, enable_gqa=True),
        _jax_attention,
        _shapes(4, 6, 3, 3, 6, 2),
        130,
    )
    _function(
        recipe,
        "causal",
        lambda *qkv: kernel(*qkv, is_causal=True),
        lambda *qkv: _jax_attention(*qkv, mask=jnp.tril(jnp.ones((6, 6), dtype=bool))),
        _shapes(6, 6, 4, 4, 3, 3),
        140,
    )
    _function(
        recipe,
        "later",
        lambda *qkv: kernel(*qkv, attn_mask=torch.ones(3, 7, dtype=torch.bool).tril(4)),
        lambda *qkv: _jax_attention(*qkv, mask=jnp.tril(jnp.ones((3, 7), dtype=bool), 4)),
        _shapes(3, 7, 4, 4, 3, 3),
        150,
    )


def _flax_and_torch(recipe):
    import flax.linen
    import jax.numpy as jnp
    import torch

    x = recipe.given("x", _normal(3, BATCH, 5, WIDTH))
    kept = recipe.given("key_mask", np.array([[True, True, True, False, True], [True, False, True, True, False]]))
    module = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    state = _weights(recipe, "torch", module, 10)
    tokens, hidden = torch.from_numpy(x), torch.from_numpy(~kept)
    output, weights = module(tokens, tokens, tokens, key_padding_mask=hidden, average_attn_weights=False)

    counterpart = flax.linen.MultiHeadDotProductAttention(HEADS, dtype="float64", param_dtype="float64")
    names = {"query": 0, "key": 1, "value": 2}
    params = {
        name: {
            "kernel": _kernel(state["in_proj_weight"][WIDTH * n : WIDTH * (n + 1)]),
            "bias": state["in_proj_bias"][WIDTH * n : WIDTH * (n + 1)].reshape(HEADS, -1),
        }
        for name, n in names.items()
    }
    params["out"] = {
        "kernel": state["out_proj.weight"].T.reshape(HEADS, -1, WIDTH),
        "bias": state["out_proj.bias"],
    }
    mask = jnp.asarray(kept)[:, None, None]
    second, sown = counterpart.apply(
        {"params": params}, jnp.asarray(x), mask=mask, sow_weights=True, mutable=["intermediates"]
    )
    recipe.expect("y", output, second=second)
    recipe.expect("weights", weights, second=sown["intermediates"]["attention_weights"][0])


def _kernel(rows):
    """A projection (heads · d, width) of torch as flax's kernel (width, heads, d)."""
    return rows.T.reshape(rows.shape[1], HEADS, -1)


def _gpt2(recipe):
    import torch
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    x = recipe.given("x_gpt2", _normal(4, BATCH, 6, WIDTH))
    config = GPT2Config(n_embd=WIDTH, n_head=HEADS, attn_implementation="eager")
    module = GPT2Attention(config, layer_idx=0).double().eval()
    state = _weights(recipe, "gpt2", module, 20)
    # Since version 5 the model builds the mask and hands it down.
    future = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    output = module(torch.from_numpy(x), attention_mask=future)[0]
    query, key, value = np.split(x @ state["c_attn.weight"] + state["c_attn.bias"], 3, axis=-1)
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "is_causal": 1}
    read = _onnx_attention(query, key, value, **heads)
    recipe.expect("y_gpt2", output, second=read @ state["c_proj.weight"] + state["c_proj.bias"])


@recipe(
    "cross-attention",
    oracle="torch.nn.MultiheadAttention with kdim and vdim, transformers' BartAttention in float64",
    second="sums of products and jax.nn.softmax in float64, and jax.vjp; onnx.reference Attention (opset 23)",
    needs=("torch", "jax", "onnx", "transformers"),
)
def cross_attention(recipe: Recipe) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    _of_widths(recipe)
    _bart(recipe)


def _of_widths(recipe):
    import jax
    import jax.numpy as jnp
    import torch

    inputs = {"query": (BATCH, 4, WIDTH), "key": (BATCH, 6, 5), "value": (BATCH, 6, 7)}
    arrays = [recipe.given(name, _normal(30 + n, *shape)) for n, (name, shape) in enumerate(inputs.items())]
    kept = recipe.given("key_mask", _mask(31, BATCH, 6))
    module = torch.nn.MultiheadAttention(WIDTH, HEADS, kdim=5, vdim=7, batch_first=True)
    state = _weights(recipe, "torch", module, 40)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    output, weights = module(*leaves, key_padding_mask=torch.from_numpy(~kept), average_attn_weights=False)
    cotangent = recipe.given("cotangent", _normal(50, *output.shape))
    grads = torch.autograd.grad(output, leaves, torch.from_numpy(cotangent))

    def second(*tokens):
        biases = jnp.split(jnp.asarray(state["in_proj_bias"]), 3)
        matrices = (state[f"{name}_proj_weight"].T for name in "qkv")
        heads = (_heads(t @ w + b) for t, w, b in zip(tokens, matrices, biases))
        read = _jax_attention(*heads, mask=jnp.asarray(kept)[:, None, None]).swapaxes(1, 2)
        return read.reshape(BATCH, -1, WIDTH) @ state["out_proj.weight"].T + state["out_proj.bias"]

    counterpart, pull = jax.vjp(second, *map(jnp.asarray, arrays))
    recipe.expect("y", output, second=counterpart)
    recipe.expect("weights", weights)
    for name, grad, other in zip(inputs, grads, pull(jnp.asarray(cotangent))):
        recipe.expect(f"d_{name}", grad, second=other)


def _bart(recipe):
    import torch
    from transformers import BartConfig
    from transformers.models.bart.modeling_bart import BartAttention

    query = recipe.given("query_bart", _normal(60, BATCH, 4, WIDTH))
    context = recipe.given("context_bart", _normal(61, BATCH, 6, WIDTH))
    kept = recipe.given("key_mask_bart", _mask(62, BATCH, 6))
    config = BartConfig(attn_implementation="eager")
    module = BartAttention(WIDTH, HEADS, is_decoder=True, config=config, layer_idx=0).double().eval()
    state = _weights(recipe, "bart", module, 70)
    added = torch.zeros(BATCH, 1, 4, 6, dtype=torch.float64)
    added.masked_fill_(~torch.from_numpy(kept)[:, None, None], -torch.inf)
    output, _ = module(torch.from_numpy(query), torch.from_numpy(context), attention_mask=added)
    tokens = {"q": query, "k": context, "v": context}
    projected = [t @ state[f"{n}_proj.weight"].T + state[f"{n}_proj.bias"] for n, t in tokens.items()]
    mask = np.broadcast_to(kept[:, None, None], (BATCH, 1, 4, 6)).copy()
    read = _onnx_attention(*projected, mask=mask, q_num_heads=HEADS, kv_num_heads=HEADS)
    recipe.expect("y_bart", output, second=read @ state["out_proj.weight"].T + state["out_proj.bias"])
