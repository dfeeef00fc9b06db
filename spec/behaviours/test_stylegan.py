"""StyleGAN and StyleGAN2.  Karras, Laine & Aila 2018, arXiv:1812.04948; Karras et al. 2019, arXiv:1912.04958."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from impl.models.stylegan import PathLengthPenalty, StyleGAN2Discriminator, StyleGAN2Generator, r1_penalty
from spec.data import digits

pytestmark = pytest.mark.item("stylegan")


@cache
def train_on_digits(seed: int = 0, steps: int = 150, batch: int = 32):
    """StyleGAN2 on digits, at most 16 channels: the untrained and the trained generator, in evaluation.

    The loss that does not saturate, R₁ with γ = 0.5 at every fourth step, Adam with the paper's betas (0, 0.99).
    """
    torch.manual_seed(seed)
    sizes = {"resolution": 8, "channel_base": 128, "channel_max": 16, "image_channels": 1}
    network, critic = StyleGAN2Generator(16, 16, num_layers=2, **sizes), StyleGAN2Discriminator(**sizes)
    untrained = StyleGAN2Generator(16, 16, num_layers=2, **sizes)
    untrained.load_state_dict(network.state_dict())
    x = digits()[0].reshape(-1, 1, 8, 8) * 2 - 1
    networks = (network, critic)
    optimizers = [torch.optim.Adam(n.parameters(), lr=3e-3, betas=(0.0, 0.99), foreach=True) for n in networks]
    for step in range(steps):
        real = x[torch.randint(len(x), (batch,))]
        loss = softplus(critic(network(torch.randn(batch, 16)).detach())).mean() + softplus(-critic(real)).mean()
        if step % 4 == 0:
            loss = loss + r1_penalty(critic, real, gamma=0.5, interval=4)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        softplus(-critic(network(torch.randn(batch, 16)))).mean().backward()
        optimizers[0].step()
    return untrained.eval(), network.eval()


@torch.no_grad()
def samples(network, psi: float = 1.0):
    z = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    return ((network(z, truncation_psi=psi) + 1) / 2).flatten(1).double()


def frechet_distance(a, b) -> float:
    """‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½), of pixels."""
    product = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * product).item()


def test_generator_learns_digits():
    """Trained against its discriminator for 150 steps, the generator's images come near to the digits in distribution.

    500 samples against 500 digits that training did not see.  Measured on 3 seeds: 15.4 → 6.1, 25.5 → 9.8, 102 → 6.7,
    ratios of 0.39, 0.38 and 0.06; 1 of one that no gradient
    reaches.

    Source: Karras et al. 2019, §5 (the Fréchet distance falls); at a scale of seconds, in pixels.
    """
    real = digits()[2].double()
    before, after = (frechet_distance(samples(network), real) for network in train_on_digits())
    assert after < 0.6 * before, f"expected less than 0.6 of the initial distance {before:.2f}, found {after:.2f}"


def test_truncation_trades_variety_for_the_average():
    """With smaller ψ the trained generator's images vary less, down to one image at ψ = 0.

    Measured on 3 seeds: at ψ = 0.3 and 0.6 shares of 0.14 to 0.15 and 0.46 to 0.47 of the variance at ψ = 1; with ψ
    applied to z, whose length f ignores, all shares are 1.

    Source: Karras, Laine & Aila 2018, appendix B and figure 8.
    """
    network = train_on_digits()[1]
    variances = [samples(network, psi).var(0).sum().item() for psi in (0.0, 0.3, 0.6, 1.0)]
    shares = [v / variances[-1] for v in variances]
    # The noise is fixed: without z there is one image.
    assert shares[0] < 1e-6, f"expected one image at ψ = 0, found a share {shares[0]:.3g} of the variance"
    assert shares[1] < 0.6 * shares[2] < 0.6, f"expected variances that grow with ψ, found {shares}"


class Critic(nn.Module):
    """D(x) = ψ x."""

    def __init__(self):
        super().__init__()
        self.psi = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.psi * x


def dirac_gan(gamma: float, steps: int = 400, rate: float = 0.1, real: float = 0.0) -> float:
    """Data at 0, a generator at θ, from 1: the largest |θ| of the last 150 steps of alternating gradient descent."""
    critic, theta, seen = Critic(), torch.tensor([[1.0]], requires_grad=True), []
    data = torch.full((2, 1), real)
    for _ in range(steps):
        loss = softplus(critic(theta.detach())).mean() + softplus(-critic(data)).mean()
        loss = loss + r1_penalty(critic, data, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, critic.psi)
        critic.psi.data -= rate * gradient
        (gradient,) = torch.autograd.grad(softplus(-critic(theta)).mean(), theta)
        theta.data -= rate * gradient
        seen.append(theta.abs().item())
    return max(seen[-150:])


def test_r1_makes_the_simplest_game_converge():
    """A generator of one point and a linear discriminator circle around the data without R₁, and settle there with it.

    Measured: |θ| up to 0.50 in the last 150 of 400 steps without it, 0.00014 with γ = 1; there is nothing random.

    Source: Mescheder, Geiger & Nowozin 2018, arXiv:1801.04406, §2 (Dirac-GAN), figure 3 and theorem 4.1.
    """
    without, settled = dirac_gan(0.0), dirac_gan(1.0)
    assert without > 0.3, f"expected a circle without the penalty, found |θ| at most {without:.3f}"
    assert settled < 0.02, f"expected |θ| below 0.02 with it, found {settled:.3f}"


def unevenness(network) -> float:
    """Standard deviation over mean of ‖J_wᵀ y‖, over 256 samples of w and of noise."""
    generator = torch.Generator().manual_seed(1)
    ws = network.styles(torch.randn(256, 8, generator=generator))
    y = torch.randn(256, 1, 8, 8, generator=generator)
    (gradient,) = torch.autograd.grad((network.synthesis(ws) * y).sum(), ws)
    lengths = gradient.square().sum(-1).mean(-1).sqrt()
    return (lengths.std() / lengths.mean()).item()


def path_lengths_in_training(seed: int, weight: float = 1.0, steps: int = 120):
    """The unevenness of path lengths before and after training by the penalty alone."""
    torch.manual_seed(seed)
    network = StyleGAN2Generator(
        8, 8, 8, channel_base=64, channel_max=8, image_channels=1, num_layers=2, mixing_prob=0.0
    )
    penalty, optimizer = PathLengthPenalty(), torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.0, 0.99))
    before = unevenness(network.eval())
    network.train()
    for _ in range(steps):
        ws = network.styles(torch.randn(16, 8))
        optimizer.zero_grad()
        (weight * penalty(network.synthesis(ws), ws)).backward()
        optimizer.step()
    return before, unevenness(network.eval())


def test_path_length_penalty_makes_steps_in_w_even():
    """Training by the penalty makes the lengths ‖J_wᵀ y‖ more alike over w and y, relative to their mean.

    Measured on 3 seeds: 0.376 → 0.305, 0.373 → 0.303, 0.475 → 0.330, ratios of 0.70 to 0.81; untrained, 1.

    Source: Karras et al. 2019, §3.2 and figure 4: the distribution of path lengths gets narrower.
    """
    before, after = path_lengths_in_training(0)
    assert after < 0.9 * before, f"expected less than 0.9 of the initial {before:.3f}, found {after:.3f}"
