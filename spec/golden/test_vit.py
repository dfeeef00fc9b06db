"""Golden values of ViT.  Dosovitskiy et al. 2020, arXiv:2010.11929."""

import pytest
import torch

from impl.models.vit import VisionTransformer
from spec import cost
from spec.cases.vit import SETTINGS
from spec.golden import load

pytestmark = pytest.mark.item("vit")


def blocks(golden, theirs, ours, count):
    """The library's names of a transformer's blocks → those of torch.nn.TransformerEncoderLayer."""
    names = {"attention.o_proj": "self_attn.out_proj", "layernorm_before": "norm1", "layernorm_after": "norm2"}
    names |= {"mlp.fc1": "linear1", "mlp.fc2": "linear2"}
    found = {}
    for number in range(count):
        for kind in ("weight", "bias"):
            found[f"{ours}.{number}.self_attn.in_proj_{kind}"] = torch.cat(
                [golden[f"{theirs}.{number}.attention.{letter}_proj.{kind}"] for letter in "qkv"]
            )
            for their, our in names.items():
                found[f"{ours}.{number}.{our}.{kind}"] = golden[f"{theirs}.{number}.{their}.{kind}"]
    return found


def state_of(golden):
    """The recipe's weights under our names."""
    state = blocks(golden, "vit.layers", "blocks", 2)
    pairs = {"norm": "vit.layernorm", "head": "classifier"}
    pairs["patches.projection"] = "vit.embeddings.patch_embeddings.projection"
    for our, their in pairs.items():
        state |= {f"{our}.{kind}": golden[f"{their}.{kind}"] for kind in ("weight", "bias")}
    state["class_token"] = golden["vit.embeddings.cls_token"][0, 0]
    return state | {"positions": golden["vit.embeddings.position_embeddings"][0]}


def test_released_layout_gives_the_numbers_of_transformers():
    """Tokens and logits of images of 4 × 6 pixels, and the gradient of Σ logits² to the pixels.

    Source: Dosovitskiy et al. 2020, eq. 1 to 4; values of transformers' ViTForImageClassification.
    """
    golden = load("vit")
    model = VisionTransformer(**SETTINGS).double().eval()
    model.load_state_dict(state_of(golden))
    images = golden["images"].requires_grad_()
    golden.check("tokens", model.encode(images))
    logits = model(images)
    golden.check("logits", logits)
    golden.check("gradient", torch.autograd.grad(logits.square().sum(), images)[0])


@pytest.mark.parametrize(
    ("patch", "layers", "width", "heads", "expected"),
    [
        (16, 12, 192, 3, 5_717_416),
        (16, 12, 384, 6, 22_050_664),
        (16, 12, 768, 12, 86_567_656),
        (32, 12, 768, 12, 88_224_232),
        (16, 24, 1024, 16, 304_326_632),
        (14, 32, 1280, 16, 632_045_800),
    ],
)
def test_published_sizes(patch, layers, width, heads, expected):
    """Ti/16 has 5.7 million parameters, S/16 22, B/16 86.6, B/32 88.2, L/16 304 and H/14 632, with 1000 classes.

    Source: Dosovitskiy et al. 2020, table 1 (86, 307, 632 million); exact numbers of the released models.
    """
    with torch.device("meta"):
        model = VisionTransformer(224, patch, layers, heads, width, 4 * width)
    found = sum(p.numel() for p in model.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"


@pytest.mark.parametrize(
    ("layers", "width", "heads", "expected"), [(12, 768, 12, 17_563_828_224), (24, 1024, 16, 61_554_712_576)]
)
def test_published_operations(layers, width, heads, expected):
    """An image of 224² costs B/16 17.56 and L/16 61.55 billion multiply-adds, all matrix products counted.

    Source: Dosovitskiy et al. 2020, table 1, whose layouts they follow from: N·P²·c·D + L·T·12D² + 2·L·T²·D + D·K.
    """
    with torch.device("meta"):
        model = VisionTransformer(224, 16, layers, heads, width, 4 * width)
        found = cost.flops(model, torch.empty(1, 3, 224, 224)) // 2
    assert found == expected, f"expected {expected} multiply-adds, found {found}"
