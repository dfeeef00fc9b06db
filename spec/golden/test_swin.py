"""Golden values of Swin.  Liu et al. 2021, arXiv:2103.14030."""

import pytest
import torch

from impl.models.swin import SwinTransformer, WindowAttention
from spec import cost
from spec.golden import load

pytestmark = pytest.mark.item("swin")


def state_of(golden):
    """The recipe's weights, named as in transformers, under our names."""
    pairs = {"embedding_norm": "embeddings.norm", "norm": "layernorm"}
    pairs |= {"patches.projection": "embeddings.patch_embeddings.projection"}
    pairs |= {"mergings.0.norm": "encoder.layers.0.downsample.norm"}
    state = {"mergings.0.reduction.weight": golden["swin.encoder.layers.0.downsample.reduction.weight"]}
    for stage in range(2):
        for number in range(2):
            ours, theirs = f"stages.{stage}.{number}", f"encoder.layers.{stage}.blocks.{number}"
            pairs |= {f"{ours}.norm1": f"{theirs}.layernorm_before", f"{ours}.norm2": f"{theirs}.layernorm_after"}
            pairs |= {f"{ours}.mlp.linear1": f"{theirs}.mlp.fc1", f"{ours}.mlp.linear2": f"{theirs}.mlp.fc2"}
            pairs |= {f"{ours}.attention.out_proj": f"{theirs}.attention.o_proj"}
            own = f"swin.{theirs}.attention"
            table = golden[f"{own}.relative_position_bias.relative_position_bias_table"]
            state[f"{ours}.attention.bias_table"] = table
            for kind in ("weight", "bias"):
                three = [golden[f"{own}.{letter}_proj.{kind}"] for letter in "qkv"]
                state[f"{ours}.attention.in_proj_{kind}"] = torch.cat(three)
    for kind in ("weight", "bias"):
        state |= {f"{our}.{kind}": golden[f"swin.{their}.{kind}"] for our, their in pairs.items()}
        state[f"head.{kind}"] = golden[f"classifier.{kind}"]
    return state


def test_released_layout_gives_the_numbers_of_transformers():
    """Tokens, logits and the gradient of Σ logits² to the pixels, where images, windows and pairs need padding.

    Source: Liu et al. 2021, eq. 3 and 4; values of transformers' SwinForImageClassification.
    """
    golden = load("swin")
    model = SwinTransformer(4, (2, 2), (2, 4), 2, 2, 5, 3).double().eval()
    model.load_state_dict(state_of(golden))
    images = golden["images"].requires_grad_()
    golden.check("tokens", model.encode(images).flatten(1, 2))
    logits = model(images)
    golden.check("logits", logits)
    golden.check("gradient", torch.autograd.grad(logits.square().sum(), images)[0])


LAYOUTS = {"T": (96, (2, 2, 6, 2)), "S": (96, (2, 2, 18, 2)), "B": (128, (2, 2, 18, 2)), "L": (192, (2, 2, 18, 2))}


def published(name):
    width, depths = LAYOUTS[name]
    with torch.device("meta"):
        return SwinTransformer(width, depths, [width // 32 * 2**stage for stage in range(4)])


@pytest.mark.parametrize(
    ("name", "expected"), [("T", 28_288_354), ("S", 49_606_258), ("B", 87_768_224), ("L", 196_532_476)]
)
def test_published_sizes(name, expected):
    """Swin-T has 28.3 million parameters, S 49.6, B 87.8 and L 196.5, with windows of 7 and 1000 classes.

    Source: Liu et al. 2021, table 1 (29, 50, 88, 197 million); exact numbers of the released models.
    """
    found = sum(p.numel() for p in published(name).parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"


@pytest.mark.parametrize(("name", "expected"), [("T", 4_490_566_656), ("S", 8_740_875_264), ("B", 15_430_946_816)])
def test_published_operations(name, expected):
    """An image of 224² costs Swin-T 4.5, S 8.7 and B 15.4 billion multiply-adds.

    Source: Liu et al. 2021, table 1; exact numbers by eq. 2, MLPs 8hwC², mergings 8(hw/4)C², patches and head.
    """
    with torch.device("meta"):
        found = cost.flops(published(name), torch.empty(1, 3, 224, 224)) // 2
    width, depths = LAYOUTS[name]
    total, tokens, c = 56 * 56 * 48 * width + 8 * width * 1000, 56 * 56, width
    for stage, depth in enumerate(depths):
        total += depth * (12 * tokens * c * c + 2 * 49 * tokens * c)
        if stage < 3:
            tokens, c = tokens // 4, 2 * c
            total += tokens * 2 * c * c
    assert total == expected, f"the count of the equations is {total}"
    assert found == expected, f"expected {expected} multiply-adds, found {found}"


def test_cost_of_global_and_windowed_attention():
    """At 56 × 56 tokens of width 96, Ω(MSA) is 2,003,828,736 and Ω(W-MSA) with M = 7 is 145,108,992 multiply-adds.

    Source: Liu et al. 2021, eq. 1 and 2.
    """
    with torch.device("meta"):
        for side, expected in ((56, 2_003_828_736), (7, 145_108_992)):
            attention = WindowAttention(96, side, 3)
            found = cost.flops(attention, torch.randn(3136 // side**2, side**2, 96)) // 2
            assert found == expected, f"windows of {side}: expected {expected} multiply-adds, found {found}"
