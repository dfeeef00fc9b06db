"""Golden values of MAE.  He et al. 2021, arXiv:2111.06377."""

import pytest
import torch

from impl.models.mae import MaskedAutoencoder, grid_positions
from spec.golden import load
from spec.golden.test_vit import blocks

pytestmark = pytest.mark.item("mae")


def golden_model(golden, **options):
    """A model of 8 × 8 pixels in patches of 2 × 2 with the recipe's weights."""
    model = MaskedAutoencoder(8, 2, 8, 2, 2, decoder_width=4, decoder_layers=1, decoder_heads=2, **options).double()
    state = blocks(golden, "vit.layers", "blocks", 2) | blocks(golden, "decoder.decoder_layers", "decoder_blocks", 1)
    pairs = {"norm": "vit.layernorm", "decoder_input": "decoder.decoder_embed", "head": "decoder.decoder_pred"}
    pairs |= {
        "decoder_norm": "decoder.decoder_norm",
        "patches.projection": "vit.embeddings.patch_embeddings.projection",
    }
    for our, their in pairs.items():
        state |= {f"{our}.{kind}": golden[f"{their}.{kind}"] for kind in ("weight", "bias")}
    state["class_token"] = golden["vit.embeddings.cls_token"][0, 0]
    model.load_state_dict(state | {"mask_token": golden["decoder.mask_token"][0, 0]})
    return model.eval()


def test_released_layout_gives_the_numbers_of_transformers():
    """Predictions, mask and loss of two images with given noise at r = 0.7, and the gradient to the pixels.

    Source: He et al. 2021, §3; values of transformers' ViTMAEForPreTraining.
    """
    golden = load("mae")
    model, images = golden_model(golden), golden["images"].requires_grad_()
    prediction, hidden = model(images, 0.7, golden["noise"])
    golden.check("hidden", hidden.double())
    golden.check("prediction", prediction)
    loss = model.loss(images, 0.7, golden["noise"])
    golden.check("loss", loss)
    golden.check("gradient", torch.autograd.grad(loss, images)[0])


def test_loss_of_normalized_patches_is_that_of_transformers():
    """The loss with targets of mean 0 and variance 1, the variance divided by P² c − 1.

    Source: He et al. 2021, §3, "Reconstruction target"; values of transformers' ViTMAEForPreTraining.
    """
    golden = load("mae")
    golden.check(
        "normalized_loss", golden_model(golden, normalize_targets=True).loss(golden["images"], 0.7, golden["noise"])
    )


def test_positions_are_those_of_transformers():
    """The sines and cosines of a grid of 4 × 4 at width 8, in float32.

    Source: He et al. 2021, appendix A.1; values of transformers and of mpmath.
    """
    golden = load("mae")
    golden.check("positions", grid_positions(4, 4, 8).double())


@pytest.mark.parametrize(
    ("width", "layers", "heads", "expected"), [(768, 12, 12, 111_655_680), (1024, 24, 16, 329_239_296)]
)
def test_published_sizes(width, layers, heads, expected):
    """In pretraining ViT-B/16 has 111,655,680 learned parameters and ViT-L/16 329,239,296, the decoder's included.

    Source: He et al. 2021, §4; transformers' ViTMAEForPreTraining has as many besides its fixed positions.
    """
    with torch.device("meta"):
        model = MaskedAutoencoder(224, 16, width, layers, heads)
    found = sum(p.numel() for p in model.parameters())
    assert found == expected, f"expected {expected} parameters, found {found}"
