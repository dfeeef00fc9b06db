"""Golden values of CycleGAN.  Zhu et al. 2017, arXiv:1703.10593."""

import pytest
import torch
from torch import nn

from impl.models.cyclegan import CycleGAN, PatchGANDiscriminator, ResnetGenerator
from spec.golden import load

pytestmark = pytest.mark.item("cyclegan")


class _Above(nn.Module):
    """Images with eight rows and columns of zeros below and at their right, judged by a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(nn.functional.pad(images, (0, 8, 0, 8)))


def test_networks_and_loss_give_the_numbers_of_torchs_layers():
    """A translated image, logits of patches, the loss of a generator and its gradient to the image.

    D_X is the constant 1, so that the adversarial loss is that of D_Y.

    Source: Zhu et al. 2017, §4 and §7.2; values of torch.nn, confirmed in NumPy.
    """
    golden = load("cyclegan")
    generator = ResnetGenerator(1, 3, width=2, num_blocks=1).double()
    generator.load_state_dict(golden.state_dict("generator"))
    discriminator = PatchGANDiscriminator(3, width=2, num_layers=2).double()
    discriminator.load_state_dict(golden.state_dict("discriminator"))
    golden.check("logits", discriminator(golden["judged"]))
    images = golden["images"].requires_grad_()
    made = generator(images)
    golden.check("made", made)
    fooled = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(fooled.weight)
    gan = CycleGAN(nn.Identity(), generator, fooled, _Above(discriminator))
    loss = gan.adversarial_loss(torch.ones(1, 1, dtype=torch.float64), made)
    golden.check("loss", loss)
    golden.check("gradient", torch.autograd.grad(loss, images)[0])


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_published_sizes():
    """9 blocks have 11,378,179 parameters, 6 have 7,837,699, the 70 × 70 discriminator has 2,764,737.

    An image of 256 × 256 is translated to one of 256 × 256 and judged at 30 × 30 positions.

    Source: Zhu et al. 2017, §7.2; 11.378 and 2.765 million in the output of the released code.
    """
    with torch.device("meta"):
        networks = ResnetGenerator(3, 3), ResnetGenerator(3, 3, num_blocks=6), PatchGANDiscriminator(3)
        shapes = [tuple(network(torch.empty(1, 3, 256, 256)).shape) for network in networks]
    found = [parameters(network) for network in networks]
    assert found == [11_378_179, 7_837_699, 2_764_737], f"found {found}"
    assert shapes == [(1, 3, 256, 256), (1, 3, 256, 256), (1, 1, 30, 30)], f"found {shapes}"
