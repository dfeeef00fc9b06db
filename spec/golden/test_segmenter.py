"""Golden values of Segmenter.  Strudel et al. 2021, arXiv:2105.05633."""

import pytest
import torch
from torch import nn

from impl.models.segmenter import LinearDecoder, MaskTransformer, Segmenter
from impl.models.vit import VisionTransformer
from spec.golden import load
from spec.golden.test_vit import blocks

pytestmark = pytest.mark.item("segmenter")


class _Given(nn.Module):
    """An encoder whose states are given: a class token before those of six patches."""

    def __init__(self, states):
        super().__init__()
        self.states, self.patches = states, nn.Module()
        self.patches.patch_size = 2

    def encode(self, images):
        return torch.cat([torch.zeros_like(self.states[:, :1]), self.states], dim=1)


def test_mask_transformer_gives_the_numbers_of_its_library_parts():
    """Cosines, scores, scores enlarged to 4 × 6 pixels, and the gradient of their squares to the states.

    Source: Strudel et al. 2021, eq. 5; values of transformers' ViT layer and torch.nn.functional.
    """
    golden = load("segmenter")
    module = MaskTransformer(6, 5, 8, num_layers=1, num_heads=2).double()
    names = (
        "input.weight",
        "input.bias",
        "classes",
        "norm.weight",
        "norm.bias",
        "patch_projection",
        "class_projection",
    )
    state = {name: golden[name] for name in (*names, "score_norm.weight", "score_norm.bias")}
    parts = golden.state_dict("block")
    module.load_state_dict(
        state | blocks({f"block.0.{name}": part for name, part in parts.items()}, "block", "blocks", 1)
    )
    states = golden["states"].requires_grad_()
    golden.check("cosines", module.cosines(states))
    golden.check("scores", module(states))
    pixels = Segmenter(_Given(states), module)(torch.zeros(2, 1, 4, 6, dtype=torch.float64))
    golden.check("pixels", pixels)
    golden.check("gradient", torch.autograd.grad(pixels.square().sum(), states)[0])


@pytest.mark.parametrize(
    ("width", "heads", "linear", "mask"),
    [(192, 3, 5_712_342, 6_713_388), (384, 6, 22_041_366, 26_033_964), (768, 12, 86_549_910, 102_497_580)],
)
def test_published_sizes(width, heads, linear, mask):
    """With 150 classes Seg-Ti, S and B have 5.7, 22 and 87 million parameters, with mask transformers 6.7, 26 and 102.

    Source: Strudel et al. 2021, table 1 (7, 27 and 106 million with ImageNet's heads); two layers, heads 64 wide.
    """
    with torch.device("meta"):
        encoder = VisionTransformer(512, 16, 12, heads, width, 4 * width, num_classes=None)
        models = (
            Segmenter(encoder, LinearDecoder(width, 150)),
            Segmenter(encoder, MaskTransformer(width, 150, width, 2, heads)),
        )
    found = [sum(p.numel() for p in model.parameters()) for model in models]
    assert found == [linear, mask], f"expected {linear} and {mask} parameters, found {found}"
