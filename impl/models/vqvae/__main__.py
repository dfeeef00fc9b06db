"""python -m impl.models.vqvae --out FOLDER: digits as 4 × 4 indices into 32 codes, and a PixelCNN that samples them."""

import math

import torch
from torch import nn

from ...demonstration import arguments, digits, save_grid, train
from ...layers.activation import SiLU
from ...layers.convolution import Conv2d
from ...layers.transposed_convolution import ConvTranspose2d
from ...optim.adamw import AdamW
from ..pixelcnn import PixelCNN
from . import VQVAE, VectorQuantizerEMA


def main(given: list[str] | None = None) -> None:
    """Trains on digits, 16 indices into 32 codes a digit; then a prior of the indices; writes pictures."""
    options = arguments("vqvae", "Digits in 80 bits: 4 × 4 indices into 32 codes.", steps=1500, given=given)
    torch.manual_seed(options.seed)
    encoder = nn.Sequential(Conv2d(1, 32, 4, stride=2, padding=1), SiLU(), Conv2d(32, 32, 3, padding=1), SiLU())
    decoder = nn.Sequential(Conv2d(8, 32, 3, padding=1), SiLU(), ConvTranspose2d(32, 1, 4, stride=2, padding=1))
    model = VQVAE(encoder.append(Conv2d(32, 8, 1)), decoder, VectorQuantizerEMA(32, 8))
    optimizer = AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(options.seed)
    images, _ = digits()

    def step():
        x = images[torch.randint(len(images), (64,), generator=generator)]
        output, loss, _, perplexity = model(x)
        error = (output - x).square().sum((1, 2, 3)).mean()
        optimizer.zero_grad()
        (error + 128 * loss).backward()
        optimizer.step()
        return {"squared error of a digit": error.item(), "perplexity": perplexity.item()}

    train(step, {"model": model, "optimizer": optimizer}, options.steps, generator, options.out)
    with torch.no_grad():
        indices = model.eval().encode(images)
        rows = [row for n in range(0, 50, 10) for row in (images[n : n + 10], model.decode(indices[n : n + 10]))]
        save_grid(torch.cat(rows), options.out / "reconstructions.png")
    prior = PixelCNN(1, 32, channels=32, num_layers=3, first_kernel_size=3)
    prior_optimizer = AdamW(prior.parameters(), lr=3e-3)

    def prior_step():
        loss = -prior.log_prob(indices[torch.randint(len(indices), (64,), generator=generator), None]).mean()
        prior_optimizer.zero_grad()
        loss.backward()
        prior_optimizer.step()
        return {"bits of a digit, 80 at first": loss.item() / math.log(2)}

    folder = options.out / "prior"
    folder.mkdir(exist_ok=True)
    train(prior_step, {"prior": prior, "optimizer": prior_optimizer}, options.steps, generator, folder)
    with torch.no_grad():
        uniform = torch.randint(32, (50, 4, 4), generator=generator)
        save_grid(model.decode(uniform), options.out / "uniform_prior.png")
        save_grid(model.decode(prior.sample(50, 4, generator=generator)[:, 0]), options.out / "samples.png")


if __name__ == "__main__":
    main()
