"""Trains SimCLR on digits without labels, then names them with 50; draws the views and the features."""

import torch
from torch import nn

from ...demonstration import arguments, digits, save_grid, save_points, train
from ...layers.convolution import Conv2d
from ...layers.normalization import BatchNorm2d
from ...optim.adamw import AdamW
from . import SimCLR, random_crop, random_shades


class Encoder(nn.Module):
    """Three convolutions with batch normalization and ReLU, and the mean over the image."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 32, 1), (32, 64, 2), (64, 64, 2))
        self.convolutions = nn.ModuleList(Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.norms = nn.ModuleList(BatchNorm2d(width) for _, width, _ in sizes)

    def forward(self, x):
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x)).relu()
        return x.mean((2, 3))


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
        h = model.eval()(images)[0].double()
    for name, features in (("pixels", images.flatten(1).double()), ("features", h)):
        print(f"{_probe(features, labels, known, new):.3f} of new digits named by 50 labels from {name}")
    shown = images[new[:10]]
    save_grid(torch.cat([shown, *(view(shown) for _ in range(4))]), chosen.out / "views.png")
    save_points(h[new], labels[new], chosen.out / "features.png")
    print(f"{chosen.out / 'views.png'} shows digits and views of them, {chosen.out / 'features.png'} what was learned")


def _probe(x, labels, known, new):
    """The share of new digits that ridge regression names, from the features of the known ones."""
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    classes = torch.eye(10, dtype=x.dtype)[labels[known]]
    kernel = x[known] @ x[known].T + 10 * torch.eye(len(known), dtype=x.dtype)
    weights = x[known].T @ torch.linalg.solve(kernel, classes)
    return ((x[new] @ weights).argmax(1) == labels[new]).double().mean().item()


if __name__ == "__main__":
    main()
