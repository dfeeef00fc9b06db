"""Golden values of transformer blocks: torch's, GPT-2's and BART's layers, confirmed by the equations in jax.

The weights of a foreign layer are frozen under its own names; the specs hold the mapping to ours.
"""

import numpy as np

from spec.golden import Recipe, recipe

BATCH, WIDTH, HEADS, HIDDEN, EPS = 2, 12, 3, 10, 0.3


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _weights(recipe, prefix, module, seed):
    """Random weights under the module's own names, put into it and frozen."""
    import torch

    state = {}
    for n, (name, old) in enumerate(module.state_dict().items()):
        state[name] = recipe.given(f"{prefix}.{name}", 0.4 * _normal(seed + n, *old.shape))
    module.double().load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return state


def _block(activation, norm_first, eps=EPS):
    """(parameters under torch.nn's names, x, memory or None, masks) → output, in jax and one equation after another."""
    import jax
    import jax.numpy as jnp

    act = {
        "relu": jax.nn.relu,
        "gelu": lambda z: jax.nn.gelu(z, approximate=False),
        "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    }[activation]

    def norm(p, name, x):
        centred = x - x.mean(-1, keepdims=True)
        x = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(p, name, x, context, mask):
        weights, biases = jnp.split(p[f"{name}.in_proj_weight"], 3), jnp.split(p[f"{name}.in_proj_bias"], 3)
        q, k, v = (
            (t @ w.T + b).reshape(*t.shape[:2], HEADS, -1) for t, w, b in zip((x, context, context), weights, biases)
        )
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
        read = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1, where=mask), v)
        return read.reshape(x.shape) @ p[f"{name}.out_proj.weight"].T + p[f"{name}.out_proj.bias"]

    def feed_forward(p, x):
        return act(x @ p["linear1.weight"].T + p["linear1.bias"]) @ p["linear2.weight"].T + p["linear2.bias"]

    def run(p, x, memory=None, mask=None, memory_mask=None):
        branches = [lambda t: attention(p, "self_attn", t, t, mask)]
        if memory is not None:
            branches.append(lambda t: attention(p, "multihead_attn", t, memory, memory_mask))
        branches.append(lambda t: feed_forward(p, t))
        for n, branch in enumerate(branches, 1):
            x = x + branch(norm(p, f"norm{n}", x)) if norm_first else norm(p, f"norm{n}", x + branch(x))
        return x

    return run


def _expect(recipe, tag, module, counterpart, state, inputs, seed):
    """Output and the gradients to inputs and to the parameters of both: `module` in torch, `second(state, *inputs)`."""
    import jax
    import jax.numpy as jnp
    import torch

    leaves = [torch.from_numpy(a).requires_grad_() for a in inputs]
    output = module(*leaves)
    cotangent = recipe.given(f"cotangent_{tag}", _normal(seed, *output.shape))
    names = [n for n in state if n.endswith("weight")]
    parameters = dict(counterpart.parameters)
    grads = torch.autograd.grad(output, leaves + [parameters[n] for n in names], torch.from_numpy(cotangent))
    other, pull = jax.vjp(counterpart.run, {n: jnp.asarray(a) for n, a in state.items()}, *map(jnp.asarray, inputs))
    of_state, *of_inputs = pull(jnp.asarray(cotangent))
    recipe.expect(f"y_{tag}", output, second=other)
    for n, (grad, second) in enumerate(zip(grads, of_inputs)):
        recipe.expect(f"d_input_{n}_{tag}", grad, second=second)
    for name, grad in zip(names, grads[len(inputs) :]):
        recipe.expect(f"d_{tag}.{name}", grad, second=of_state[name])


class _Reference:
    def __init__(self, run, module):
        self.run, self.parameters = run, module.named_parameters()


@recipe(
    "transformer-block",
    oracle="torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, transformers' GPT2Block and "
    "BartDecoderLayer, in float64",
    second="the equations in jax, in float64, with jax.vjp",
    needs=("torch", "jax", "transformers"),
)
def transformer_block(recipe: Recipe) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    _torch_layers(recipe)
    _gpt2(recipe)
    _bart(recipe)


def _torch_layers(recipe):
    import torch

    x, memory = recipe.given("x", _normal(1, BATCH, 5, WIDTH)), recipe.given("memory", _normal(2, BATCH, 7, WIDTH))
    kept = recipe.given("key_mask", np.array([[True, True, False, True, True], [True, False, True, True, False]]))
    past = np.tril(np.ones((5, 5), dtype=bool))
    hidden = torch.from_numpy(~kept)
    for tag, norm_first, activation in (("post", False, "relu"), ("pre", True, "gelu")):
        settings = {"dropout": 0.0, "activation": activation, "layer_norm_eps": EPS, "norm_first": norm_first}
        encoder = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, **settings)
        state = _weights(recipe, f"encoder_{tag}", encoder, 10)
        run = _block(activation, norm_first)
        _expect(
            recipe,
            f"encoder_{tag}",
            lambda t, encoder=encoder: encoder(t, src_key_padding_mask=hidden),
            _Reference(lambda p, t, run=run: run(p, t, mask=kept[:, None, None]), encoder),
            state,
            [x],
            50,
        )
        decoder = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, **settings)
        state = _weights(recipe, f"decoder_{tag}", decoder, 30)
        _expect(
            recipe,
            f"decoder_{tag}",
            lambda t, m, decoder=decoder: decoder(t, m, tgt_mask=torch.from_numpy(~past)),
            _Reference(lambda p, t, m, run=run: run(p, t, m, mask=past), decoder),
            state,
            [x, memory],
            60,
        )


def _gpt2(recipe):
    """A pre-norm block of GPT-2, which keeps its matrices as (in, out)."""
    import torch
    import transformers
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    config = transformers.GPT2Config(
        n_embd=WIDTH, n_head=HEADS, n_inner=HIDDEN, layer_norm_epsilon=EPS, attn_implementation="eager"
    )
    block = GPT2Block(config, layer_idx=0).eval()
    state = _weights(recipe, "gpt2", block, 70)
    x = recipe.given("x_gpt2", _normal(3, BATCH, 6, WIDTH))
    past = torch.ones(6, 6, dtype=torch.bool).tril()
    mask = torch.zeros(6, 6, dtype=torch.float64).masked_fill(~past, torch.finfo(torch.float64).min)
    output = block(torch.from_numpy(x), attention_mask=mask[None, None])
    output = output[0] if isinstance(output, tuple) else output
    moved = {
        "self_attn.in_proj_weight": state["attn.c_attn.weight"].T,
        "self_attn.in_proj_bias": state["attn.c_attn.bias"],
        "self_attn.out_proj.weight": state["attn.c_proj.weight"].T,
        "self_attn.out_proj.bias": state["attn.c_proj.bias"],
        "linear1.weight": state["mlp.c_fc.weight"].T,
        "linear1.bias": state["mlp.c_fc.bias"],
        "linear2.weight": state["mlp.c_proj.weight"].T,
        "linear2.bias": state["mlp.c_proj.bias"],
    } | {f"norm{n}.{kind}": state[f"ln_{n}.{kind}"] for n in (1, 2) for kind in ("weight", "bias")}
    recipe.expect("y_gpt2", output, second=_block("gelu_tanh", True)(moved, x, mask=past.numpy()))


def _bart(recipe):
    """A post-norm decoder layer of BART, whose three projections stand apart."""
    import torch
    import transformers
    from transformers.models.bart.modeling_bart import BartDecoderLayer

    config = transformers.BartConfig(
        d_model=WIDTH,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=HIDDEN,
        activation_function="gelu",
        attn_implementation="eager",
    )
    layer = BartDecoderLayer(config, layer_idx=0).eval()
    state = _weights(recipe, "bart", layer, 100)
    x, memory = (
        recipe.given("x_bart", _normal(4, BATCH, 5, WIDTH)),
        recipe.given("memory_bart", _normal(5, BATCH, 7, WIDTH)),
    )
    kept = recipe.given("memory_key_mask", np.array([[True] * 5 + [False] * 2, [True, False] * 3 + [True]]))
    least = torch.finfo(torch.float64).min
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    output = layer(
        torch.from_numpy(x),
        attention_mask=torch.zeros(5, 5, dtype=torch.float64).masked_fill(~past, least)[None, None],
        encoder_hidden_states=torch.from_numpy(memory),
        encoder_attention_mask=torch.zeros(BATCH, 1, 5, 7, dtype=torch.float64).masked_fill(
            ~torch.from_numpy(kept)[:, None, None], least
        ),
    )
    output = output[0] if isinstance(output, tuple) else output
    moved = {}
    for ours, theirs in (("self_attn", "self_attn"), ("multihead_attn", "encoder_attn")):
        for kind in ("weight", "bias"):
            moved[f"{ours}.in_proj_{kind}"] = np.concatenate([state[f"{theirs}.{n}_proj.{kind}"] for n in "qkv"])
            moved[f"{ours}.out_proj.{kind}"] = state[f"{theirs}.out_proj.{kind}"]
    names = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm", "norm2": "encoder_attn_layer_norm"}
    for ours, theirs in (names | {"norm3": "final_layer_norm"}).items():
        moved |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    second = _block("gelu", False, eps=1e-5)(moved, x, memory, past.numpy(), kept[:, None, None])
    recipe.expect("y_bart", output, second=second)
