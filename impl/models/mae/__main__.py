"""Trains a masked autoencoder on digits and draws what it paints where three quarters are hidden."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import MaskedAutoencoder, unpatchify


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.mae`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("mae", "A masked autoencoder on digits.", 2500, given)
    images, _ = digits()
    mean, spread = images.mean(), images.std()
    images = (images - mean) / spread
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(images), generator=generator)
    seen, new = images[order[:1300]], images[order[1300:]]
    torch.manual_seed(chosen.seed)
    model = MaskedAutoencoder(8, 2, 64, 2, 4, decoder_width=32, decoder_layers=1, decoder_heads=4, channels=1)
    optimizer = AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))

    def step():
        k = torch.randint(len(seen), (128,), generator=generator)
        loss = model.loss(seen[k], 0.75, torch.rand(128, 16, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    shown = new[:10]
    with torch.no_grad():
        prediction, hidden = model.eval()(shown, 0.75, torch.rand(10, 16, generator=generator))
    mask = unpatchify(hidden[:, :, None].expand(-1, -1, 4), 2, (4, 4))
    painted = torch.where(mask, unpatchify(prediction, 2, (4, 4)), shown)
    grey = torch.where(mask, (0.5 - mean) / spread, shown)
    rows = torch.cat([grey, painted, shown]) * spread + mean
    save_grid(rows, chosen.out / "painted.png", scale=8)
    print(f"{chosen.out / 'painted.png'} shows new digits with three quarters hidden, painted, and as they are")


if __name__ == "__main__":
    main()
