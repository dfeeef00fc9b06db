"""Golden values of PixelCNN.  van den Oord et al. 2016, arXiv:1601.06759 and arXiv:1606.05328."""

import math

import pytest
import torch
from torch import nn

from impl.models.pixelcnn import MaskedConv2d, PixelCNN
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("pixelcnn")


@pytest.mark.parametrize(("kernel", "mask_type", "taps"), [
    (3, "A", 4), (3, "B", 5), (5, "A", 12), (5, "B", 13), (7, "A", 24), (7, "B", 25),
])  # fmt: skip
def test_taps_of_a_mask(kernel, mask_type, taps):
    """A mask of n × n leaves (n² − 1)/2 taps with A and one more with B: 4, 12 and 24 of 3², 5² and 7².

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4, figure 2.
    """
    convolution = MaskedConv2d(1, 1, kernel, mask_type).double()
    convolution.load_state_dict({key: torch.ones_like(v) for key, v in convolution.state_dict().items()})
    y = convolution(torch.ones(1, 1, 2 * kernel, 2 * kernel, dtype=torch.float64))
    found = y[0, 0, kernel, kernel].item() - 1  # the bias
    assert found == taps, f"expected {taps} taps, found {found}"


@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_masked_convolution(mask_type):
    """A 5 × 3 kernel over two colours in 4 channels, 3 channels out for each.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4.
    """
    golden = load("pixelcnn")
    convolution = MaskedConv2d(4, 6, (5, 3), mask_type, num_groups=2).double()
    convolution.load_state_dict({name: golden[f"masked.{name}"] for name in ("weight", "bias")})
    golden.check(f"masked.{mask_type}", convolution(golden["masked.x"]))


def test_logits_and_log_probability_of_a_whole_model():
    """Two gated layers with a condition, two colours of three levels: logits, and log p in nats.

    Source: van den Oord et al. 2016, arXiv:1606.05328, eq. 2-4, figure 2.
    """
    golden = load("pixelcnn")
    net = PixelCNN(2, 3, channels=4, num_layers=2, kernel_size=3, first_kernel_size=5, condition_features=3).double()
    net.load_state_dict(golden.state_dict("model"))
    x, condition = golden["x"], golden["condition"]
    golden.check("logits", net(x, condition))
    golden.check("log_prob", net.log_prob(x, condition))


def test_the_blind_spot_of_a_plain_stack_of_masks():
    """3 × 3 mask A and eight times mask B on 11 × 11: 10 of the 93 predecessors of pixel (8, 5) are never seen.

    They are the triangle to the right that grows by one column less with each row up: (7, 7-10), (6, 8-10), (5, 9-10)
    and (4, 10).

    Source: van den Oord et al. 2016, arXiv:1606.05328, figure 1: the blind spot of the first PixelCNN.
    """
    stack = nn.Sequential(*(MaskedConv2d(1, 1, 3, "B" if n else "A", bias=False) for n in range(9))).double()
    for convolution in stack:
        convolution.load_state_dict({"weight": torch.full((1, 1, 3, 3), 0.2)})
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(stack(x)[0, 0, 8, 5], x)
    seen = gradient[0, 0] != 0
    before = (torch.arange(121) < 8 * 11 + 5).view(11, 11)
    assert not (seen & ~before).any(), "expected no later pixel, found one"
    unseen = sorted(map(tuple, (before & ~seen).nonzero().tolist()))
    expected = [(row, column) for row in range(4, 8) for column in range(14 - row, 11)]
    assert unseen == expected, f"expected the blind spot {expected}, found {unseen}"


def test_256_levels_without_an_opinion_are_eight_bits():
    """The uniform distribution over 256 levels has ln 256 = 5.545177444479562 nats = 8 bits a colour of a pixel.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.3 and §5.2.
    """
    net = PixelCNN(1, 256, channels=2, num_layers=1).double()
    state = {key: torch.zeros_like(v) for key, v in net.state_dict().items()}
    net.load_state_dict(state)
    found = -net.log_prob(torch.full((1, 1, 1, 1), 200))
    laws.assert_close(found, torch.tensor([5.545177444479562], dtype=torch.float64), rtol=1e-14, atol=0)
    assert math.isclose(found.item() / math.log(2), 8)
