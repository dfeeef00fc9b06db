"""Golden values of transformer blocks."""

import pytest
import torch

from impl.layers.attention import KeyValueCache
from impl.layers.transformer import TransformerDecoderBlock, TransformerEncoderBlock
from spec.golden import load

pytestmark = pytest.mark.item("transformer-block")

settings = pytest.mark.parametrize(("tag", "activation"), [("post", "relu"), ("pre", "gelu")])


def check(golden, tag, module, call, inputs):
    """The output, and the gradients to the inputs and to all weights."""
    leaves = [golden[name].requires_grad_() for name in inputs]
    output = call(*leaves)
    golden.check(f"y_{tag}", output)
    weights = {n: p for n, p in module.named_parameters() if n.endswith("weight")}
    grads = torch.autograd.grad(output, [*leaves, *weights.values()], golden[f"cotangent_{tag}"])
    for name, grad in zip(
        [*(f"d_input_{n}_{tag}" for n in range(len(leaves))), *(f"d_{tag}.{n}" for n in weights)], grads
    ):
        golden.check(name, grad)


@settings
def test_encoder_agrees_with_torch_and_jax(tag, activation):
    """With torch.nn.TransformerEncoderLayer's weights and padding, output and gradients are torch's and jax's.

    Source: Vaswani et al. 2017, §3.1; Xiong et al. 2020, Table 1.  Convention: key_mask is the negation of
        src_key_padding_mask.
    """
    golden = load("transformer-block")
    module = TransformerEncoderBlock(12, 3, 10, 0.0, activation, 0.3, norm_first=tag == "pre").double()
    module.load_state_dict(golden.state_dict(f"encoder_{tag}"))
    kept = golden["key_mask"].bool()
    check(golden, f"encoder_{tag}", module, lambda x: module(x, key_mask=kept), ["x"])


@settings
def test_decoder_agrees_with_torch_and_jax(tag, activation):
    """With torch.nn.TransformerDecoderLayer's weights and causal tgt_mask, output and gradients are torch's and jax's.

    Source: Vaswani et al. 2017, §3.1; Xiong et al. 2020, Table 1.
    """
    golden = load("transformer-block")
    module = TransformerDecoderBlock(12, 3, 10, 0.0, activation, 0.3, norm_first=tag == "pre").double()
    module.load_state_dict(golden.state_dict(f"decoder_{tag}"))
    check(golden, f"decoder_{tag}", module, module, ["x", "memory"])


@pytest.mark.parametrize("chunks", [[6], [1, 3, 2]])
def test_gpt2s_block_moves_over(chunks):
    """GPT-2's block is a causal pre-norm encoder block with "gelu_tanh", at once or in chunks with a cache:

    self_attn.in_proj = attn.c_attn, out_proj = attn.c_proj, linear1 = mlp.c_fc, linear2 = mlp.c_proj, all transposed.

    Source: Radford et al. 2019 (GPT-2), §2.3: layer normalization moved to the input of each sub-block; transformers'
        GPT2Block, whose Conv1D keeps (in, out).
    """
    golden = load("transformer-block")
    theirs = golden.state_dict("gpt2")
    module = TransformerEncoderBlock(12, 3, 10, 0.0, "gelu_tanh", 0.3, norm_first=True, is_causal=True).double()
    names = {"self_attn.out_proj": "attn.c_proj", "linear1": "mlp.c_fc", "linear2": "mlp.c_proj"}
    names |= {"self_attn.in_proj": "attn.c_attn"}
    state = {f"{ours}.bias": theirs[f"{name}.bias"] for ours, name in names.items()}
    state |= {f"{ours}.weight": theirs[f"{name}.weight"].T for ours, name in names.items()}
    state = {name.replace("in_proj.", "in_proj_"): tensor for name, tensor in state.items()}
    state |= {f"norm{n}.{k}": theirs[f"ln_{n}.{k}"] for n in (1, 2) for k in ("weight", "bias")}
    module.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    cache = KeyValueCache()
    golden.check("y_gpt2", torch.cat([module(part, cache=cache) for part in golden["x_gpt2"].split(chunks, 1)], 1))


def test_barts_decoder_layer_moves_over():
    """BART's decoder layer is a post-norm decoder block with exact GELU, whose W^Q, W^K and W^V are stacked here.

    Source: Lewis et al. 2019, arXiv:1910.13461, §2.1; transformers' BartDecoderLayer.
    """
    golden = load("transformer-block")
    theirs = golden.state_dict("bart")
    module = TransformerDecoderBlock(12, 3, 10, 0.0, "gelu").double()
    state = {}
    for ours, name in (("self_attn", "self_attn"), ("multihead_attn", "encoder_attn")):
        for kind in ("weight", "bias"):
            state[f"{ours}.in_proj_{kind}"] = torch.cat([theirs[f"{name}.{n}_proj.{kind}"] for n in "qkv"])
            state[f"{ours}.out_proj.{kind}"] = theirs[f"{name}.out_proj.{kind}"]
    names = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm", "norm2": "encoder_attn_layer_norm"}
    for ours, name in (names | {"norm3": "final_layer_norm"}).items():
        state |= {f"{ours}.{kind}": theirs[f"{name}.{kind}"] for kind in ("weight", "bias")}
    module.load_state_dict(state)
    kept = golden["memory_key_mask"].bool()
    golden.check("y_bart", module(golden["x_bart"], golden["memory_bart"], memory_key_mask=kept))
