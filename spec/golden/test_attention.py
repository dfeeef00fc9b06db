"""Attention against torch, jax, flax, onnx and transformers: values, two derivatives, and weights moved over."""

import pytest
import torch

from impl.layers.attention import CrossAttention, KeyValueCache, MultiHeadAttention, scaled_dot_product_attention
from spec.golden import load


def check_function(tag, **options):
    """Output, gradients to query, key and value, and a product with the second derivative, as frozen."""
    golden = load("self-attention")
    leaves = [golden[f"{name}_{tag}"].requires_grad_() for name in ("query", "key", "value")]
    output = scaled_dot_product_attention(*leaves, **options)
    golden.check(f"output_{tag}", output)
    grads = torch.autograd.grad(output, leaves, golden[f"cotangent_{tag}"], create_graph=True)
    for name, grad in zip(("query", "key", "value"), grads):
        golden.check(f"d_{name}_{tag}", grad)
    (curvature,) = torch.autograd.grad(grads[1], leaves[0], golden[f"tangent_{tag}"])
    golden.check(f"curvature_{tag}", curvature)


# ---------------------------------------------------------------------------------------------- self-attention


@pytest.mark.item("self-attention")
@pytest.mark.parametrize(
    ("tag", "options"),
    [("plain", {}), ("grouped", {"enable_gqa": True}), ("causal", {"is_causal": True}), ("later", {"is_causal": True})],
)
def test_attention_agrees(tag, options):
    """Output, ∂Q, ∂K, ∂V and a second derivative are torch's and jax's: plain, grouped, causal with t = s and t < s.

    Source: Vaswani et al. 2017, eq. 1; torch's scaled_dot_product_attention, jax.nn.softmax.
    Convention: causal masks at the bottom right, grouped heads are neighbours.
    """
    check_function(tag, **options)


@pytest.mark.item("self-attention")
def test_masked_attention_agrees():
    """With a boolean mask and a scale, and with values added to scores, values and derivatives are torch's and jax's.

    Source: Vaswani et al. 2017, eq. 1 and §3.2.3.  Convention: True may attend.
    """
    golden = load("self-attention")
    check_function("masked", attn_mask=golden["mask"].bool(), scale=0.3)
    check_function("biased", attn_mask=golden["bias"])


@pytest.mark.item("self-attention")
def test_self_attention_agrees_with_torch_and_flax():
    """With torch.nn.MultiheadAttention's weights and padding, output and weights of every head are torch's and flax's.

    Source: Vaswani et al. 2017, §3.2.2; torch.nn.MultiheadAttention, flax.linen.MultiHeadDotProductAttention.
    Convention: key_mask is the negation of key_padding_mask.
    """
    golden = load("self-attention")
    module = MultiHeadAttention(12, 3).double()
    module.load_state_dict(golden.state_dict("torch"))
    output, weights = module(golden["x"], key_mask=golden["key_mask"].bool(), need_weights=True)
    golden.check("y", output)
    golden.check("weights", weights)


@pytest.mark.item("self-attention")
@pytest.mark.parametrize("chunks", [[6], [1, 3, 2]])
def test_gpt2s_weights_move_over(chunks):
    """GPT-2's attention layer is a causal MultiHeadAttention, at once or in chunks with a cache, of these weights:

    in_proj_weight = c_attn.weightᵀ, in_proj_bias = c_attn.bias, out_proj = c_proj, its weight transposed.

    Source: Radford et al. 2019 (GPT-2); transformers' GPT2Attention, whose Conv1D keeps (in, out); onnx's Attention.
    """
    golden = load("self-attention")
    theirs = golden.state_dict("gpt2")
    module = MultiHeadAttention(12, 3, is_causal=True).double()
    module.load_state_dict(
        {
            "in_proj_weight": theirs["c_attn.weight"].T,
            "in_proj_bias": theirs["c_attn.bias"],
            "out_proj.weight": theirs["c_proj.weight"].T,
            "out_proj.bias": theirs["c_proj.bias"],
        }
    )
    cache = KeyValueCache()
    parts = [module(tokens, cache=cache) for tokens in golden["x_gpt2"].split(chunks, dim=1)]
    golden.check("y_gpt2", torch.cat(parts, 1))


# ---------------------------------------------------------------------------------------------- cross-attention


@pytest.mark.item("cross-attention")
def test_cross_attention_agrees_with_torch_and_jax():
    """With weights of torch.nn.MultiheadAttention(kdim, vdim), output, weights and the gradients to all inputs agree.

    Source: Vaswani et al. 2017, §3.2.3; torch.nn.MultiheadAttention, jax.nn.softmax and jax.vjp.
    Convention: key_mask is the negation of key_padding_mask.
    """
    golden = load("cross-attention")
    module = CrossAttention(12, 3, kdim=5, vdim=7).double()
    module.load_state_dict(golden.state_dict("torch"))
    leaves = [golden[name].requires_grad_() for name in ("query", "key", "value")]
    output, weights = module(*leaves, key_mask=golden["key_mask"].bool(), need_weights=True)
    golden.check("y", output)
    golden.check("weights", weights)
    for name, grad in zip(("query", "key", "value"), torch.autograd.grad(output, leaves, golden["cotangent"])):
        golden.check(f"d_{name}", grad)


@pytest.mark.item("cross-attention")
def test_barts_weights_move_over():
    """BART's encoder-decoder attention is a CrossAttention of these weights:

    q_proj_weight = q_proj.weight, likewise k and v, in_proj_bias = their biases joined, out_proj = out_proj.

    Source: Lewis et al. 2019, arXiv:1910.13461; transformers' BartAttention; onnx's Attention.
    """
    golden = load("cross-attention")
    theirs = golden.state_dict("bart")
    module = CrossAttention(12, 3).double()
    module.load_state_dict(
        {f"{n}_proj_weight": theirs[f"{n}_proj.weight"] for n in "qkv"}
        | {"in_proj_bias": torch.cat([theirs[f"{n}_proj.bias"] for n in "qkv"])}
        | {name: theirs[name] for name in ("out_proj.weight", "out_proj.bias")}
    )
    kept = golden["key_mask_bart"].bool()
    golden.check("y_bart", module(golden["query_bart"], golden["context_bart"], key_mask=kept))
