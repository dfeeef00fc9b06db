"""Trains MoCo on digits without labels, then names them with 50; draws the features."""

import torch
from torch import nn

from ...demonstration import Encoder, accuracy_of_a_probe, arguments, digits, save_points, train
from ...layers.linear import Linear
from ...optim.adamw import AdamW
from ..simclr import random_crop, random_shades
from . import MoCo, info_nce_loss


class Projected(nn.Module):
    """The encoder and a projection of two layers."""

    def __init__(self):
        super().__init__()
        self.encoder, self.hidden, self.projection = Encoder(), Linear(64, 64), Linear(64, 32)

    def forward(self, x):
        return self.projection(self.hidden(self.encoder(x)).relu())


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.moco`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("moco", "MoCo on digits without labels.", 400, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, known, new = order[:1300], order[:50], order[1300:]
    torch.manual_seed(chosen.seed)
    model = MoCo(Projected(), 32, queue_size=1024, momentum=0.99, temperature=0.1)
    optimizer = AdamW(model.encoder_q.parameters(), lr=2e-3)

    def view(x):
        x = random_shades(random_crop(x, generator, smallest=0.5), generator)
        return x + 0.1 * torch.randn(x.shape, generator=generator)

    def step():
        x = images[seen[torch.randint(len(seen), (128,), generator=generator)]]
        loss = info_nce_loss(model(view(x), view(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        h = model.eval().encoder_q.encoder(images)
    for name, features in (("pixels", images.flatten(1)), ("features", h)):
        right = accuracy_of_a_probe(features, labels, known, new)
        print(f"{right:.3f} of new digits named by 50 labels from {name}")
    save_points(h[new], labels[new], chosen.out / "features.png")
    print(f"{chosen.out / 'features.png'} shows what was learned of new digits")


if __name__ == "__main__":
    main()
