"""Golden values of U-Net.  Ronneberger, Fischer & Brox 2015, arXiv:1505.04597."""

import pytest
import torch

from impl.models.unet import UNet, border_weights
from spec import cost
from spec.golden import load

pytestmark = pytest.mark.item("unet")


def test_both_paddings_give_the_numbers_of_torch_and_scipy():
    """Scores without padding and the gradient of their squares to the pixels, and scores with padding, for one state.

    Source: Ronneberger et al. 2015, figure 1; values of torch.nn.functional.
    """
    golden = load("unet")
    names = UNet(2, 3, 2, 2).state_dict()
    state = {name: golden[name] for name in names}
    model, padded = UNet(2, 3, 2, 2).double().eval(), UNet(2, 3, 2, 2, "same").double().eval()
    model.load_state_dict(state)
    padded.load_state_dict(state)
    images = golden["images"].requires_grad_()
    scores = model(images)
    golden.check("scores", scores)
    golden.check("gradient", torch.autograd.grad(scores.square().sum(), images)[0])
    golden.check("padded", padded(golden["small"]))


def test_weights_are_those_of_a_distance_transform():
    """Weights of a map of four cells with w₀ = 8, σ = 3 and w_c = ½ for background, 3/2 for cells.

    Source: Ronneberger et al. 2015, eq. 2; distances of scipy.ndimage.
    """
    golden = load("unet")
    balance = torch.tensor([0.5, 1.5], dtype=torch.float64)
    golden.check("weights", border_weights(golden["cells"].long(), 8.0, 3.0, balance))


def test_published_layout():
    """One channel to two classes with the defaults is 31,030,658 parameters, and 572² pixels become 388².

    Source: Ronneberger et al. 2015, figure 1.
    """
    with torch.device("meta"):
        model = UNet(1, 2)
        found = tuple(model(torch.randn(1, 1, 572, 572)).shape)
    count = sum(p.numel() for p in model.parameters())
    assert count == 31_030_658, f"expected 31030658 parameters, found {count}"
    assert found == (1, 2, 388, 388), f"expected scores of 388 × 388 pixels, found {found}"


def test_published_operations():
    """An image of 572² takes 150.43 billion multiply-adds, as the sizes of figure 1 give them.

    Source: Ronneberger et al. 2015, figure 1: sides and channels at each convolution.
    """
    sides = [(570, 568, 1, 64), (282, 280, 64, 128), (138, 136, 128, 256), (66, 64, 256, 512), (30, 28, 512, 1024)]
    total = sum(9 * (a * a * before * after + b * b * after * after) for a, b, before, after in sides)
    for up, a, b, channels in ((56, 54, 52, 512), (104, 102, 100, 256), (200, 198, 196, 128), (392, 390, 388, 64)):
        total += up * up * 2 * channels * channels + 9 * (a * a * 2 * channels**2 + b * b * channels**2)
    total += 388 * 388 * 64 * 2
    with torch.device("meta"):
        found = cost.flops(UNet(1, 2), torch.randn(1, 1, 572, 572)) // 2
    assert found == total, f"expected {total} multiply-adds, found {found}"
    assert round(total / 1e9, 2) == 150.43, f"expected 150.43 billion, found {total / 1e9}"
