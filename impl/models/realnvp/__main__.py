"""python -m impl.models.realnvp --out FOLDER: a density of digits, samples of it, and digits that morph in z."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...layers.flows import bits_per_dim, dequantize
from ...optim.adamw import AdamW
from . import RealNVP


def main(given: list[str] | None = None) -> None:
    """Trains on dequantised digits of 17 grey values; writes samples and interpolations."""
    options = arguments("realnvp", "A flow of digits: samples, and digits that morph in z.", steps=400, given=given)
    torch.manual_seed(options.seed)
    model = RealNVP((1, 8, 8), num_scales=2, hidden_channels=32, num_blocks=1)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(options.seed)
    images = (digits()[0] * 16).round()  # grey values 0 to 16

    def step():
        grey = images[torch.randint(len(images), (64,), generator=generator)]
        bits = bits_per_dim(model.log_prob(dequantize(grey, 17, generator)), 64, levels=17).mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
        return {"bits per dimension, 4.09 of uniform noise": bits.item()}

    train(step, {"model": model, "optimizer": optimizer}, options.steps, generator, options.out)
    with torch.no_grad():
        save_grid(model.sample(50, generator), options.out / "samples.png")
        z, _ = model(dequantize(images[:10], 17, generator))
        start, end = z[:5, None], z[5:, None]
        angle = torch.linspace(0, torch.pi / 2, 10)[:, None]  # along a circle: the norm of z stays that of the prior
        path = start * angle.cos() + end * angle.sin()
        save_grid(model.inverse(path.flatten(0, 1))[0], options.out / "interpolations.png")


if __name__ == "__main__":
    main()
