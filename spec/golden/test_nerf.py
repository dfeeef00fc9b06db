"""Golden values of neural radiance fields.  Mildenhall et al. 2020, arXiv:2003.08934."""

import pytest
import torch

from impl.models.nerf import NeRF, sample_pdf, volume_render
from spec.golden import load

pytestmark = pytest.mark.item("nerf")


def test_network_of_three_layers():
    """Colours and densities of eight points, and gradients to the points and three weights, of a network of width 6.

    Source: Mildenhall et al. 2020, figure 7 and eq. 4; values of jax.
    """
    golden = load("nerf")
    model = NeRF(pos_freqs=3, dir_freqs=2, width=6, depth=3, skip=2).double()
    model.load_state_dict(golden.state_dict("state"))
    x = golden["x"].requires_grad_()
    rgb, sigma = model(x, golden["d"])
    golden.check("rgb", rgb)
    golden.check("sigma", sigma)
    names = ("layers.0.weight", "layers.2.weight", "feature.weight")
    parameters = dict(model.named_parameters())
    paired = (rgb * golden["of_rgb"]).sum() + (sigma * golden["of_sigma"]).sum()
    gradients = torch.autograd.grad(paired, [x, *(parameters[name] for name in names)])
    for name, gradient in zip(("x", *names), gradients, strict=True):
        golden.check(f"gradient.{name}", gradient)


def test_quadrature_of_three_rays():
    """Colour, depth, opacity and weights of three rays of lengths 1, 5 and ¾ with five samples, empty segments among
    them.

    Source: Mildenhall et al. 2020, eq. 3; values of nerfacc.
    """
    golden = load("nerf")
    found = volume_render(golden["colours"], golden["density"], golden["t"], golden["directions"], last=0.25)
    for name, value in zip(("colour", "depth", "opacity", "weights"), found, strict=True):
        golden.check(name, value)


def test_quantiles_of_two_densities():
    """Eight quantiles each of two piecewise constant densities, in any order, with ⅛ added to each weight.

    Source: Mildenhall et al. 2020, §5.2; values of scipy.stats.rv_histogram.
    """
    golden = load("nerf")
    golden.check("quantiles", sample_pdf(golden["edges"], golden["masses"], golden["u"], eps=0.125))


@pytest.mark.parametrize(("included", "count"), [(False, 593_924), (True, 595_844)])
def test_published_size(included, count):
    """The default network has 593,924 parameters; with p included in γ, as released, 595,844: two of them in float32
    take 4.77 MB.

    Source: Mildenhall et al. 2020, §5.1, figure 7, and §6.4: "the network weights take 5 MB".
    """
    with torch.device("meta"):
        model = NeRF(include_input=included)
    found = sum(p.numel() for p in model.parameters())
    assert found == count, f"expected {count} parameters, found {found}"
