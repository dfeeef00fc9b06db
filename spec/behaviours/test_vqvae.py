"""Vector-quantized auto-encoder.  van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937."""

import pytest
import torch
from torch import nn

from impl.models.vqvae import VQVAE, VectorQuantizer, VectorQuantizerEMA
from spec.data import digits

pytestmark = pytest.mark.item("vq-vae")

BOTH = pytest.mark.parametrize("make", [VectorQuantizer, VectorQuantizerEMA])


def train_on_digits(make, commitment_cost=0.25, straight_through=True, seed=0):
    """What `measured` finds of unseen digits after 15 epochs."""
    return measured(trained(make, commitment_cost, straight_through, seed), digits()[2])


def trained(make, commitment_cost=0.25, straight_through=True, seed=0):
    """A digit in 8 indices into 32 codes of 4 dimensions: 40 bits."""
    images = digits()[0]
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.Unflatten(1, (4, 8)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))
    model = VQVAE(encoder, decoder, make(32, 4, commitment_cost=commitment_cost)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(15):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            x = images[batch]
            if straight_through:
                reconstruction, loss, _, _ = model(x)
            else:
                z_q, loss, _, _ = model.quantizer(model.encoder(x))
                reconstruction = model.decoder(z_q.detach())
            optimizer.zero_grad()
            ((reconstruction - x).square().sum(1).mean() + 32 * loss).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def measured(model, x):
    """Squared error of a digit, perplexity, and the mean square of the encoder's elements."""
    reconstruction, _, _, perplexity = model(x)
    error = (reconstruction - x).square().sum(1).mean().item()
    return error, perplexity.item(), model.encoder(x).square().mean().item()


@BOTH
def test_forty_bits_tell_a_digit(make):
    """After 15 epochs 8 indices of 5 bits reconstruct unseen digits, and most of the 32 codes are in use.

    Measured on 4 seeds: squared error 1.63 to 1.74 by gradient and 1.38 to 1.46 by averages, perplexity 25.7 to 29.2;
    the data's variance is 4.7. Without the straight-through gradient error 4.1 to 4.5 and perplexity 12 to 20; with
    both terms of the loss cut at the encoder 2.5 to 3.8; with averages that never move 2.9 to 3.1 and 13 to 16.

    Source: van den Oord et al. 2017, §4.1: reconstructions from discrete codes without collapse of the posterior.
    """
    error, perplexity, _ = train_on_digits(make)
    assert error < 1.85, f"expected a squared error below 1.85, found {error:.2f}"
    assert perplexity > 23, f"expected a perplexity above 23 of 32 codes, found {perplexity:.1f}"


def test_averages_learn_the_codebook_faster():
    """After the same 15 epochs the codebook of averages reconstructs better than that of gradients.

    Measured on 4 seeds: squared error 1.38 to 1.46 against 1.63 to 1.74; with averages that never move 2.9 to 3.1.

    Source: van den Oord et al. 2017, appendix A.1; the authors' code, which says it of its averages.
    """
    by_gradient, by_averages = (train_on_digits(make)[0] for make in (VectorQuantizer, VectorQuantizerEMA))
    assert by_averages < by_gradient - 0.08, f"expected a lower error, found {by_averages:.2f}, {by_gradient:.2f}"


@BOTH
def test_without_the_straight_through_gradient_the_encoder_learns_nothing(make):
    """An encoder that gets no gradient from the decoder leaves the error near the data's variance.

    Measured on 3 seeds: squared error 4.15 to 4.53; with the gradient 1.38 to 1.74; the data's variance is 4.7.

    Source: van den Oord et al. 2017, §3.2.
    """
    cut = train_on_digits(make, straight_through=False)[0]
    assert 3.5 < cut < 5.2, f"expected an error near 4.4, found {cut:.2f}"


@BOTH
def test_the_weight_of_commitment_hardly_matters(make):
    """With β = 0.1 and β = 2 reconstructions are of one quality.

    Measured on 3 seeds: squared error 1.68 to 1.89 and 1.13 to 1.17 by gradient, 1.42 to 1.57 and 1.25 to 1.32 by
    averages; with β = 0 2.46 to 3.76 and 1.83 to 1.95.

    Source: van den Oord et al. 2017, §3.2: results did not vary for β from 0.1 to 2.0.
    """
    for beta in (0.1, 2.0):
        error = train_on_digits(make, beta)[0]
        assert error < 2.1, f"expected an error below 2.1 with β = {beta}, found {error:.2f}"


@BOTH
def test_without_commitment_the_encoder_runs_away(make):
    """With β = 0 nothing keeps the encoder at its codes: its output grows more than tenfold, that of β = 0.25 does not.

    Measured on 3 seeds, mean square of the encoder's elements: β = 0 2.9 to 8.1, β = 0.25 0.08 to 0.15.

    Source: van den Oord et al. 2017, §3.2: the embedding space has no scale of its own, and grows where codes do not
    train as fast as the encoder.
    """
    free, held = (train_on_digits(make, beta)[2] for beta in (0.0, 0.25))
    assert free > 1.5, f"expected a mean square above 1.5 without commitment, found {free:.2f}"
    assert held < 0.5, f"expected a mean square below 0.5 with β = 0.25, found {held:.2f}"


@BOTH
def test_a_prior_of_the_indices_samples_digits(make):
    """Indices sampled from a chain that was counted on the data's decode to images nearer to digits than uniform ones.

    Squared distance of 500 samples to the nearest of the training digits. Measured on 3 seeds: chain 1.74 to 1.85,
    uniform 2.54 to 2.91, reconstructions of unseen digits 1.15 to 1.20.

    Source: van den Oord et al. 2017, §3.3: the prior is uniform in training and is fitted to the indices afterwards.
    """
    model, (images, _, _, _) = trained(make), digits()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        indices = model.encode(images)
        chain = indices[torch.randint(len(indices), (500,), generator=generator)]
        for k in range(1, 8):
            pairs = indices[:, k - 1] * 32 + indices[:, k]
            counts = torch.bincount(pairs, minlength=1024).view(32, 32) + 1e-3
            chain[:, k] = torch.multinomial(counts[chain[:, k - 1]], 1, generator=generator)[:, 0]
        uniform = torch.randint(32, (500, 8), generator=generator)
        found, wild = (torch.cdist(model.decode(i), images).square().amin(1).mean().item() for i in (chain, uniform))
    assert found < 2.1, f"expected samples within 2.1 of a digit, found {found:.2f}"
    assert found < wild - 0.4, (
        f"expected samples much nearer to digits than uniform ones, found {found:.2f}, {wild:.2f}"
    )


def test_small_batches_find_the_centres_of_a_mixture():
    """300 batches of 32 points of four Gaussians bring every code to its centre, by averages and by gradient alike.

    Centres 6 standard deviations apart, codes initialised about 2 away. Measured on 5 seeds: the worst of four codes
    ends 0.09 to 0.23 away by averages, 0.11 to 0.22 by gradient; codes that never move stay 1.8 to 3.4 away.

    Source: van den Oord et al. 2017, §3.2 and appendix A.1: online k-means.
    """
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]])
    for make in (VectorQuantizer, VectorQuantizerEMA):
        generator = torch.Generator().manual_seed(0)
        quantizer = make(4, 2, **({"decay": 0.9} if make is VectorQuantizerEMA else {})).train()
        start = centres + 1.5 * torch.randn(4, 2, generator=generator)
        state = quantizer.state_dict()
        quantizer.load_state_dict(state | {name: start for name in ("codebook", "cluster_sum") if name in state})
        parameters = list(quantizer.parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.05) if parameters else None
        for _ in range(300):
            points = centres[torch.randint(4, (32,), generator=generator)] + torch.randn(32, 2, generator=generator)
            loss = quantizer(points)[1]
            if optimizer:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        away = (quantizer.codebook.detach() - centres).norm(dim=1).max().item()
        assert away < 0.5, f"expected every code within 0.5 of its centre, found one {away:.2f} away: {make.__name__}"
