"""Trains SimCLR on digits without labels, then names them with 50; draws the views and the features."""

import torch

from ...demonstration import Encoder, accuracy_of_a_probe, arguments, digits, save_grid, save_points, train
from ...optim.adamw import AdamW
from . import SimCLR, random_crop, random_shades


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.simclr`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("simclr", "SimCLR on digits without labels.", 400, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, known, new = order[:1300], order[:50], order[1300:]
    torch.manual_seed(chosen.seed)
    model = SimCLR(Encoder(), 64, 32)
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def view(x):
        x = random_shades(random_crop(x, generator, smallest=0.5), generator)
        return x + 0.1 * torch.randn(x.shape, generator=generator)

    def step():
        x = images[seen[torch.randint(len(seen), (128,), generator=generator)]]
        loss = model.loss(view(x), view(x), temperature=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        h = model.eval()(images)[0]
    for name, features in (("pixels", images.flatten(1)), ("features", h)):
        right = accuracy_of_a_probe(features, labels, known, new)
        print(f"{right:.3f} of new digits named by 50 labels from {name}")
    shown = images[new[:10]]
    save_grid(torch.cat([shown, *(view(shown) for _ in range(4))]), chosen.out / "views.png")
    save_points(h[new], labels[new], chosen.out / "features.png")
    print(f"{chosen.out / 'views.png'} shows digits and views of them, {chosen.out / 'features.png'} what was learned")


if __name__ == "__main__":
    main()
