"""Trains Glow on digits and draws samples at three temperatures."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...layers.flows import dequantize
from ...optim.adamw import AdamW
from . import Glow, bits_per_dim


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.glow`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("glow", "Glow on digits.", 800, given)
    images = (digits()[0] * 16).round()  # grey values 0 to 16
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    model = Glow((1, 8, 8), levels=2, steps=4, hidden_channels=48)
    model.initialize(dequantize(images[:256], 17, generator))
    optimizer = AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def step():
        x = dequantize(images[torch.randint(len(images), (64,), generator=generator)], 17, generator)
        bits = bits_per_dim(model.log_prob(x), 64, 17).mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
        return {"bits per dimension, 4.09 of uniform noise": bits.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        rows = [model.sample(10, temperature, generator) for temperature in (0.5, 0.7, 1.0)]
    save_grid(torch.cat(rows), chosen.out / "samples.png", scale=8)
    print(f"{chosen.out / 'samples.png'} shows samples at temperatures 0.5, 0.7 and 1")


if __name__ == "__main__":
    main()
