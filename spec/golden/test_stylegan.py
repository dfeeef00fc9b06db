"""Golden values of StyleGAN and StyleGAN2.  Karras et al. 2018, arXiv:1812.04948, and 2019, arXiv:1912.04958."""

import pytest
import torch

from impl.models.stylegan import (
    AdaptiveInstanceNorm2d,
    MappingNetwork,
    ModulatedConv2d,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGANDiscriminator,
    StyleGANGenerator,
)
from spec.cases.stylegan import CRITIC, SMALL
from spec.golden import load

pytestmark = pytest.mark.item("stylegan")


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def count(expected, found):
    assert found == expected, f"expected {expected:,} parameters, found {found:,}"


@pytest.mark.parametrize(
    ("of", "arguments", "expected"),
    [
        (StyleGANGenerator, {"z_dim": 512, "w_dim": 512}, 26_219_627),
        (StyleGANDiscriminator, {}, 23_087_249),
        (StyleGAN2Generator, {"z_dim": 512, "w_dim": 512}, 30_370_060),
        (StyleGAN2Discriminator, {}, 29_012_513),
    ],
)
def test_networks_of_1024_pixels_have_their_published_sizes(of, arguments, expected):
    """StyleGAN has 26,219,627 parameters and a discriminator of 23,087,249; StyleGAN2 30,370,060 and 29,012,513.

    Source: Karras, Laine & Aila 2018, §2 and the listing in the authors' README; StyleGAN2: the authors' PyTorch code
    with channel_base 32768 and 8 mapping layers.
    """
    with torch.device("meta"):
        count(expected, parameters(of(resolution=1024, **arguments)))


def test_networks_of_256_pixels_have_their_published_sizes():
    """At 256 pixels with channel_base 16384 StyleGAN2 has 24,767,458 parameters, its discriminator 24,001,089.

    Source: the authors' PyTorch code, configuration paper256.
    """
    with torch.device("meta"):
        count(24_767_458, parameters(StyleGAN2Generator(512, 512, 256, channel_base=16384)))
        count(24_001_089, parameters(StyleGAN2Discriminator(256, channel_base=16384)))


def test_mapping_network_has_two_million_parameters():
    """Eight layers of 512 units have 8 · (512² + 512) = 2,101,248 parameters.

    Source: Karras, Laine & Aila 2018, §2: an 8-layer perceptron.
    """
    with torch.device("meta"):
        count(2_101_248, parameters(MappingNetwork(512, 512)))


@pytest.mark.parametrize("of", [StyleGANGenerator, StyleGAN2Generator])
def test_an_image_of_1024_pixels_has_18_styles(of):
    """2 log₂ R − 2 styles control an image of R × R pixels: 18 at 1024 × 1024, 14 at 256 × 256.

    Source: Karras, Laine & Aila 2018, §2: 18 layers, two for each resolution 4² to 1024².
    """
    with torch.device("meta"):
        found = [of(512, 512, resolution).num_ws for resolution in (256, 1024)]
    assert found == [14, 18], f"expected 14 and 18 styles, found {found}"


def loaded(module, golden, prefix):
    """In float64, with the frozen weights and whatever else it has."""
    module = module.double().eval()
    state, frozen = module.state_dict(), golden.state_dict(prefix)
    module.load_state_dict({key: frozen.get(key, value) for key, value in state.items()})
    return module


def test_mapping():
    """f(z) of two layers with lr_multiplier 0.1, and z far from unit length.

    Source: Karras, Laine & Aila 2018, appendix C.
    """
    golden = load("stylegan")
    mapping = MappingNetwork(5, 6, num_layers=2, lr_multiplier=0.1).double()
    mapping.load_state_dict({k: v for k, v in golden.state_dict("mapping").items() if k.startswith("layers")})
    golden.check("mapping.w", mapping(golden["mapping.z"]))


@pytest.mark.parametrize(("name", "demodulate"), [("modulated.y", True), ("modulated.plain", False)])
def test_modulated_convolution(name, demodulate):
    """Equations 1 and 3, and equation 1 alone, with ε = 0.2 and styles of both signs.

    Source: Karras et al. 2019, eq. 1 and 3.
    """
    golden = load("stylegan")
    conv = ModulatedConv2d(3, 4, 3, 6, demodulate=demodulate, eps=0.2).double()
    conv.load_state_dict({key: golden[f"modulated.{key}"] for key in ("weight", "style.weight", "style.bias")})
    golden.check(name, conv(golden["modulated.x"], golden["modulated.w"]))


def test_adaptive_instance_normalization():
    """AdaIN with ε = 0.2 of an image far from zero mean and unit contrast.

    Source: Karras, Laine & Aila 2018, eq. 1.
    """
    golden = load("stylegan")
    norm = AdaptiveInstanceNorm2d(3, 6, eps=0.2).double()
    norm.load_state_dict({key: golden[f"adain.{key}"] for key in ("style.weight", "style.bias")})
    golden.check("adain.y", norm(golden["adain.x"], golden["adain.w"]))


def test_images_of_the_first_generator():
    """8 × 8 images of two samples with four styles each and fixed noise; also with the upper resolution at weight 0.3.

    Source: Karras, Laine & Aila 2018, figure 1b.
    """
    golden = load("stylegan")
    network = loaded(StyleGANGenerator(**SMALL, image_channels=2), golden, "g1")
    golden.check("g1.image", network.synthesis(golden["ws"]))
    golden.check("g1.faded", network.synthesis(golden["ws"], alpha=0.3))


def test_images_of_the_second_generator():
    """8 × 8 images of two samples with four styles each and fixed noise.

    Source: Karras et al. 2019, figures 2c and 7b.
    """
    golden = load("stylegan")
    network = loaded(StyleGAN2Generator(**SMALL, image_channels=2), golden, "g2")
    golden.check("g2.image", network.synthesis(golden["ws"]))


def test_logits():
    """Logits of eight images, in two groups of four, of both discriminators.

    Source: Karras, Laine & Aila 2018, appendix C; Karras et al. 2019, figure 7c.
    """
    golden = load("stylegan")
    for name, of in (("d1", StyleGANDiscriminator), ("d2", StyleGAN2Discriminator)):
        golden.check(f"{name}.logits", loaded(of(**CRITIC), golden, name)(golden["images"]))


def test_path_lengths():
    """‖J_wᵀ y‖ of the second generator, by autograd through `synthesis`, from the frozen noise y/√(H·W).

    Source: Karras et al. 2019, eq. 4.
    """
    golden = load("stylegan")
    network = loaded(StyleGAN2Generator(**SMALL, image_channels=2), golden, "g2")
    ws = golden["ws"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((network.synthesis(ws) * golden["path.noise"]).sum() / 8, ws)
    golden.check("path.lengths", gradient.square().sum(-1).mean(-1).sqrt())
