"""Golden values of CLIP.  Radford et al. 2021, arXiv:2103.00020."""

import pytest
import torch

from impl.models.clip import CLIP, TextTransformer, VisionTransformer
from spec.golden import load

pytestmark = pytest.mark.item("clip")


def blocks(golden, side):
    """The library's names of a transformer's parts → ours."""
    found = {}
    for number in range(2):
        theirs, ours = f"{side}.encoder.layers.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            found[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(
                [golden[f"{theirs}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            )
            pairs = {"self_attn.out_proj": "self_attn.out_proj", "layer_norm1": "norm1", "layer_norm2": "norm2"}
            for their, our in (pairs | {"mlp.fc1": "linear1", "mlp.fc2": "linear2"}).items():
                found[f"{ours}.{our}.{kind}"] = golden[f"{theirs}.{their}.{kind}"]
    return found


def golden_model(golden):
    """A model of two layers of width 6 a side with the recipe's weights."""
    image = VisionTransformer(4, 2, width=6, layers=2, heads=2, embed_dim=4, channels=3).double()
    text = TextTransformer(11, 5, width=6, layers=2, heads=2, embed_dim=4).double()
    norms = {"ln_pre": "vision_model.pre_layrnorm", "ln_post": "vision_model.post_layernorm"}
    state = blocks(golden, "vision_model") | {
        f"{our}.{kind}": golden[f"{their}.{kind}"] for our, their in norms.items() for kind in ("weight", "bias")
    }
    state["patches.weight"] = golden["vision_model.embeddings.patch_embedding.weight"]
    state["class_embedding"] = golden["vision_model.embeddings.class_embedding"]
    state["positional_embedding"] = golden["vision_model.embeddings.position_embedding.weight"]
    image.load_state_dict(state | {"projection": golden["visual_projection.weight"].T})
    state = blocks(golden, "text_model") | {
        f"ln_final.{kind}": golden[f"text_model.final_layer_norm.{kind}"] for kind in ("weight", "bias")
    }
    state["token_embedding.weight"] = golden["text_model.embeddings.token_embedding.weight"]
    state["positional_embedding"] = golden["text_model.embeddings.position_embedding.weight"]
    text.load_state_dict(state | {"projection": golden["text_projection.weight"].T})
    model = CLIP(image, text).double()
    model.logit_scale.data.copy_(golden["logit_scale"])
    return model.eval()


def test_released_layout_gives_the_numbers_of_transformers():
    """Features, logits, loss and its gradient to the pixels, of three pairs and two layers a side.

    Source: Radford et al. 2021, figure 3; values of transformers' CLIPModel.
    """
    golden = load("clip")
    model, images = golden_model(golden), golden["images"].requires_grad_()
    golden.check("image_features", model.encode_image(images))
    golden.check("text_features", model.encode_text(golden["tokens"]))
    golden.check("logits", model(images, golden["tokens"]))
    loss = model.loss(images, golden["tokens"])
    golden.check("loss", loss)
    golden.check("gradient", torch.autograd.grad(loss, images)[0])


@pytest.mark.parametrize(
    ("patch", "width", "layers", "text_width", "expected"),
    [(32, 768, 12, 512, 151_277_313), (14, 1024, 24, 768, 427_616_513)],
)
def test_published_sizes(patch, width, layers, text_width, expected):
    """ViT-B/32 has 151,277,313 parameters and ViT-L/14 427,616,513, both encoders and the scale together.

    Source: Radford et al. 2021, tables 19 and 20; transformers' CLIPModel has as many.
    """
    with torch.device("meta"):
        image = VisionTransformer(224, patch, width, layers, width // 64, text_width)
        model = CLIP(image, TextTransformer(49408, 77, text_width, 12, text_width // 64, text_width))
    found = sum(p.numel() for p in model.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
